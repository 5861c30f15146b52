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

/// Tells the observer.
///
/// # Errors
/// [`Error::Cancelled`] if it says so.
pub(crate) fn report(
    observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    progress: Progress,
) -> Result<()> {
    match observer(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
