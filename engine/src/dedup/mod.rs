//! Message ids within a window of arrival, so that a retried event is stored once.
//!
//! An id is remembered as a 128-bit keyed hash and the arrival of its event: on the heap at
//! first, then in sorted runs on disk that are merged by size and dropped whole once their
//! youngest id is older than the window. A check searches the heap and each run: one block of a
//! run, by interpolation.
//!
//! **The window.** Arrivals count in whole milliseconds, rounded down. An id accepted at arrival
//! `a` is a duplicate at arrival `b` exactly where `b - a <= window`; later it is new again, and
//! `b` is its arrival from then on. A duplicate does not prolong the window.
//!
//! **A clock that goes back.** `b - a` may be negative: then the id is a duplicate, whatever the
//! distance (until its run was dropped, by a clock that was ahead). Nothing overflows. A run
//! with an arrival far in the future stays until that time has come and the window has passed.
//!
//! This module knows no events and no manifest: the caller writes what [`MessageIds::seal`] and
//! [`MergePlan::write`] give it durably, commits the manifest, and then has it installed.

mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use self::run::{Entry, Run, RunWriter};
use crate::error::{ReadError, WriteError};
use crate::storage::{FileWriter, Storage};

/// Ids on the heap at which it is best sealed: its hash table is just full (25 MiB), and the
/// table, the sorted copy and the image while sealing stay under 64 MiB.
pub const SEAL_IDS: usize = (1 << 20) / 8 * 7;
/// Runs are merged while they span at most this part of the window, so that what is kept on
/// disk beyond the window is no more than this part of it.
const SPAN_PARTS: i64 = 4;
/// Most ids of a merged run.
const MAX_RUN_IDS: u64 = 1 << 27;

/// A sealed run of message ids, as the manifest names it: the file `dedup/<number>.mid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupRunMeta {
    /// The file's number.
    pub number: u64,
    /// How many ids.
    pub count: u32,
    /// Arrival of its oldest id, in whole milliseconds since 1970-01-01 UTC (rounded down).
    pub min_arrival_millis: i64,
    /// Arrival of its newest id, in the same unit.
    pub max_arrival_millis: i64,
    /// The file's length in bytes.
    pub length: u64,
}

/// The image of a run with all ids that only the heap held.
#[derive(Clone, Debug)]
pub struct SealedMessageIds {
    /// What the manifest is to say of it.
    pub meta: DedupRunMeta,
    /// The file's bytes.
    pub image: Bytes,
}

/// The ids of accepted messages. Used under the store's append lock.
#[derive(Debug)]
pub struct MessageIds {
    storage: Arc<dyn Storage>,
    seed: u64,
    window_millis: i64,
    heap: HashTable<Entry>,
    /// Sealed runs, still in memory, until their files are installed; oldest first.
    sealing: Vec<Arc<Run>>,
    /// By arrival, so far as the clock went forward: merges take neighbours.
    runs: Vec<Arc<Run>>,
}

fn millis(arrival_micros: i64) -> i64 {
    arrival_micros.div_euclid(1_000)
}

impl MessageIds {
    /// Opens the runs, in any order. Maps the files and reads their footers.
    ///
    /// # Errors
    /// Where a file cannot be mapped, or its footer is damaged or of another seed.
    pub fn open(
        storage: Arc<dyn Storage>,
        seed: u64,
        window_micros: i64,
        runs: &[DedupRunMeta],
    ) -> Result<Self, ReadError> {
        let open = |meta: &DedupRunMeta| Run::open(&*storage, seed, *meta).map(Arc::new);
        let mut runs: Vec<Arc<Run>> = runs.iter().map(open).collect::<Result<_, _>>()?;
        runs.sort_by_key(|run| (run.meta().max_arrival_millis, run.meta().number));
        Ok(Self {
            storage,
            seed,
            window_millis: millis(window_micros),
            heap: HashTable::new(),
            sealing: Vec::new(),
            runs,
        })
    }

