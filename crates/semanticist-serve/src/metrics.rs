//! What has happened, in numbers, as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::problem::Problem;

/// Upper ends of the bins of times, in seconds.
const BINS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Done,
    Failed,
    Abandoned,
}

impl Outcome {
    pub fn of<T>(result: &Result<T, Problem>, abandoned: bool) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(_) if abandoned => Self::Abandoned,
            Err(_) => Self::Failed,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

#[derive(Debug, Default)]
struct Times {
    bins: [u64; BINS.len()],
    count: u64,
    seconds: f64,
}

impl Times {
    fn add(&mut self, seconds: f64) {
        for (count, end) in self.bins.iter_mut().zip(BINS) {
            *count += u64::from(seconds <= end);
        }
        self.count += 1;
        self.seconds += seconds;
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// By path and status.
    requests: BTreeMap<(String, u16), u64>,
    jobs: BTreeMap<(&'static str, Outcome), u64>,
    batches: BTreeMap<&'static str, u64>,
    /// Until a job is taken from the queue.
    waited: BTreeMap<&'static str, Times>,
    /// From there to its end.
    worked: BTreeMap<&'static str, Times>,
    /// Seconds of a job, of late.
    usual: f64,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    waiting: AtomicUsize,
    counts: Mutex<Counts>,
}

impl Metrics {
    pub fn queued(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub fn not_queued(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// About when a job of the queue will have been taken.
    pub fn seconds_until_room(&self) -> u64 {
        (self.counts().usual.ceil() as u64).clamp(1, 60)
    }

    pub fn finished(&self, kind: &'static str, outcome: Outcome, waited: Duration, worked: Duration) {
        let mut counts = self.counts();
        *counts.jobs.entry((kind, outcome)).or_default() += 1;
        counts.waited.entry(kind).or_default().add(waited.as_secs_f64());
        counts.worked.entry(kind).or_default().add(worked.as_secs_f64());
        counts.usual = 0.8 * counts.usual + 0.2 * worked.as_secs_f64();
    }

    /// Jobs of this kind go through the network together.
    pub fn batch(&self, kind: &'static str) {
        *self.counts().batches.entry(kind).or_default() += 1;
    }

    /// A request was answered; of events, the answer begins.
    pub fn answered(&self, path: &str, status: u16) {
        *self.counts().requests.entry((path.to_string(), status)).or_default() += 1;
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Counters are right even if somebody panicked beside them.
        self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The text format of Prometheus, version 0.0.4.
    pub fn text(&self) -> String {
        let counts = self.counts();
        let mut text = String::new();
        family(&mut text, "requests_total", "counter", "Requests answered, by path and status");
        for ((path, status), count) in &counts.requests {
            line(&mut text, &format!("requests_total{{path=\"{path}\",status=\"{status}\"}}"), *count);
        }
        family(&mut text, "jobs_total", "counter", "Jobs that ended, by kind and outcome");
        for ((kind, outcome), count) in &counts.jobs {
            let outcome = outcome.name();
            line(&mut text, &format!("jobs_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}"), *count);
        }
        family(&mut text, "batches_total", "counter", "Batches that jobs of a kind were computed in");
        for (kind, count) in &counts.batches {
            line(&mut text, &format!("batches_total{{kind=\"{kind}\"}}"), *count);
        }
        family(&mut text, "jobs_waiting", "gauge", "Jobs in the queue");
        line(&mut text, "jobs_waiting", self.waiting());
        times(&mut text, "job_wait_seconds", "Time in the queue", &counts.waited);
        times(&mut text, "job_work_seconds", "Time of computing", &counts.worked);
        text
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(text, "# HELP semanticist_{name} {help}\n# TYPE semanticist_{name} {kind}\n");
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "semanticist_{name} {value}");
}

fn times(text: &mut String, name: &str, help: &str, all: &BTreeMap<&'static str, Times>) {
    family(text, name, "histogram", help);
    for (kind, Times { bins, count, seconds }) in all {
        for (end, count) in BINS.iter().zip(bins) {
            line(text, &format!("{name}_bucket{{kind=\"{kind}\",le=\"{end}\"}}"), *count);
        }
        line(text, &format!("{name}_bucket{{kind=\"{kind}\",le=\"+Inf\"}}"), *count);
        line(text, &format!("{name}_sum{{kind=\"{kind}\"}}"), *seconds);
        line(text, &format!("{name}_count{{kind=\"{kind}\"}}"), *count);
    }
}
