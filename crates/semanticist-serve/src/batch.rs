//! Requests that are computed together: images to encode or tokens to decode that wait at the same time, asked for in the same way,
//! go through the network in one batch.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use semanticist::diffusion::DecodeOptions;
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::{Error, Noise, Purpose, Seed, Tokens};
use semanticist_eval::sweep::TOGETHER;
use tokio::sync::oneshot::{Receiver, Sender, channel};

use crate::metrics::{Metrics, Outcome};
use crate::problem::Result;
use crate::worker::{Models, Ticket};

/// What one request wants, where others may want the like.
pub trait Batched: Debug + Send + Sized + 'static {
    /// What it gets.
    type Output: Debug + Send + 'static;

    /// What it is called in logs and metrics.
    const KIND: &'static str;

    /// Whether both can be in one batch. What is wrong with one of them is then wrong with the other.
    fn is_like(&self, other: &Self) -> bool;

    /// How many images it is of.
    fn images(&self) -> usize;

    /// What each of `all`, which are alike, gets.
    ///
    /// # Errors
    /// If they do not fit the model, or `go_on` ends it.
    fn compute(
        all: &[&Self],
        models: &Models,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Self::Output>, Error>;
}

/// The requests of one kind that wait. Each has a job of its own in the queue of the worker; the job of the first computes all that
/// are like it, and the others' jobs find theirs done.
#[derive(Debug)]
pub struct Batches<B: Batched>(Mutex<Waiting<B>>);

#[derive(Debug)]
struct Waiting<B: Batched> {
    /// In the order in which they came.
    parts: BTreeMap<u64, Part<B>>,
    next: u64,
}

#[derive(Debug)]
struct Part<B: Batched> {
    wanted: B,
    ticket: Ticket,
    sender: Sender<Result<B::Output>>,
    outcome: Arc<OnceLock<Outcome>>,
}

/// A request's place among those that wait; it is given up with it.
#[derive(Debug)]
pub struct Entry<B: Batched> {
    batches: Arc<Batches<B>>,
    number: u64,
    outcome: Arc<OnceLock<Outcome>>,
}

impl<B: Batched> Default for Batches<B> {
    fn default() -> Self {
        Self(Mutex::new(Waiting { parts: BTreeMap::new(), next: 0 }))
    }
}

impl<B: Batched> Batches<B> {
    /// Adds a request, and says where its result comes.
    pub fn add(self: &Arc<Self>, wanted: B, ticket: Ticket) -> (Entry<B>, Receiver<Result<B::Output>>) {
        let (sender, receiver) = channel();
        let outcome = Arc::new(OnceLock::new());
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        let part = Part { wanted, ticket, sender, outcome: Arc::clone(&outcome) };
        waiting.parts.insert(number, part);
        (Entry { batches: Arc::clone(self), number, outcome }, receiver)
    }