    fn hash(&self, id: &str) -> u128 {
        xxh3_128_with_seed(id.as_bytes(), self.seed)
    }

    fn within_window(&self, seen_millis: i64, arrival_millis: i64) -> bool {
        arrival_millis.saturating_sub(seen_millis) <= self.window_millis
    }

    fn on_heap(&self, hash: u128, arrival_millis: i64) -> bool {
        let found = self.heap.find(hash as u64, |entry| entry.hash() == hash);
        found.is_some_and(|entry| self.within_window(entry.arrival_millis, arrival_millis))
    }

    /// Sealed runs that may make a message of that arrival a duplicate.
    fn runs_within(&self, arrival_millis: i64) -> impl Iterator<Item = &Arc<Run>> {
        let runs = self.sealing.iter().chain(&self.runs);
        runs.filter(move |run| self.within_window(run.meta().max_arrival_millis, arrival_millis))
    }

    fn remember(&mut self, hash: u128, arrival_millis: i64) {
        let slot = self.heap.entry(
            hash as u64,
            |entry| entry.hash() == hash,
            |entry| entry.hash() as u64,
        );
        match slot {
            Slot::Occupied(mut slot) => {
                let entry = slot.get_mut();
                entry.arrival_millis = entry.arrival_millis.max(arrival_millis);
            }
            Slot::Vacant(slot) => {
                slot.insert(Entry::new(hash, arrival_millis));
            }
        }
    }

    /// True where a message with this id, arriving then, is a duplicate. Remembers nothing.
    ///
    /// # Errors
    /// Where a run is damaged.
    pub fn contains(&self, id: &str, arrival_micros: i64) -> Result<bool, ReadError> {
        let (hash, arrival) = (self.hash(id), millis(arrival_micros));
        let mut known = self.on_heap(hash, arrival);
        for run in self.runs_within(arrival) {
            let seen = run.find(hash)?;
            known |= seen.is_some_and(|seen| self.within_window(seen, arrival));
        }
        Ok(known)
    }

    /// Of each of these ids, one after the other, whether its message is new: then it is remembered.
    ///
    /// # Errors
    /// Where a run is damaged; none of the ids is remembered then.
    pub fn check_and_insert(
        &mut self,
        ids: &[&str],
        arrival_micros: i64,
    ) -> Result<Vec<bool>, ReadError> {
        let arrival = millis(arrival_micros);
        let hashes: Vec<u128> = ids.iter().map(|id| self.hash(id)).collect();
        let mut new = vec![true; hashes.len()];
        for run in self.runs_within(arrival) {
            run.find_all(&hashes, |index, seen| {
                new[index] &= !self.within_window(seen, arrival);
            })?;
        }
        for (new, &hash) in new.iter_mut().zip(&hashes) {
            *new = *new && !self.on_heap(hash, arrival);
            if *new {
                self.remember(hash, arrival);
            }
        }
        Ok(new)
    }

    /// Remembers the id of a message that was accepted before, as replaying a log does.
    pub fn insert(&mut self, id: &str, arrival_micros: i64) {
        self.remember(self.hash(id), millis(arrival_micros));
    }

    /// Number of ids on the heap; seal at [`SEAL_IDS`].
    pub fn heap_len(&self) -> usize {
        let sealing: usize = self
            .sealing
            .iter()
            .map(|run| run.meta().count as usize)
            .sum();
        self.heap.len() + sealing
    }

    /// Number of ids that no sealed run holds.
    pub fn unsealed(&self) -> usize {
        self.heap.len()
    }

    /// Bytes on the heap, the directories of mapped runs included (16 KiB for a million ids).
    pub fn heap_bytes(&self) -> usize {
        let sealing: u64 = self.sealing.iter().map(|run| run.meta().length).sum();
        let runs = self.runs.iter().chain(&self.sealing);
        let directories: usize = runs.map(|run| run.directory_bytes()).sum();
        self.heap.allocation_size() + sealing as usize + directories
    }

