//! Classes as texts: their names in the sentences that CLIP was measured on ImageNet with.

use std::path::Path;

use burn::tensor::Tensor;
use semanticist::{Error, Result};
use sha2::{Digest, Sha256};

use super::{Clip, ClipTokenizer, unit};

/// The sentences that names are put into, one a line, `{}` where the name goes: the 80 of
/// openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb, in its order.
pub const TEMPLATES: &str = include_str!("templates.txt");

/// What a class is in the common space: the direction of the mean of its sentences' directions, as in the notebook of
/// [`TEMPLATES`].
///
/// # Shapes
/// `[1, E]`, of length 1
///
/// # Errors
/// If a sentence is too long for the network.
pub fn class_embedding(network: &Clip, tokenizer: &ClipTokenizer, name: &str) -> Result<Tensor<2>> {
    let sentences = TEMPLATES.lines().map(|template| template.replace("{}", name));
    let rows =
        sentences.map(|text| tokenizer.pieces(&text, network.context())).collect::<Result<Vec<_>>>()?;
    Ok(unit(unit(network.text_features(&rows)).mean_dim(0)))
}

/// Names of classes from a file: one a line, in the order of the labels.
///
/// # Errors
/// If the file cannot be read, has no lines, or one that is empty.
pub fn read_names(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    if names.is_empty() {
        return Err(Error::file(path, "has no names; expected one class a line, in the order of the labels"));
    }
    // Two of ImageNet's published names are there twice.
    if let Some(number) = names.iter().position(String::is_empty) {
        let problem =
            format!("line {} is empty; expected one class a line, in the order of the labels", number + 1);
        return Err(Error::file(path, problem));
    }
    Ok(names)
}

/// Names that data has for its classes as words: of several names the first, and spaces for `_`.
///
/// # Errors
/// If it has none, or numbers of WordNet, which are no words.
pub fn names_of_data(classes: Option<&[String]>) -> Result<Vec<String>> {
    let advice = "give a file of names with --class-names, one class a line, in the order of the labels";
    let Some(classes) = classes else {
        return Err(Error::Data(format!("the data has no names of classes; {advice}")));
    };
    if let Some(id) = classes.iter().find(|name| is_wordnet_id(name)) {
        return Err(Error::Data(format!(
            "the classes of the data are called {id} and the like, numbers of WordNet that say nothing to CLIP; {advice} (of folders \
             the alphabetical one)"
        )));
    }
    let words =
        |name: &String| name.split(',').next().unwrap_or_default().replace('_', " ").trim().to_string();
    Ok(classes.iter().map(words).collect())
}

/// 16 hexadecimal digits that names in their order have alone.
pub fn fingerprint(names: &[String]) -> String {
    let mut sha = Sha256::new();
    for name in names {
        sha.update((name.len() as u64).to_le_bytes());
        sha.update(name);
    }
    sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a name is like `n01440764`, which ImageNet's folders have.
fn is_wordnet_id(name: &str) -> bool {
    let digits = name.strip_prefix('n').unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eighty_sentences_and_each_has_one_place_for_the_name() {
        let templates: Vec<&str> = TEMPLATES.lines().collect();
        assert_eq!(templates.len(), 80);
        assert!(templates.iter().all(|template| template.matches("{}").count() == 1));
        assert_eq!((templates[0], templates[79]), ("a bad photo of a {}.", "a tattoo of the {}."));
    }

    #[test]
    fn names_of_data_become_words() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            names_of_data(Some(&names)).map_err(|error| error.to_string())
        };
        assert_eq!(
            names(&["golden_retriever", "owl, bird of Minerva"]).unwrap(),
            ["golden retriever", "owl"]
        );
        let error = names(&["cat", "n01440764"]).unwrap_err();
        assert!(error.contains("n01440764") && error.contains("--class-names"), "{error}");
        assert!(names(&["n0144076", "n014407641"]).is_ok());
        let prints =
            [["ab", "c"], ["a", "bc"], ["c", "ab"]].map(|names| fingerprint(&names.map(String::from)));
        assert!(prints[0] != prints[1] && prints[0] != prints[2] && prints[0].len() == 16, "{prints:?}");
        assert!(names_of_data(None).unwrap_err().to_string().contains("--class-names"));
    }

    #[test]
    fn names_in_files_are_one_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.txt");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_names(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read("great white shark\r\n tench\n").unwrap(), ["great white shark", "tench"]);
        assert_eq!(read("missile\nmissile").unwrap().len(), 2);
        for (text, part) in [("", "has no names"), ("a\n\nb", "line 2 is empty")] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
