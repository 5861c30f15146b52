//! How much of a data set may be broken before work on it stops.

use std::collections::HashSet;

use semanticist::{Error, Result};

/// How many broken images an error lists.
const LISTED: usize = 20;

/// The distinct broken images of a data set; more than 1 % of it is an error.
#[derive(Debug)]
pub struct Broken {
    total: usize,
    seen: HashSet<String>,
    items: Vec<(String, String)>,
}

impl Broken {
    /// For a data set of `total` images.
    pub fn new(total: usize) -> Self {
        Self { total, seen: HashSet::new(), items: Vec::new() }
    }

    /// Notes a broken image; one that is already known does not count again.
    ///
    /// Fails, with the list, once more than 1 % of the data set is broken.
    pub fn add(&mut self, name: String, problem: String) -> Result<()> {
        if self.seen.insert(name.clone()) {
            self.items.push((name, problem));
        }
        if self.items.len() * 100 > self.total { Err(self.too_many()) } else { Ok(()) }
    }

    /// Each broken image and what is wrong with it, in the order found.
    pub fn items(&self) -> &[(String, String)] {
        &self.items
    }

    fn too_many(&self) -> Error {
        let (found, total) = (self.items.len(), self.total);
        let mut message = format!(
            "{found} of {total} images are broken, more than the 1 % that is skipped; repair or remove them:"
        );
        for (name, problem) in self.items.iter().take(LISTED) {
            message.push_str(&format!("\n  {name}: {problem}"));
        }
        if found > LISTED {
            message.push_str(&format!("\n  and {} more", found - LISTED));
        }
        Error::Data(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_percent_is_an_error_that_names_them() {
        let mut broken = Broken::new(250);
        for _ in 0..5 {
            broken.add("a".into(), "empty".into()).unwrap();
        }
        broken.add("b".into(), "cut".into()).unwrap();
        let error = broken.add("c".into(), "text".into()).unwrap_err().to_string();
        assert!(error.starts_with("3 of 250 images are broken"), "{error}");
        assert!(error.ends_with("\n  a: empty\n  b: cut\n  c: text"), "{error}");
        assert_eq!(broken.items().len(), 3);
    }
}