    /// Takes a request, unless it has been taken, and as many that are like it as fit into a batch.
    fn take(&self, number: u64) -> Vec<Part<B>> {
        let mut waiting = self.waiting();
        let Some(first) = waiting.parts.remove(&number) else { return Vec::new() };
        let mut images = first.wanted.images();
        let others = waiting.parts.extract_if(.., |_, part| {
            let joins = first.wanted.is_like(&part.wanted)
                && !part.ticket.is_abandoned()
                && images + part.wanted.images() <= TOGETHER;
            images += if joins { part.wanted.images() } else { 0 };
            joins
        });
        let others: Vec<Part<B>> = others.map(|(_, part)| part).collect();
        [first].into_iter().chain(others).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<B>> {
        // What is in there is whole even if somebody panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Batched> Entry<B> {
    /// Computes the request and those that are like it, unless another did.
    pub fn compute(self, models: &Models, metrics: &Metrics) -> Outcome {
        let parts = self.batches.take(self.number);
        if !parts.is_empty() {
            metrics.batch(B::KIND);
            let wanted: Vec<&B> = parts.iter().map(|part| &part.wanted).collect();
            // As long as somebody waits.
            let mut go_on = || match parts.iter().all(|part| part.ticket.go_on().is_break()) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let results = B::compute(&wanted, models, &mut go_on);
            let results: Vec<Result<B::Output>> = match results {
                Ok(results) => results.into_iter().map(Ok).collect(),
                Err(error) => parts.iter().map(|part| Err(part.ticket.explain(&error))).collect(),
            };
            for (part, result) in parts.into_iter().zip(results) {
                let _ = part.outcome.set(Outcome::of(&result, part.ticket.is_abandoned()));
                // Who asked may have gone.
                let _ = part.sender.send(result);
            }
        }
        // Without one, the batch that it was in panicked.
        self.outcome.get().copied().unwrap_or(Outcome::Failed)
    }
}

impl<B: Batched> Drop for Entry<B> {
    fn drop(&mut self) {
        self.batches.waiting().parts.remove(&self.number);
    }
}

/// The first tokens of an image.
#[derive(Debug)]
pub struct Encode {
    /// Which of the tokenizers.
    pub tokenizer: usize,
    /// As large as the tokenizer's images.
    pub square: RgbImage,
    /// How many tokens; all if not given.
    pub count: Option<usize>,
}

impl Batched for Encode {
    /// `[1, count, D]`
    type Output = Tokens;

    const KIND: &'static str = "encode";

    fn is_like(&self, other: &Self) -> bool {
        (self.tokenizer, self.count) == (other.tokenizer, other.count)
    }

    fn images(&self) -> usize {
        1
    }

    fn compute(
        all: &[&Self],
        models: &Models,
        _: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Self::Output>, Error> {
        let tokenizer = models.tokenizer(all[0].tokenizer);
        let squares: Vec<RgbImage> = all.iter().map(|one| one.square.clone()).collect();
        let count = all[0].count.unwrap_or(tokenizer.config.tokens);
        let tokens = tokenizer.encode(&to_pixels(&squares, &models.device), count)?;
        Ok((0..all.len()).map(|at| Tokens(tokens.0.clone().narrow(0, at, 1))).collect())
    }
}

/// Pictures from tokens.
#[derive(Debug)]
pub struct Decode {
    /// Which of the tokenizers.
    pub tokenizer: usize,
    /// Images, tokens of each, numbers of each.
    pub shape: [usize; 3],
    /// The numbers.
    pub values: Vec<f32>,
    /// How.
    pub options: DecodeOptions,
    /// Every image starts from the noise of this, as those of the command do.
    pub seed: u64,
}

impl Batched for Decode {
    type Output = Vec<RgbImage>;

    const KIND: &'static str = "decode";

    fn is_like(&self, other: &Self) -> bool {
        let shape = |it: &Self| [it.shape[1], it.shape[2]];
        self.tokenizer == other.tokenizer && self.options == other.options && shape(self) == shape(other)
    }

    fn images(&self) -> usize {
        self.shape[0]
    }

    fn compute(
        all: &[&Self],
        models: &Models,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Self::Output>, Error> {
        let [_, count, dim] = all[0].shape;
        let images = all.iter().map(|one| one.images()).sum();
        let values = all.iter().flat_map(|one| one.values.iter().copied()).collect();
        let tokens = Tokens::from_vec(values, [images, count, dim], &models.device)?;
        let seeds = all.iter().flat_map(|one| vec![Seed::new(one.seed).of(Purpose::Latents); one.images()]);
        let mut noise = Noise::per_sample(seeds);
        let tokenizer = models.tokenizer(all[0].tokenizer);
        let keep = vec![count; images];
        let decoded =
            tokenizer.decode_observed(&tokens, &keep, &all[0].options, &mut noise, &mut |_| go_on())?;
        let mut pictures = from_pixels(&decoded).into_iter();
        Ok(all.iter().map(|one| pictures.by_ref().take(one.images()).collect()).collect())
    }
}
