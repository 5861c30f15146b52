//! Semanticist in a browser: the page of `semanticist serve`, and an HTTP interface for programs.
//!
//! A [`Studio`] is the models and what is known of them; [`Server::bind`] takes an address, [`Server::run`] answers
//! until it is told to stop. Nothing is written to disk but what participants of a perception test answer, and nothing leaves
//! the machine but answers.
//!
//! Two threads share the work. One talks: it reads requests, refuses what is too large, too much or not allowed, and
//! sends what there is to send. The other (`worker`) owns the models, takes one job after the other from a queue of
//! limited length, and computes it on the threads of Rayon's pool, where operators belong. It looks at every step
//! whether somebody still waits, so a request that was abandoned costs at most one more step.
//!
//! The page (`page/`) is plain HTML, CSS and JavaScript modules, without a framework and without a build step: it has
//! three views and little state, so a framework would save few lines, and whoever maintains it in years to come needs
//! nothing but a browser. It is compiled into the program.

mod about;
mod api;
mod auth;
mod batch;
mod body;
mod events;
mod limits;
mod metrics;
mod page;
mod problem;
mod routes;
mod server;
mod worker;

pub use about::ModelNotes;
pub use api::study::OpenStudy;
pub use limits::Limits;
pub use routes::ROUTES;
pub use server::{Server, Settings, interrupted};

use semanticist::Device;
use semanticist::model::{GeneratorModel, TokenizerModel};

/// The models that are served, and what is known of them.
#[derive(Debug)]
pub struct Studio {
    /// Where the models are.
    pub device: Device,
    /// From images to tokens and back, and what people are told of it: the main one, and those to compare it with. Their names
    /// must differ.
    pub tokenizers: Vec<(TokenizerModel, ModelNotes)>,
    /// Draws tokens of a class, if there is one; its tokens must fit the main tokenizer.
    pub generator: Option<(GeneratorModel, ModelNotes)>,
    /// Photos to begin with, PNG or JPEG files, and their names.
    pub samples: &'static [(&'static str, &'static [u8])],
    /// A perception test that people can take part in at `/study`.
    pub study: Option<OpenStudy>,
}
