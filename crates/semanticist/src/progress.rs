//! How far work has come, and whether it goes on.

use std::ops::ControlFlow;

use crate::error::{Error, Result};

/// How far decoding or drawing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Parts that are done: evaluations of the decoder, or tokens of a generator.
    pub done: usize,
    /// Parts in all.
    pub total: usize,
}

/// Who is told of progress, and says whether to go on.
pub type Observer<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// An observer that lets the work go on.
pub fn unobserved(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// An observer that can also ask for what there is so far, which is computed only then.
pub type Watcher<'a, T> = &'a mut dyn FnMut(Progress, &dyn Fn() -> T) -> ControlFlow<()>;

/// What an observer said.
///
/// # Errors
/// [`Error::Cancelled`] if it ends the work.
pub(crate) fn go_on(said: ControlFlow<()>) -> Result<()> {
    match said {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
