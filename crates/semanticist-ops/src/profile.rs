//! How long each operator takes, for whoever wants to know where the time goes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What one operator has taken since [`start`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// How often it ran.
    pub calls: u64,
    /// How long in all.
    pub time: Duration,
}

static RUNNING: AtomicBool = AtomicBool::new(false);
static TIMINGS: Mutex<BTreeMap<&'static str, Timing>> = Mutex::new(BTreeMap::new());

/// Begins to count, from nothing.
pub fn start() {
    *timings() = BTreeMap::new();
    RUNNING.store(true, Ordering::Relaxed);
}

/// Ends counting; the operators by name.
pub fn stop() -> BTreeMap<&'static str, Timing> {
    RUNNING.store(false, Ordering::Relaxed);
    std::mem::take(&mut timings())
}

/// Runs an operator, and counts it if anybody wants to know.
pub(crate) fn timed<R>(operator: &'static str, run: impl FnOnce() -> R) -> R {
    if !RUNNING.load(Ordering::Relaxed) {
        return run();
    }
    let begun = Instant::now();
    let result = run();
    let mut timings = timings();
    // What ends after the counting did belongs to nobody.
    if !RUNNING.load(Ordering::Relaxed) {
        return result;
    }
    let timing = timings.entry(operator).or_default();
    timing.calls += 1;
    timing.time += begun.elapsed();
    result
}

fn timings() -> std::sync::MutexGuard<'static, BTreeMap<&'static str, Timing>> {
    TIMINGS.lock().expect("nothing panics while it holds this lock")
}
