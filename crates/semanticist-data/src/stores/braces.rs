//! What braces in an address stand for.

use semanticist::{Error, Result};

/// More addresses than this are a mistake in the braces.
const MOST: usize = 1_000_000;

/// All addresses that one with braces stands for, in order: `{000..120}` counts, with as many digits as its ends, and
/// `{a,b}` lists.
///
/// # Errors
/// If a brace is not closed, or holds neither.
pub(super) fn expand(address: &str) -> Result<Vec<String>> {
    let Some((before, rest)) = address.split_once('{') else { return Ok(vec![address.to_string()]) };
    let wrong = |problem: &str| {
        Error::Data(format!(
            "{address}: {problem}; expected braces such as shard-{{000000..000146}}.tar or {{train,extra}}"
        ))
    };
    let (inside, after) = rest.split_once('}').ok_or_else(|| wrong("a brace is not closed"))?;
    let alternatives: Vec<String> = match inside.split_once("..") {
        Some((first, last)) => {
            let number =
                |text: &str| text.parse::<usize>().map_err(|_| wrong(&format!("{text:?} is no number")));
            let (from, to) = (number(first)?, number(last)?);
            if to < from || to - from >= MOST {
                return Err(wrong(&format!("{{{inside}}} does not count upwards to at most {MOST}")));
            }
            let digits = if first.len() == last.len() { first.len() } else { 0 };
            (from..=to).map(|number| format!("{number:0digits$}")).collect()
        }
        None if inside.contains(',') => inside.split(',').map(String::from).collect(),
        None => return Err(wrong(&format!("{{{inside}}} is neither a range nor a list"))),
    };
    let rest = expand(after)?;
    if alternatives.len().saturating_mul(rest.len()) > MOST {
        return Err(wrong(&format!("the braces stand for more than {MOST} addresses")));
    }
    Ok(alternatives
        .iter()
        .flat_map(|one| rest.iter().map(move |rest| format!("{before}{one}{rest}")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_count_and_list_as_in_a_shell() {
        let expanded = |text| expand(text).unwrap();
        assert_eq!(expanded("s3://b/a.tar"), ["s3://b/a.tar"]);
        assert_eq!(expanded("h/{098..101}.tar"), ["h/098.tar", "h/099.tar", "h/100.tar", "h/101.tar"]);
        assert_eq!(expanded("{9..10}"), ["9", "10"]);
        assert_eq!(expanded("{a,b}/{0..1}x"), ["a/0x", "a/1x", "b/0x", "b/1x"]);
        for (text, part) in [
            ("a{0..1", "not closed"),
            ("{x}", "neither"),
            ("{b..a}", "no number"),
            ("{2..1}", "upwards"),
            ("{0..999}{0..9999}", "more than"),
        ] {
            let error = expand(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
