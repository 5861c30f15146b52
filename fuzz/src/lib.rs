//! What is done with files that come from anywhere. None of it may panic or take memory that a file of its size
//! does not need; what it answers does not matter here.

use std::io::Write;
use std::path::Path;

use semanticist::{ModelFile, weights};
use semanticist_data::tokens::TokenReader;
use semanticist_train::config::RunConfig;
use semanticist_train::objective::autoencoder::AutoencoderRun;
use semanticist_train::objective::classifier::ClassifierRun;
use semanticist_train::objective::generator::GeneratorRun;
use semanticist_train::objective::tokenizer::TokenizerRun;

/// A model file of ours, or any safetensors file: its header, its metadata, its values.
pub fn safetensors(bytes: &[u8]) {
    with_file(bytes, "", |path| {
        if let Ok((weights, metadata)) = weights::load(path) {
            let _ = weights::hash(&weights, &metadata);
            weights.iter().for_each(|(_, tensor)| drop(tensor.to_f32()));
        }
        if let Ok(ModelFile::Tokenizer(file)) = ModelFile::open(path) {
            let _ = file.memory();
        }
    });
}

/// A checkpoint of PyTorch: the pickle, the archive around it, the values.
pub fn pickle(bytes: &[u8]) {
    with_file(bytes, "", |path| {
        if let Ok((weights, _)) = weights::published::read(path, |_| true) {
            weights.iter().for_each(|(_, tensor)| drop(tensor.to_f32()));
        }
    });
}

/// A photo in any format.
pub fn image(bytes: &[u8]) {
    let _ = semanticist::image::decode("fuzz", bytes);
}

/// A file of tokens, Parquet or safetensors.
pub fn tokens(bytes: &[u8]) {
    let name = if bytes.starts_with(b"PAR1") { ".parquet" } else { ".safetensors" };
    with_file(bytes, name, |path| {
        if let Ok(reader) = TokenReader::open(path) {
            // What is damaged may go on being damaged for ever; a few records are enough.
            reader.take(1000).for_each(drop);
        }
    });
}

/// The configuration of a run, of each kind.
pub fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = RunConfig::<TokenizerRun>::parse(text, &[]);
        let _ = RunConfig::<GeneratorRun>::parse(text, &[]);
        let _ = RunConfig::<AutoencoderRun>::parse(text, &[]);
        let _ = RunConfig::<ClassifierRun>::parse(text, &[]);
    }
}

fn with_file(bytes: &[u8], extension: &str, read: impl FnOnce(&Path)) {
    let file = tempfile::Builder::new().suffix(extension).tempfile();
    let mut file = file.expect("a temporary file can be made");
    file.write_all(bytes).expect("a temporary file can be written");
    read(file.path());
}
