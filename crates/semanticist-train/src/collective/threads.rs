//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use semanticist::{Error, Precision, Result};

use super::{Collective, GATHERED, summed};

/// A rank of one process; all ranks meet at one table.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    ranks: usize,
    meeting: Arc<Meeting>,
}

#[derive(Debug, Default)]
struct Meeting {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// Meetings that all have come to.
    rounds: u64,
    /// What the ranks have brought to the next one.
    brought: Vec<(usize, Vec<f64>)>,
    /// What was there at the last one, in the order of ranks. Nobody comes to the next before having seen it.
    last: Arc<Vec<Vec<f64>>>,
    /// Whether a rank has ended.
    deserted: bool,
}

impl Threads {
    /// So many ranks.
    pub fn group(ranks: usize) -> Vec<Self> {
        let meeting = Arc::new(Meeting::default());
        (0..ranks).map(|rank| Self { rank, ranks, meeting: meeting.clone() }).collect()
    }

    /// What all ranks bring.
    fn exchange(&self, own: Vec<f64>) -> Result<Arc<Vec<Vec<f64>>>> {
        let mut table = self.meeting.table();
        let round = table.rounds;
        table.brought.push((self.rank, own));
        if table.brought.len() == self.ranks {
            let mut brought = std::mem::take(&mut table.brought);
            brought.sort_by_key(|(rank, _)| *rank);
            table.last = Arc::new(brought.into_iter().map(|(_, values)| values).collect());
            table.rounds += 1;
            self.meeting.changed.notify_all();
        }
        let waits = |table: &mut Table| table.rounds == round && !table.deserted;
        let table = self.meeting.changed.wait_while(table, waits);
        let table = table.expect("nobody panics at the table");
        if table.rounds == round {
            return Err(Error::Training("another rank has ended; its own message says why".into()));
        }
        Ok(table.last.clone())
    }
}

impl Meeting {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nobody panics at the table")
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>> {
        assert!(own.len() <= GATHERED, "{} numbers of a rank", own.len());
        Ok(self.exchange(own.to_vec())?.to_vec())
    }

    fn sum(&self, buckets: &mut dyn Iterator<Item = Vec<f32>>, wire: Precision) -> Result<Vec<Vec<f32>>> {
        let sum = |bucket: Vec<f32>| {
            let count = bucket.len();
            let all = self.exchange(bucket.into_iter().map(f64::from).collect())?;
            let of = |place: usize| summed(all.iter().map(|values| values[place] as f32), wire);
            Ok((0..count).map(of).collect())
        };
        buckets.map(sum).collect()
    }

    fn broadcast(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        let all = self.exchange(values.into_iter().map(f64::from).collect())?;
        Ok(all[0].iter().map(|&value| value as f32).collect())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.meeting.table().deserted = true;
        self.meeting.changed.notify_all();
    }
}
