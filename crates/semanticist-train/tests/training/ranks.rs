//! Several ranks, as threads, are one: what they learn, and what stops them.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use burn::tensor::Device;
use semanticist::{Error, Noise, Result};
use semanticist_data::{Position, Share, Source, Split};
use semanticist_train::autoencoder;
use semanticist_train::changes::OnChange;
use semanticist_train::collective::{Collective, Threads};
use semanticist_train::objective::images::ImageExample;
use semanticist_train::objective::tokenizer::{
    LearningTokenizer, TokenizerObjective, TokenizerRun, untrained,
};
use semanticist_train::objective::{Batches, Loss, Objective, Stage, Validation};
use semanticist_train::trainer::{Ending, Event, RunContext, Trainer};

use super::{CONFIG, RunConfig, journal, photos, stored};

/// What happens on one rank only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The loss of this number, counted from 0, is not a number.
    Poison {
        rank: usize,
        number: usize,
    },
    /// The batch of this number, counted from 1, cannot be read.
    Unreadable {
        rank: usize,
        number: usize,
    },
    /// The rank is told to stop after this step.
    Stop {
        rank: usize,
        step: u64,
    },
}

/// A rank's objective.
struct Faulty {
    objective: TokenizerObjective,
    rank: usize,
    fault: Fault,
    asked: Cell<usize>,
}

struct FaultyBatches {
    batches: Box<dyn Batches<Example = ImageExample>>,
    /// How many can be read.
    left: Option<usize>,
}

impl Batches for FaultyBatches {
    type Example = ImageExample;

