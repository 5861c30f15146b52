//! Lists of images: JSON lines with the path of each, beside the list or absolute, and its class if it has one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use semanticist::{Error, Result};
use serde::Deserialize;

/// One line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    /// The image file.
    pub image: PathBuf,
    /// The number of its class.
    pub label: Option<i64>,
    /// Or the name.
    pub class: Option<String>,
}

/// Whether a file is read as a list.
pub(super) fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"))
}

/// Reads a list; paths are completed by the folder that it lies in.
///
/// # Errors
/// Names the first line that is not one, or says a class twice.
pub(super) fn read(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut lines = Vec::new();
    let mut numbers: BTreeMap<String, i64> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let explain = |problem: String| {
            let expected =
                r#"expected {"image": "a/b.jpg"} and, if there are classes, "label": 3 or "class": "cat""#;
            Error::file(path, format!("line {number}: {problem}; {expected}"))
        };
        let line: Line = serde_json::from_str(line).map_err(|error| explain(error.to_string()))?;
        if let (Some(label), Some(class)) = (line.label, &line.class)
            && *numbers.entry(class.clone()).or_insert(label) != label
        {
            return Err(explain(format!("{class} has the label {label} here and {} above", numbers[class])));
        }
        lines.push(Line { image: folder.join(line.image), ..line });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_beside_the_list_and_wrong_lines_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.jsonl");
        fs::write(
            &path,
            "{\"image\": \"a.png\", \"label\": 3}\n\n{\"image\": \"/b.png\", \"class\": \"cat\"}\n",
        )
        .unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines[0].image, folder.path().join("a.png"));
        assert_eq!((lines[0].label, lines[1].image.as_path()), (Some(3), Path::new("/b.png")));
        for (text, part) in [
            ("{\"image\": \"a.png\"}\n{\"file\": \"a.png\"}", "line 2"),
            ("a.png", "expected {\"image\""),
            (
                "{\"image\":\"a\",\"label\":1,\"class\":\"x\"}\n{\"image\":\"a\",\"label\":2,\"class\":\"x\"}",
                "2 here and 1 above",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
