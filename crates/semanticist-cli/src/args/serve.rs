//! The arguments of `serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::ModelChoice;
use crate::device::Machine;

/// See it in a browser: a page to try the models on, and an HTTP interface for programs
///
/// Only this machine can reach it unless --host says otherwise, which needs a --token. Nothing is
/// written but the answers to a --study, and no picture leaves the machine but to whoever asked. Ctrl-C ends it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist serve --open
  semanticist serve --model tokenizer.safetensors --generator generator.safetensors
  semanticist serve --beside other.safetensors --open
  semanticist serve --study perception --open
  semanticist serve --host 0.0.0.0 --token \"$(openssl rand -hex 16)\"")]
pub struct Serve {
    /// The port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value = "7860")]
    pub port: u16,
    /// The address to listen on; any but this machine's own needs --token
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// What clients must know: the page asks for it, programs send it as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "TOKEN", env = "SEMANTICIST_TOKEN", hide_env_values = true, value_parser = token)]
    pub token: Option<String>,
    /// Open the page in the browser
    #[arg(long)]
    pub open: bool,
    /// Say on stderr what was asked and how long it took
    #[arg(short, long)]
    pub verbose: bool,
    /// The generator: a file of `train generator`, a name of `models list`, hf:OWNER/REPO/FILE [default:
    /// the built-in one, if the tokenizer is the built-in one, too]
    #[arg(long, value_name = "NAME|FILE")]
    pub generator: Option<PathBuf>,
    /// What a published generator's checkpoint holds, by name, such as gpt-l
    #[arg(long, value_name = "NAME", requires = "generator")]
    pub generator_preset: Option<String>,
    /// Another tokenizer, to compare with on the page and to ask by this name: a file, a name of `models list`,
    /// hf:OWNER/REPO/FILE; may be given several times
    #[arg(long, value_name = "NAME|FILE")]
    pub beside: Vec<PathBuf>,
    /// A perception test, made by `study new`: people take part at /study, and their answers are kept in its folder
    #[arg(long, value_name = "DIR")]
    pub study: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub machine: Machine,
}

/// What a header can hold.
fn token(text: &str) -> Result<String, String> {
    if (8..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_string());
    }
    Err("expected 8 to 256 letters, digits or signs without spaces".to_string())
}
