//! A bar on stderr for work that takes a while.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use semanticist_train::journal::StepRecord;

use crate::output::note;

/// Work that is done sooner has no bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// Appears after two seconds if stderr is a terminal, and is gone when the work is done.
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    /// For `total` pieces of work; `doing` is a verb.
    pub fn new(total: usize, doing: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        Self::styled(bar, doing, "{msg} {wide_bar} {percent:>3} % · {eta} left")
    }

    /// For decoding, whose pieces are sampling steps of single images: says how many there are per
    /// second.
    pub fn of_steps(total: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        Self::styled(bar, "decoding", "{msg} {wide_bar} {percent:>3} % · {per_sec} · {eta} left")
    }

    fn styled(bar: ProgressBar, doing: &'static str, template: &str) -> Self {
        let style = ProgressStyle::with_template(template)
            .expect("the template is right, as the tests show")
            .with_key("per_sec", |state: &ProgressState, out: &mut dyn Write| {
                // Nobody reads a bar that cannot be written.
                let _ = write!(out, "{:.1} steps/s", state.per_sec());
            });
        bar.set_style(style);
        bar.set_message(doing);
        Self { bar, begun: Instant::now() }
    }

    /// Some more pieces are done.
    pub fn advance(&self, pieces: usize) {
        self.bar.inc(pieces as u64);
        if self.bar.is_hidden() && self.begun.elapsed() > PATIENCE {
            // Still hidden after this if stderr is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Progress {
    /// An observer of the library that counts so many pieces each time it is told, and never ends the work.
    pub fn observer(&self, pieces: usize) -> impl FnMut(semanticist::Progress) -> ControlFlow<()> {
        move |_| {
            self.advance(pieces);
            ControlFlow::Continue(())
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The state of a training run: a bar on a terminal, a line now and then elsewhere.
pub struct TrainingProgress {
    bar: ProgressBar,
    every: u64,
}

impl TrainingProgress {
    /// For a run of `steps`; without a terminal, every `every`-th step is a line.
    pub fn new(steps: u64, every: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg} · {eta} left")
            .expect("the template is right, as the tests show");
        bar.set_style(style);
        Self { bar, every: every.max(1) }
    }

    /// A step is done.
    pub fn step(&self, record: &StepRecord) {
        let (step, message) = (record.step, described(record));
        if self.bar.is_hidden() {
            let steps = self.bar.length().unwrap_or_default();
            if step.is_multiple_of(self.every) {
                note(&format!("step {step}/{steps} · {message}"));
            }
            return;
        }
        if self.bar.position() == 0 {
            // A resumed run did its first steps in another life: they do not count for the time left.
            self.bar.set_position(step - 1);
            self.bar.reset_eta();
        }
        self.bar.set_message(message);
        self.bar.set_position(step);
    }

    /// A line above the bar.
    pub fn say(&self, text: &str) {
        if self.bar.is_hidden() { note(text) } else { self.bar.suspend(|| note(text)) }
    }
}

/// `loss 0.3100 (mse 0.2100, readout 0.1000) · gradient 1.25 · rate 1.0e-3 · 93 images/s · 2 % waiting for data`
fn described(record: &StepRecord) -> String {
    let parts: Vec<String> = record.parts.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    let StepRecord { loss, gradient_norm, learning_rate, images_per_second, data_wait, .. } = record;
    format!(
        "loss {loss:.4}{parts} · gradient {gradient_norm:.2} · rate {learning_rate:.1e} · \
         {images_per_second:.0} images/s · {:.0} % waiting for data",
        100.0 * data_wait
    )
}

impl Drop for TrainingProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_in_silence() {
        let progress = Progress::new(3, "decoding");
        progress.advance(2);
        assert!(progress.bar.is_hidden());
        assert_eq!(progress.bar.position(), 2);
        assert_eq!(Progress::of_steps(5).bar.length(), Some(5));
    }
}
