//! A bar on stderr for work that takes a while.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} % · {eta} left")
            .expect("the template is right, as the tests show");
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

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_in_silence() {
        let progress = Progress::new(3, "painting");
        progress.advance(2);
        assert!(progress.bar.is_hidden());
        assert_eq!(progress.bar.position(), 2);
    }
}