    /// The runs, as the manifest is to name them.
    pub fn runs(&self) -> Vec<DedupRunMeta> {
        self.runs.iter().map(|run| *run.meta()).collect()
    }

    /// Builds a run of all ids that no sealed run holds; `None` where there are none. They are
    /// found as before, and leave the heap when the run is [installed](Self::install). Several
    /// sealed runs may wait for their files.
    ///
    /// # Errors
    /// Never for bytes of files; a damaged image in memory is reported rather than trusted.
    pub fn seal(&mut self, number: u64) -> Result<Option<SealedMessageIds>, ReadError> {
        if self.heap.is_empty() {
            return Ok(None);
        }
        let mut entries: Vec<Entry> = std::mem::take(&mut self.heap).into_iter().collect();
        entries.sort_unstable_by_key(Entry::hash);
        let arrivals = || entries.iter().map(|entry| entry.arrival_millis);
        let oldest = arrivals().min().unwrap_or(0);
        let youngest = arrivals().max().unwrap_or(0);
        let mut image = Vec::new();
        let mut sink = |bytes: &[u8]| {
            image.extend_from_slice(bytes);
            Ok(())
        };
        let mut writer = RunWriter::new(&mut sink, self.seed, oldest, youngest);
        for &entry in &entries {
            writer.push(entry)?;
        }
        let meta = writer.finish(number)?;
        drop(entries);
        let image = Bytes::from(image);
        let path = self.storage.path(&run::file_name(number));
        let run = Run::from_bytes(image.clone(), &path, self.seed, meta)?;
        self.sealing.push(Arc::new(run));
        Ok(Some(SealedMessageIds { meta, image }))
    }

    /// Answers from the file of a [sealed](Self::seal) run from now on instead of the heap. The
    /// file must be durable and the manifest committed.
    ///
    /// # Errors
    /// Where the file cannot be mapped or is not what was sealed; nothing changes then.
    ///
    /// # Panics
    /// Where `meta` is not of a sealed run that waits.
    pub fn install(&mut self, meta: DedupRunMeta) -> Result<(), ReadError> {
        let place = self.sealing.iter().position(|run| *run.meta() == meta);
        assert!(place.is_some(), "only a sealed run is installed");
        let run = Run::open(&*self.storage, self.seed, meta)?;
        self.runs.push(Arc::new(run));
        self.sealing.retain(|run| *run.meta() != meta);
        Ok(())
    }

    /// Numbers of the runs whose youngest id is older than the window: no message that arrives
    /// now or later can be a duplicate because of them. Once no manifest names them, have them
    /// [dropped](Self::drop_runs).
    pub fn expired(&self, now_micros: i64) -> Vec<u64> {
        let now = millis(now_micros);
        let runs = self.runs.iter().map(|run| run.meta());
        let expired = runs.filter(|run| !self.within_window(run.max_arrival_millis, now));
        expired.map(|run| run.number).collect()
    }

    /// Forgets the ids of these runs; their files may be removed then.
    pub fn drop_runs(&mut self, numbers: &[u64]) {
        self.runs
            .retain(|run| !numbers.contains(&run.meta().number));
    }

    /// The runs that are worth merging now; `None` for none. Merging whenever this says so
    /// keeps about 8 runs and log2(ids / ids per seal) more.
    pub fn plan_merge(&self) -> Option<MergePlan> {
        let metas = self.runs();
        let range = plan(&metas, self.window_millis / SPAN_PARTS)?;
        Some(MergePlan {
            metas: metas[range.clone()].to_vec(),
            runs: self.runs[range].to_vec(),
            seed: self.seed,
        })
    }

