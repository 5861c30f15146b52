//! Several ranks that train one model: what they tell each other, however it travels.
//!
//! A rank is one who computes: a process, or in tests a thread. All make the same calls in the same order, and a call
//! returns when all have made it. Rank 0 is the one who writes. Another way to travel, such as NCCL, is another
//! implementation of [`Collective`].

#[cfg(feature = "mpi")]
mod mpi;
mod threads;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use half::bf16;
use semanticist::{Error, Precision, Result};
use semanticist_data::Share;

#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use threads::Threads;

/// The ranks of a run, seen from one of them.
pub trait Collective {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// The few numbers that each rank gives, at most [`GATHERED`], in the order of ranks.
    ///
    /// # Errors
    /// If a rank has ended.
    fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>>;

    /// The sums of many numbers over the ranks, bucket by bucket: while one travels, the next is asked for. Buckets are as
    /// long on all ranks. In bfloat16, what each rank gives is rounded, and so is the sum, which is made in float32.
    ///
    /// # Errors
    /// If a rank has ended.
    fn sum(&self, buckets: &mut dyn Iterator<Item = Vec<f32>>, wire: Precision) -> Result<Vec<Vec<f32>>>;

    /// The numbers of rank 0; those of the others only say how many.
    ///
    /// # Errors
    /// If a rank has ended.
    fn broadcast(&self, values: Vec<f32>) -> Result<Vec<f32>>;

    /// Whether this rank writes files and says how the run goes.
    fn writes(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's part of every batch.
    fn share(&self) -> Share {
        Share::of(self.rank(), self.ranks())
    }
}

/// The most numbers of a rank in [`Collective::gather`].
pub const GATHERED: usize = 64;

/// The only rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>> {
        Ok(vec![own.to_vec()])
    }

    fn sum(&self, buckets: &mut dyn Iterator<Item = Vec<f32>>, _: Precision) -> Result<Vec<Vec<f32>>> {
        Ok(buckets.collect())
    }

    fn broadcast(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// Fails unless all ranks give the same, which is told by its hash; a message names the first that does not and `what`
/// differs.
///
/// # Errors
/// As it says, or if a rank has ended.
pub fn check_same(ranks: &dyn Collective, what: &str, own: &[u8]) -> Result<()> {
    let hashes = ranks.gather(&[f64::from(crc32c::crc32c(own))])?;
    match hashes.iter().position(|hash| hash != &hashes[0]) {
        None => Ok(()),
        Some(other) => Err(Error::Training(format!(
            "rank {other} has {what} that differs from that of rank 0; give all ranks the same command, data and folder"
        ))),
    }
}

/// A module on the device of training with the parameters of rank 0.
///
/// # Errors
/// If a rank has ended.
pub fn same_parameters<M: Module>(module: M, ranks: &dyn Collective) -> Result<M> {
    if ranks.ranks() == 1 {
        return Ok(module);
    }
    let mut sent = Broadcast { ranks, failure: None };
    let module = module.map(&mut sent);
    sent.failure.map_or(Ok(module), Err)
}

struct Broadcast<'a> {
    ranks: &'a dyn Collective,
    failure: Option<Error>,
}

impl ModuleMapper for Broadcast<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failure.is_some() {
            return param;
        }
        param.map(|value| {
            let (shape, device) = (value.dims(), value.device().without_autodiff());
            let own = value.to_data().iter::<f32>().collect();
            match self.ranks.broadcast(own) {
                Ok(values) => {
                    let sent = Tensor::from_data(TensorData::new(values, shape), &device);
                    let sent = Tensor::from_inner(sent);
                    if value.is_require_grad() { sent.require_grad() } else { sent }
                }
                Err(error) => {
                    self.failure = Some(error);
                    value
                }
            }
        })
    }
}

/// The sum of what the ranks give of one number, as it arrives.
fn summed(values: impl Iterator<Item = f32>, wire: Precision) -> f32 {
    let carried = |value: f32| match wire {
        Precision::Float32 => value,
        Precision::Bfloat16 => bf16::from_f32(value).to_f32(),
    };
    carried(values.map(carried).sum())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use burn::tensor::Device;
    use semanticist::Noise;
    use semanticist::nn::Linear;

    use super::*;

    /// What each of `count` ranks finds.
    fn ranks<R: Send>(count: usize, job: impl Fn(&Threads) -> R + Sync) -> Vec<R> {
        thread::scope(|scope| {
            let job = &job;
            let ranks: Vec<_> =
                Threads::group(count).into_iter().map(|rank| scope.spawn(move || job(&rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn all_ranks_are_told_the_same() {
        let found = ranks(3, |rank| {
            let own = rank.rank() as f64;
            let told: Vec<_> = (0..50).map(|round| rank.gather(&[own, f64::from(round)]).unwrap()).collect();
            let mut buckets = [vec![own as f32, 0.5], vec![0.25; 3]].into_iter();
            let sums = rank.sum(&mut buckets, Precision::Float32).unwrap();
            (told, sums, rank.broadcast(vec![own as f32 + 7.0; 2]).unwrap())
        });
        for (told, sums, sent) in found {
            for (round, told) in told.iter().enumerate() {
                let round = round as f64;
                assert_eq!(told, &[[0.0, round], [1.0, round], [2.0, round]]);
            }
            assert_eq!(sums, [vec![3.0, 1.5], vec![0.75; 3]]);
            assert_eq!(sent, [7.0, 7.0]);
        }
    }

    #[test]
    fn bfloat16_is_added_up_in_float32() {
        // 1 + 2^-8 is halfway between two numbers of bfloat16, and goes to the even one.
        let small = 1.0 / 256.0;
        let give = [[1.0 + small, 256.0], [small, 1.0], [small, 1.0]];
        let found = ranks(3, |rank| {
            let mut buckets = [give[rank.rank()].to_vec()].into_iter();
            rank.sum(&mut buckets, Precision::Bfloat16).unwrap().remove(0)
        });
        // In bfloat16 throughout, 256 + 1 would be 256 again, and so would be 257.
        assert!(found.iter().all(|sums| sums == &[1.0 + 2.0 * small, 258.0]), "{found:?}");
    }

    #[test]
    fn parameters_become_those_of_rank_0() {
        let found = ranks(2, |rank| {
            let mut noise = Noise::seeded(rank.rank() as u64);
            let layer = Linear::init(3, 2, &mut noise, &Device::flex().autodiff());
            let layer = same_parameters(layer, rank).unwrap();
            assert!(layer.weight.val().is_require_grad());
            layer.weight.val().into_data().try_to_vec::<f32>().unwrap()
        });
        assert_eq!(found[0], found[1]);
        assert!(found[0].iter().any(|&weight| weight != 0.0));
    }

    #[test]
    fn a_rank_that_ends_does_not_leave_the_others_waiting() {
        let found = ranks(3, |rank| (rank.rank() != 1).then(|| rank.gather(&[1.0]).unwrap_err().to_string()));
        assert!(found[0].as_ref().unwrap().contains("another rank has ended"), "{found:?}");
        assert_eq!((&found[1], &found[0]), (&None, &found[2]));
        let same = ranks(2, |rank| check_same(rank, "a configuration", &[rank.rank() as u8]));
        let text = same[0].as_ref().unwrap_err().to_string();
        assert!(text.contains("rank 1 has a configuration that differs"), "{text}");
    }
}
