//! Ranks that are processes started by `mpirun` or a scheduler, of one machine or of many.
//!
//! All calls of MPI come from one thread of each process, which goes on while the others compute, so that what is sent
//! travels meanwhile, and so that every rank can be heard at any time: all beat together, every few seconds. A rank that
//! does not, because its process hangs or its machine is gone, ends the run of all, whatever they are at; one that is only
//! slow does not.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use half::bf16;
use mpi::collective::SystemOperation;
use mpi::environment::{Threading, Universe};
use mpi::request::{Request, Scope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use semanticist::{Error, Precision, Result};

use super::{Collective, GATHERED, summed};

/// Between two beats.
const REST: Duration = Duration::from_secs(2);
/// After so long without a beat, a rank is lost.
const SILENCE: Duration = Duration::from_secs(40);
/// How long the thread listens to its own process before it looks after the beat again.
const LISTEN: Duration = Duration::from_millis(20);
/// For so long it does nothing but watch what travels; then it sleeps in between, as another rank seems to be busy.
const WATCH: Duration = Duration::from_millis(2);
/// The same of buckets: all ranks are there, as they have just agreed to add them up, and Open MPI moves a piece of them
/// whenever it is asked how far it is.
const WATCH_BUCKETS: Duration = Duration::from_secs(1);
/// The sleep.
const NAP: Duration = Duration::from_micros(100);

/// A rank among processes.
pub struct Mpi {
    rank: usize,
    ranks: usize,
    jobs: Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is to do; the answer goes to the sender.
enum Job {
    Gather(Vec<f64>, Sender<Vec<f64>>),
    Sum(Vec<f32>, Precision, Sender<Vec<f32>>),
    Broadcast(Vec<f32>, Sender<Vec<f32>>),
    /// Ends all ranks at once.
    Abort(i32),
}

impl Mpi {
    /// Takes its place among the ranks. If one is `lost` later, that is told, and all processes end with exit code 1.
    ///
    /// # Errors
    /// If MPI cannot be started, or was before.
    pub fn start(lost: fn(&str)) -> Result<Self> {
        let ((jobs, taken), (told, place)) = (channel(), channel());
        let thread = thread::spawn(move || {
            // No more than this one thread will call MPI.
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else { return };
            let world = universe.world();
            let _ = told.send((world.rank() as usize, world.size() as usize));
            Messenger::new(universe, lost).serve(&taken);
        });
        let (rank, ranks) = place.recv().map_err(|_| {
            let problem =
                "MPI could not be started; start the ranks with the mpirun that the build was made for";
            Error::Training(problem.into())
        })?;
        Ok(Self { rank, ranks, jobs, thread: Some(thread) })
    }

    /// Ends the processes of all ranks with an exit code; this one, too.
    pub fn abort(&self, code: i32) -> ! {
        let _ = self.jobs.send(Job::Abort(code));
        loop {
            thread::park();
        }
    }

    fn ask<T>(&self, job: impl FnOnce(Sender<T>) -> Job) -> Receiver<T> {
        let (answer, answered) = channel();
        // Without its thread nobody answers, which is found when that is waited for.
        let _ = self.jobs.send(job(answer));
        answered
    }
}

/// What the thread answers.
fn wait<T>(answered: &Receiver<T>) -> Result<T> {
    answered.recv().map_err(|_| {
        Error::Training(
            "the thread that speaks to the other ranks has panicked; this is a bug, please report it".into(),
        )
    })
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>> {
        assert!(own.len() <= GATHERED, "{} numbers of a rank", own.len());
        let mut frame = vec![own.len() as f64];
        frame.extend(own);
        frame.resize(GATHERED + 1, 0.0);
        let all = wait(&self.ask(|answer| Job::Gather(frame, answer)))?;
        Ok(all.chunks(GATHERED + 1).map(|frame| frame[1..=frame[0] as usize].to_vec()).collect())
    }

    fn sum(&self, buckets: &mut dyn Iterator<Item = Vec<f32>>, wire: Precision) -> Result<Vec<Vec<f32>>> {
        // The next bucket is packed while this one waits for its turn, and travels.
        let sums: Vec<_> = buckets.map(|bucket| self.ask(|answer| Job::Sum(bucket, wire, answer))).collect();
        sums.iter().map(wait).collect()
    }

    fn broadcast(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        wait(&self.ask(|answer| Job::Broadcast(values, answer)))
    }
}

impl Drop for Mpi {
    /// Waits for all ranks to come to their end, or ends them if this one has panicked.
    fn drop(&mut self) {
        if thread::panicking() {
            self.abort(1);
        }
        // Without a sender the thread ends.
        self.jobs = channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Messenger {
    world: SimpleCommunicator,
    heart: Heart,
    /// Last, as it ends MPI when it goes.
    _universe: Universe,
}

impl Messenger {
    fn new(universe: Universe, lost: fn(&str)) -> Self {
        let world = universe.world();
        let beats = world.duplicate();
        Self {
            world,
            heart: Heart { beats, pulse: None, begun: 0, seen: Instant::now(), lost },
            _universe: universe,
        }
    }

    /// Does what it is told until there is nobody to tell it.
    fn serve(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(LISTEN) {
                // Who does not wait for an answer any more has failed otherwise, and says so.
                Ok(Job::Gather(own, answer)) => drop(answer.send(self.gather(&own))),
                Ok(Job::Sum(own, wire, answer)) => drop(answer.send(self.sum(own, wire))),
                Ok(Job::Broadcast(own, answer)) => drop(answer.send(self.broadcast(own))),
                Ok(Job::Abort(code)) => self.world.abort(code),
                Err(RecvTimeoutError::Timeout) => self.heart.look(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // All hearts have begun as many beats, so that none is left waiting.
        let begun = self.gather(&[self.heart.begun as f64]);
        let most = begun.into_iter().fold(0.0, f64::max) as u64;
        while self.heart.begun < most || self.heart.pulse.is_some() {
            if self.heart.pulse.is_none() {
                self.heart.begin();
            }
            self.heart.look();
            thread::sleep(NAP);
        }
    }

    fn gather(&mut self, own: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; own.len() * self.world.size() as usize];
        scope(|scope| {
            let request = self.world.immediate_all_gather_into(scope, own, &mut all[..]);
            self.heart.finish(request, WATCH);
        });
        all
    }

    fn broadcast(&mut self, mut values: Vec<f32>) -> Vec<f32> {
        scope(|scope| {
            let request = self.world.process_at_rank(0).immediate_broadcast_into(scope, &mut values[..]);
            self.heart.finish(request, WATCH);
        });
        values
    }

    fn sum(&mut self, own: Vec<f32>, wire: Precision) -> Vec<f32> {
        match wire {
            Precision::Float32 => {
                let mut sums = vec![0.0f32; own.len()];
                scope(|scope| {
                    let add = SystemOperation::sum();
                    let request = self.world.immediate_all_reduce_into(scope, &own[..], &mut sums[..], add);
                    self.heart.finish(request, WATCH_BUCKETS);
                });
                sums
            }
            Precision::Bfloat16 => self.sum_rounded(own),
        }
    }

    /// Each rank adds up its part of the numbers, which all send it, and sends all the sums: as many bytes as a ring takes,
    /// and one rounding of a sum, however many ranks there are.
    fn sum_rounded(&mut self, own: Vec<f32>) -> Vec<f32> {
        let ranks = self.world.size() as usize;
        let part = own.len().div_ceil(ranks);
        let mut given: Vec<u16> = own.iter().map(|&value| bf16::from_f32(value).to_bits()).collect();
        given.resize(part * ranks, 0);
        let mut received = vec![0u16; part * ranks];
        scope(|scope| {
            let request = self.world.immediate_all_to_all_into(scope, &given[..], &mut received[..]);
            self.heart.finish(request, WATCH_BUCKETS);
        });
        let value = |bits: u16| bf16::from_bits(bits).to_f32();
        let of = |place: usize| (0..ranks).map(move |rank| rank * part + place);
        let sums: Vec<u16> = (0..part)
            .map(|place| summed(of(place).map(|at| value(received[at])), Precision::Bfloat16))
            .map(|sum| bf16::from_f32(sum).to_bits())
            .collect();
        let mut all = vec![0u16; part * ranks];
        scope(|scope| {
            let request = self.world.immediate_all_gather_into(scope, &sums[..], &mut all[..]);
            self.heart.finish(request, WATCH_BUCKETS);
        });
        all[..own.len()].iter().map(|&bits| value(bits)).collect()
    }
}

/// Tells whether all ranks are there: a barrier that all come to without being asked.
struct Heart {
    beats: SimpleCommunicator,
    /// A beat that not all have come to, and how long it has been waited for.
    pulse: Option<(Request<'static, ()>, Duration)>,
    /// Beats begun.
    begun: u64,
    /// When this was last looked after.
    seen: Instant,
    lost: fn(&str),
}

impl Heart {
    fn begin(&mut self) {
        self.pulse = Some((self.beats.immediate_barrier(), Duration::ZERO));
        self.begun += 1;
        self.seen = Instant::now();
    }

    fn look(&mut self) {
        match self.pulse.take() {
            None if self.seen.elapsed() >= REST => self.begin(),
            None => {}
            Some((request, waited)) => {
                // A process that was stopped by a scheduler, together with all others, has not waited for them.
                let waited = waited + self.seen.elapsed().min(Duration::from_secs(1));
                self.seen = Instant::now();
                if waited > SILENCE {
                    self.end();
                }
                self.pulse = request.test().err().map(|request| (request, waited));
            }
        }
    }

    fn end(&self) -> ! {
        let ranks = self.beats.size();
        (self.lost)(&format!(
            "a rank of {ranks} has not been heard of for {} seconds, so that the run ends on all; when all machines are \
             there, go on with --resume, with as many ranks or others",
            SILENCE.as_secs()
        ));
        self.beats.abort(1)
    }

    /// Waits for what travels, without a nap for so long.
    fn finish<'a, D: ?Sized, S: Scope<'a>>(&mut self, mut request: Request<'a, D, S>, watch: Duration) {
        let begun = Instant::now();
        loop {
            match request.test() {
                Ok(_) => return,
                Err(unfinished) => request = unfinished,
            }
            self.look();
            if begun.elapsed() < watch { thread::yield_now() } else { thread::sleep(NAP) }
        }
    }
}