    fn next(&mut self) -> Result<(Vec<ImageExample>, Position)> {
        match &mut self.left {
            Some(0) => return Err(Error::Data("the disk is gone".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        self.batches.next()
    }

    fn take_warnings(&mut self) -> Vec<String> {
        self.batches.take_warnings()
    }
}

impl Objective for Faulty {
    type Kind = TokenizerRun;
    type Model = LearningTokenizer;
    type Example = ImageExample;

    fn examples(&self) -> usize {
        self.objective.examples()
    }

    fn fingerprint(&self) -> Result<String> {
        self.objective.fingerprint()
    }

    fn batches(&self, start: Position, share: Share) -> Box<dyn Batches<Example = ImageExample>> {
        let left = match self.fault {
            Fault::Unreadable { rank, number } if rank == self.rank => Some(number - 1),
            _ => None,
        };
        Box::new(FaultyBatches { batches: self.objective.batches(start, share), left })
    }

    fn loss(
        &self,
        model: &LearningTokenizer,
        examples: &[ImageExample],
        step: u64,
        noise: &mut Noise,
    ) -> Loss {
        let loss = self.objective.loss(model, examples, step, noise);
        let number = self.asked.replace(self.asked.get() + 1);
        let poisoned = self.fault == Fault::Poison { rank: self.rank, number };
        Loss { total: loss.total * if poisoned { f32::NAN } else { 1.0 }, parts: loss.parts }
    }

    fn validate(&self, average: &LearningTokenizer, sheet: &Path) -> Result<Validation> {
        assert_eq!(self.rank, 0, "one rank validates");
        self.objective.validate(average, sheet)
    }

    fn publish(
        &self,
        average: &LearningTokenizer,
        path: &Path,
        history: &serde_json::Value,
        stage: Stage,
    ) -> Result<()> {
        assert_eq!(self.rank, 0, "one rank writes");
        self.objective.publish(average, path, history, stage)
    }
}

/// A data set, and runs on it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        photos(&folder.path().join("data"));
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What every rank of a run ends with, which goes on if it was begun before.
    fn train(&self, out: &str, ranks: usize, settings: &[&str], fault: Fault) -> Vec<Result<Ending>> {
        let ranks = Threads::group(ranks).into_iter();
        thread::scope(|scope| {
            let threads = ranks.map(|rank| scope.spawn(move || self.rank(out, rank, settings, fault)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn rank(&self, out: &str, ranks: Threads, settings: &[&str], fault: Fault) -> Result<Ending> {
        let settings: Vec<String> =
            ["batch=8", "accumulate=1"].iter().chain(settings).map(ToString::to_string).collect();
        let config = RunConfig::parse(CONFIG, &settings)?;
        let source = Arc::new(Source::open(&[self.path("data")], Split::All)?);
        let (device, interrupted, out) = (Device::flex(), AtomicBool::new(false), self.path(out));
        let objective = TokenizerObjective::new(&config, source.clone(), &source, None, &device)?;
        let objective = Faulty { objective, rank: ranks.rank(), fault, asked: Cell::new(0) };
        let context = RunContext { out: &out, device: &device, interrupted: &interrupted, ranks: &ranks };
        // No rank begins a checkpoint before all have read this.
        let begun = out.join("checkpoints/step-00000003").exists();
        ranks.gather(&[])?;
        let trainer = if begun {
            Trainer::resume(config, objective, context, OnChange::Refuse, &mut |_| ())?
        } else if ranks.writes() {
            let autoencoder = autoencoder::fit(&config, source, &device, &mut |_| ())?;
            let tokenizer = untrained(&config, autoencoder, &device)?;
            Trainer::start(config, objective, tokenizer, context)?
        } else {
            Trainer::join(config, objective, context)?
        };
        trainer.run(&mut |event| {
            let stops = |step| fault == Fault::Stop { rank: ranks.rank(), step };
            if matches!(event, Event::Stepped { record, .. } if stops(record.step)) {
                interrupted.store(true, Ordering::Relaxed);
            }
        })
    }

    /// Asserts that two runs learnt the same, to rounding.
    fn assert_same(&self, one: &str, other: &str) {
        let [a, b] = [one, other].map(|out| journal(&self.path(out)));
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a["step"], b["step"]);
            for name in ["loss", "mse", "readout", "gradient_norm"] {
                let [a, b] = [a, b].map(|line| line[name].as_f64().unwrap_or_default());
                assert!((a - b).abs() <= 2e-5 * a.abs(), "{name}: {a} and {b}, {one} and {other}");
            }
        }
        for file in ["weights", "average"] {
            let [a, b] = [one, other].map(|out| stored(&self.path(out), 6, file));
            let (mut apart, mut size) = (0.0, 0.0);
            for (name, value) in a.iter() {
                let [a, b] = [value, b.get(name).unwrap()].map(|value| value.to_f32().unwrap());
                apart += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                size += a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
            }
            assert!(apart.sqrt() < 1e-4 * size.sqrt(), "{file}: {apart} of {size}, {one} and {other}");
        }
    }
}

fn complete(endings: &[Result<Ending>]) {
    assert!(endings.iter().all(|ending| matches!(ending, Ok(Ending::Complete))), "{endings:?}");
}

#[test]
fn two_and_four_ranks_learn_what_one_does_from_the_same_batches() {
    let bench = Bench::new();
    complete(&bench.train("one", 1, &[], Fault::None));
    complete(&bench.train("two", 2, &[], Fault::None));
    complete(&bench.train("four", 4, &["accumulate=2"], Fault::None));
    bench.assert_same("one", "two");
    bench.assert_same("one", "four");
    // What is rounded on its way is close, and not the same.
    complete(&bench.train("rounded", 2, &["wire=\"bfloat16\""], Fault::None));
    let norms = |out: &str| -> Vec<f64> {
        journal(&bench.path(out)).iter().filter_map(|line| line["gradient_norm"].as_f64()).collect()
    };
    let (exact, rounded) = (norms("two"), norms("rounded"));
    assert!(exact.iter().zip(&rounded).all(|(a, b)| (a - b).abs() < 0.01 * a) && exact != rounded);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let bench = Bench::new();
    complete(&bench.train("whole", 1, &[], Fault::None));
    for (out, first, then) in [("fewer", 2, 1), ("more", 1, 4)] {
        let stopped = bench.train(out, first, &[], Fault::Stop { rank: first - 1, step: 4 });
        assert!(stopped.iter().all(|ending| matches!(ending, Ok(Ending::Interrupted))), "{stopped:?}");
        // All stopped after the step at which one was told to.
        assert!(bench.path(out).join("checkpoints/step-00000004").is_dir());
        complete(&bench.train(out, then, &[], Fault::None));
        bench.assert_same("whole", out);
    }
}

#[test]
fn what_is_not_finite_on_one_rank_is_left_out_by_all() {
    let bench = Bench::new();
    let settings = ["log.validate_every=0"];
    complete(&bench.train("one", 1, &settings, Fault::Poison { rank: 0, number: 2 }));
    complete(&bench.train("two", 2, &settings, Fault::Poison { rank: 1, number: 2 }));
    let skips = |out: &str| journal(&bench.path(out)).iter().filter(|line| line["skipped"] == "loss").count();
    assert_eq!((skips("one"), skips("two")), (1, 1));
    bench.assert_same("one", "two");
}

#[test]
fn data_that_fails_on_one_rank_ends_all_with_what_was_learnt() {
    let bench = Bench::new();
    let endings = bench.train("run", 2, &[], Fault::Unreadable { rank: 1, number: 5 });
    let texts: Vec<String> = endings.iter().map(|ending| ending.as_ref().unwrap_err().to_string()).collect();
    assert!(texts[0].contains("another rank could not read its data"), "{texts:?}");
    assert!(texts[1].contains("the disk is gone"), "{texts:?}");
    assert!(texts.iter().all(|text| text.contains("stopped after step 4")), "{texts:?}");
    assert!(bench.path("run/checkpoints/step-00000004/weights.safetensors").is_file());
}

#[test]
fn ranks_that_cannot_train_together_are_told_why() {
    let bench = Bench::new();
    let texts = |endings: Vec<Result<Ending>>| -> Vec<String> {
        endings.into_iter().map(|ending| ending.unwrap_err().to_string()).collect()
    };
    let told = texts(bench.train("run", 3, &[], Fault::None));
    assert!(told.iter().all(|text| text.contains("batch = 8 cannot be divided among 3 ranks")), "{told:?}");
    assert!(!bench.path("run").exists());
    // If the first cannot start, the others do not wait.
    fs::create_dir_all(bench.path("used/checkpoints/step-00000001")).unwrap();
    let told = texts(bench.train("used", 2, &[], Fault::None));
    assert!(
        told[0].contains("already holds a run") && told[1].contains("another rank has ended"),
        "{told:?}"
    );
}