    /// Answers from a [merged](MergePlan::write) run instead of the old ones from now on. The
    /// file must be durable and the manifest committed; then the old files may be removed.
    ///
    /// # Errors
    /// Where the file cannot be mapped or is not what was merged; nothing changes then.
    ///
    /// # Panics
    /// Where the old runs are not (all) there any more.
    pub fn install_merged(&mut self, plan: &MergePlan, new: DedupRunMeta) -> Result<(), ReadError> {
        let old = plan.runs();
        let first = |run: &Arc<Run>| old.first() == Some(run.meta());
        let at = self.runs.iter().position(first).unwrap_or(self.runs.len());
        let there = self.runs[at..].iter().map(|run| *run.meta());
        assert!(
            there.take(old.len()).eq(old.iter().copied()),
            "merged runs are still in place"
        );
        let run = Arc::new(Run::open(&*self.storage, self.seed, new)?);
        self.runs.splice(at..at + old.len(), [run]);
        Ok(())
    }

    /// Reads every byte of every run and checks that its ids are in order.
    pub fn verify(&self) -> Result<(), ReadError> {
        for run in &self.runs {
            run.verify()?;
        }
        Ok(())
    }
}

/// The range of runs to merge next: the youngest ones with an older one as soon as they hold
/// as many ids together, as long as all span at most `most_millis`.
fn plan(runs: &[DedupRunMeta], most_millis: i64) -> Option<std::ops::Range<usize>> {
    let (mut oldest, mut youngest) = (i64::MAX, i64::MIN);
    let mut younger = 0u64;
    let mut begin = None;
    for (index, run) in runs.iter().enumerate().rev() {
        oldest = oldest.min(run.min_arrival_millis);
        youngest = youngest.max(run.max_arrival_millis);
        let together = younger + u64::from(run.count);
        if youngest.saturating_sub(oldest) > most_millis || together > MAX_RUN_IDS {
            break;
        }
        if u64::from(run.count) <= younger {
            begin = Some(index);
        }
        younger = together;
    }
    begin.map(|begin| begin..runs.len())
}

/// Adjacent runs to be written as one. Needs no lock: the runs never change.
#[derive(Clone, Debug)]
pub struct MergePlan {
    metas: Vec<DedupRunMeta>,
    runs: Vec<Arc<Run>>,
    seed: u64,
}

impl MergePlan {
    /// The runs that the merged one replaces.
    pub fn runs(&self) -> &[DedupRunMeta] {
        &self.metas
    }

    /// Writes the merged run; does not sync. An id of several runs keeps its latest arrival.
    /// Holds about a MiB.
    ///
    /// # Errors
    /// Where a run is damaged or `out` fails.
    pub fn write(&self, number: u64, out: &mut dyn FileWriter) -> Result<DedupRunMeta, WriteError> {
        let metas = || self.runs.iter().map(|run| run.meta());
        let oldest = metas().map(|run| run.min_arrival_millis).min();
        let youngest = metas().map(|run| run.max_arrival_millis).max();
        let mut sink = |bytes: &[u8]| out.append(bytes);
        let (oldest, youngest) = (oldest.unwrap_or(0), youngest.unwrap_or(0));
        let mut writer = RunWriter::new(&mut sink, self.seed, oldest, youngest);
        let mut sources: Vec<_> = self.runs.iter().map(|run| run.entries()).collect();
        let mut heads = Vec::with_capacity(sources.len());
        for source in &mut sources {
            heads.push(source.next()?);
        }
        while let Some(hash) = heads.iter().flatten().map(Entry::hash).min() {
            let mut latest = i64::MIN;
            for (head, source) in heads.iter_mut().zip(&mut sources) {
                if let Some(entry) = head.filter(|entry| entry.hash() == hash) {
                    latest = latest.max(entry.arrival_millis);
                    *head = source.next()?;
                }
            }
            writer.push(Entry::new(hash, latest))?;
        }
        Ok(writer.finish(number)?)
    }
}
