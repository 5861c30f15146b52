//! Texts as pieces of CLIP's vocabulary.

use std::path::Path;

use semanticist::{Error, Result};
use tokenizers::Tokenizer;

use super::Clip;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// What cuts texts into pieces: the file `tokenizer.json` beside a CLIP of `transformers`, the same for all of OpenAI's and
/// OpenCLIP's.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
}

impl ClipTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If it cannot be read, or is not one of CLIP: with a start and an end of texts, whose number is the highest.
    pub fn open(path: &Path) -> Result<Self> {
        const EXPECTED: &str = "expected tokenizer.json of openai/clip-vit-base-patch32 (huggingface.co), which serves all CLIPs";
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| {
            Error::file(path, format!("cannot be read as a tokenizer ({error}); {EXPECTED}"))
        })?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).expect("not to cut texts is always possible");
        let (start, end) = (tokenizer.token_to_id(START), tokenizer.token_to_id(END));
        match (start, end) {
            (Some(start), Some(end)) if end as usize + 1 == tokenizer.get_vocab_size(true) => {
                Ok(Self { tokenizer, start, end })
            }
            _ => Err(Error::file(path, format!("is not CLIP's: {END} is not its last piece; {EXPECTED}"))),
        }
    }

    /// How many pieces its vocabulary has.
    pub fn vocabulary(&self) -> usize {
        self.end as usize + 1
    }

    /// Checks that a network has the same vocabulary.
    ///
    /// # Errors
    /// If it has another number of pieces.
    pub fn check(&self, network: &Clip) -> Result<()> {
        let (found, expected) = (self.vocabulary(), network.vocabulary());
        if found == expected {
            return Ok(());
        }
        Err(Error::Data(format!(
            "the tokenizer has {found} pieces, but the CLIP {expected}; give the tokenizer.json that belongs to it"
        )))
    }

    /// The numbers of a text's pieces, from the start to the end of text, `most` at most.
    ///
    /// # Errors
    /// If there are more.
    pub fn pieces(&self, text: &str, most: usize) -> Result<Vec<u32>> {
        let problem = |what: String| Error::Data(format!("the text \"{text}\": {what}"));
        let found = self.tokenizer.encode_fast(text, true).map_err(|error| problem(error.to_string()))?;
        let pieces = found.get_ids().to_vec();
        if pieces.first() != Some(&self.start) || pieces.last() != Some(&self.end) {
            return Err(problem(format!("the tokenizer does not put {START} before it and {END} behind it")));
        }
        if pieces.len() > most {
            return Err(problem(format!("has {} pieces, but CLIP reads {most}; shorten it", pieces.len())));
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clip").join(name)
    }

    #[derive(Deserialize)]
    struct Recorded {
        sentences: Vec<String>,
        tokens: Vec<Vec<u32>>,
    }

    /// Recorded by `scripts/record_clip.py` from the Python package, with a small vocabulary in the form of CLIP's.
    #[test]
    fn pieces_are_those_of_the_published_tokenizer() {
        let tokenizer = ClipTokenizer::open(&file("tokenizer.json")).unwrap();
        let text = std::fs::read_to_string(file("tokens.json")).unwrap();
        let Recorded { sentences, tokens } = serde_json::from_str(&text).unwrap();
        assert_eq!(sentences.len(), 6);
        for (sentence, expected) in sentences.iter().zip(tokens) {
            assert_eq!(tokenizer.pieces(sentence, 77).unwrap(), expected, "{sentence}");
        }
        let error = tokenizer.pieces("a photo of a cat.", 7).unwrap_err().to_string();
        assert!(error.contains("\"a photo of a cat.\": has 8 pieces, but CLIP reads 7"), "{error}");
    }

    #[test]
    fn what_is_no_tokenizer_of_clip_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let whole = std::fs::read_to_string(file("tokenizer.json")).unwrap();
        // Cut anywhere, or with a byte that is wrong, it is read or refused.
        for at in (0..whole.len()).step_by(97) {
            std::fs::write(&path, &whole.as_bytes()[..at]).unwrap();
            assert!(ClipTokenizer::open(&path).is_err());
            let mut wrong = whole.clone().into_bytes();
            wrong[at] ^= 1 << (at % 7);
            std::fs::write(&path, &wrong).unwrap();
            let _ = ClipTokenizer::open(&path).map(|tokenizer| tokenizer.pieces("it's a photo", 77));
        }
        for (from, to, part) in
            [("<|endoftext|>", "<|end|>", "is not its last piece"), ("\"BPE\"", "\"B\"", "tokenizer.json of")]
        {
            std::fs::write(&path, whole.replace(from, to)).unwrap();
            let error = ClipTokenizer::open(&path).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
