//! `semanticist serve`: the models in a browser.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use burn::tensor::Device;
use semanticist::model::{GeneratorModel, Work};
use semanticist_eval::sweep::TOGETHER;
use semanticist_hub::builtin;
use semanticist_serve::{Limits, ModelNotes, OpenStudy, Server, Settings, Studio, interrupted};
use semanticist_study::Study;

use super::choice::BUILTIN;
use super::generate::{check_tokens, load_generator};
use crate::args::{ModelChoice, Serve};
use crate::device::computing;
use crate::failure;
use crate::output::{self, note};

/// Runs beside the threads that compute, not on one of them: it waits for them.
pub fn run(request: &Serve) -> Result<()> {
    if request.verbose {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    }
    let device = request.machine.start(request.machine.precision())?;
    let studio = computing(|| studio(request, &device))?;
    let address = SocketAddr::new(request.host, request.port);
    let settings = Settings { address, token: request.token.clone(), limits: Limits::default() };
    let server = Server::bind(studio, settings)
        .with_context(|| format!("cannot listen on {address}; --port and --host choose another address"))?;
    let page = page(server.address());
    let page = if request.study.is_some() { format!("{page}study") } else { page };
    let mut said = Ok(());
    let listening = || {
        said = output::print(&format!("{page}\nCtrl-C ends it"));
        if said.is_err() {
            return ControlFlow::Break(());
        }
        if request.open {
            open(&page);
        }
        ControlFlow::Continue(())
    };
    server.run(interrupted(listening)).context("the server stopped")?;
    said
}

fn studio(request: &Serve, device: &Device) -> Result<Studio> {
    // A sweep with guidance is the largest batch.
    let work = Work { encode: 1, decode: 2 * TOGETHER, precision: request.machine.precision() };
    let tokenizer = request.model.load_for(work, device)?;
    let main = match &request.model.model {
        None => notes(BUILTIN, None, Some(builtin::TOKENIZER.card())),
        Some(path) => file_notes(path),
    };
    let generator = generator(request, device)?;
    if let Some((model, _)) = &generator {
        check_tokens(model, &tokenizer)?;
    }
    let mut tokenizers = vec![(tokenizer, main)];
    for path in &request.beside {
        let notes = file_notes(path);
        if tokenizers.iter().any(|(_, others)| others.name == notes.name) {
            return Err(failure::usage(format!(
                "--beside {}: it is served already; name others",
                notes.name
            )));
        }
        let choice = ModelChoice { model: Some(path.clone()), ..ModelChoice::default() };
        tokenizers.push((choice.load_for(work, device)?, notes));
    }
    let study = request.study.as_deref().map(|folder| OpenStudy::new(Study::open(folder)?)).transpose()?;
    let device = device.clone();
    Ok(Studio { device, tokenizers, generator, samples: builtin::PHOTOS, study })
}

/// The generator that was asked for, or the built-in one beside the built-in tokenizer.
fn generator(request: &Serve, device: &Device) -> Result<Option<(GeneratorModel, ModelNotes)>> {
    let preset = request.generator_preset.as_deref();
    if request.generator.is_none() && request.model.model.is_some() {
        return Ok(None);
    }
    let mut model = load_generator(request.generator.as_deref(), preset, device)?;
    model.generator = model.generator.with_precision(request.machine.precision());
    let notes = match &request.generator {
        None => notes("the built-in generator", None, Some(builtin::GENERATOR.card())),
        Some(path) => file_notes(path),
    };
    Ok(Some((model, notes)))
}

fn file_notes(path: &Path) -> ModelNotes {
    let name = path.display().to_string();
    notes(&name, Some(&name), None)
}

fn notes(name: &str, argument: Option<&str>, card: Option<&str>) -> ModelNotes {
    ModelNotes {
        name: name.to_string(),
        argument: argument.map(str::to_string),
        card: card.map(str::to_string),
    }
}

/// Where a browser finds it; "any address" is no place to go to.
fn page(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("http://localhost:{}/", address.port()),
        false => format!("http://{address}/"),
    }
}

/// Asks the system to show a page.
fn open(page: &str) {
    let (program, arguments): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("rundll32", &["url.dll,FileProtocolHandler"]),
        _ => ("xdg-open", &[]),
    };
    let mut command = Command::new(program);
    command.args(arguments).arg(page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.spawn() {
        note(&format!("cannot open a browser with {program}: {error}; open {page} yourself"));
    }
}
