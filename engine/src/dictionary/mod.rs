//! The id dictionary: external user ids and their dense ordinals, both ways.
//!
//! ```text
//! find_or_assign -> tail (heap) -> seal -> run file -> merge -> larger run file
//! find, id       <- tail and runs, youngest first
//! ```
//! A run is a sealed file with the ids of consecutive ordinals: forwards in blocks of 128, and
//! backwards as a hash table of positions. Opening one reads its footer; a look-up touches a few
//! cache lines of the map, so that ninety million ids cost no heap to speak of.
//!
//! The dictionary knows nothing of events, nor of the manifest: the caller writes what [`seal`]
//! and [`merge`] give it durably, commits the manifest, and then has it installed.
//!
//! [`seal`]: Dictionary::seal
//! [`merge`]: Dictionary::merge

mod block;
mod bulk;
mod layers;
mod merge;
mod run;
mod snapshot;
mod spelling;
mod table;
mod tail;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use roaring::RoaringBitmap;

use self::layers::Layers;
use self::run::{NOT_FOUND, Run, RunWriter};
use self::spelling::{KeySpelling, Spelling};
use self::tail::{Part, PartIds};
use crate::error::{Corruption, ReadError, WriteError};
use crate::ids::UserKey;
use crate::storage::{FileWriter, Storage};

pub use bulk::LookedUp;
pub use snapshot::{DictionarySnapshot, UserId};

/// Ids after which a part of the tail is closed and another begun: bounds how long a growing
/// hash table holds up an append.
const PART_IDS: u32 = 1 << 20;

/// Keys that are given ordinals before readers of the youngest part are let in again.
const HELD_KEYS: usize = if cfg!(test) { 8 } else { 1 << 12 };

/// A sealed run of the dictionary, as the manifest names it: the ids of the ordinals
/// `first..first + count` in the file `ids/<number>.ids`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunMeta {
    /// The file's number.
    pub number: u64,
    /// The first ordinal.
    pub first: u32,
    /// How many ordinals.
    pub count: u32,
    /// The file's length in bytes.
    pub length: u64,
}

/// The image of a run that holds (the beginning of) the tail.
#[derive(Clone, Debug)]
pub struct SealedTail {
    /// What the manifest is to say of it.
    pub meta: RunMeta,
    /// The file's bytes.
    pub image: Vec<u8>,
}

/// External ids and their ordinals. Shared by one appending thread and any number of readers.
///
/// Ordinals are dense, in order of first arrival, and never given twice; the last one is
/// `u32::MAX - 1`. Readers see an ordinal as soon as it is given.
#[derive(Debug)]
pub struct Dictionary {
    storage: Arc<dyn Storage>,
    seed: u64,
    layers: RwLock<Arc<Layers>>,
    /// The next ordinal: everything below is in `layers`.
    next: AtomicU32,
    /// Most ids of a part of the tail.
    part_ids: u32,
    assigning: Mutex<()>,
}

impl Dictionary {
    /// Opens the dictionary with these runs, in any order. Maps the files and reads their
    /// footers, nothing else.
    ///
    /// # Errors
    /// Where a file cannot be mapped, its footer is damaged or of another seed, or the runs do
    /// not cover the ordinals from 0 without gap or overlap.
    pub fn open(storage: Arc<dyn Storage>, seed: u64, runs: &[RunMeta]) -> Result<Self, ReadError> {
        let mut metas = runs.to_vec();
        metas.sort_unstable_by_key(|run| (run.first, run.count));
        let mut next = 0u32;
        let mut runs = Vec::with_capacity(metas.len());
        for meta in metas {
            let end = meta.first.checked_add(meta.count);
            next = match end {
                Some(end) if meta.first == next && end > next => end,
                _ => {
                    let path = storage.path(&run::file_name(meta.number));
                    let what = "the runs of ids overlap or leave a gap";
                    return Err(Corruption::new(&path, 0, what).into());
                }
            };
            runs.push(Arc::new(Run::open(&*storage, seed, meta)?));
        }
        Ok(Self::with_runs(storage, seed, runs, next))
    }

    fn with_runs(storage: Arc<dyn Storage>, seed: u64, runs: Vec<Arc<Run>>, next: u32) -> Self {
        let parts = vec![Arc::new(Part::new(next, seed))];
        Self {
            storage,
            seed,
            layers: RwLock::new(Arc::new(Layers { runs, parts })),
            next: AtomicU32::new(next),
            part_ids: PART_IDS,
            assigning: Mutex::new(()),
        }
    }

    fn layers(&self) -> Arc<Layers> {
        let layers = self.layers.read();
        Arc::clone(&layers.unwrap_or_else(PoisonError::into_inner))
    }

    fn change_layers(&self, change: impl FnOnce(&mut Layers)) {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut layers));
    }

    fn assigning(&self) -> Assigning<'_> {
        let guard = self.assigning.lock();
        Assigning {
            dictionary: self,
            _guard: guard.unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Number of ordinals given, those of erased ids included.
    pub fn len(&self) -> u32 {
        self.next.load(Ordering::Acquire)
    }

    /// True before the first id.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of ids that only the heap holds; seal at about a million.
    pub fn unsealed(&self) -> u32 {
        let layers = self.layers();
        self.len() - layers.runs.last().map_or(0, |run| run.end())
    }

    /// Bytes on the heap for ids that are not sealed (16 to 32 for an integer, more for text).
    pub fn heap_bytes(&self) -> usize {
        let layers = self.layers();
        layers
            .parts
            .iter()
            .map(|part| part.read().heap_bytes())
            .sum()
    }

    /// The runs by ordinal, as the manifest is to name them.
    pub fn runs(&self) -> Vec<RunMeta> {
        self.layers().runs.iter().map(|run| *run.meta()).collect()
    }

    /// The state of now, which later appends, seals, merges and erasures do not change.
    pub fn snapshot(&self) -> DictionarySnapshot {
        let layers = self.layers();
        // Not `self.len()`: of all that grows, these layers hold the youngest part's ids only.
        let youngest = &layers.parts[layers.parts.len() - 1];
        let len = youngest.first() + youngest.read().len();
        DictionarySnapshot::new(layers, len, self.seed)
    }

    /// The ordinal of an id; see [`DictionarySnapshot::find`].
    pub fn find(&self, key: UserKey<'_>) -> Result<Option<u32>, ReadError> {
        self.snapshot().find(key)
    }

    /// The id of an ordinal; see [`DictionarySnapshot::id`].
    pub fn id(&self, ordinal: u32) -> Result<Option<UserId>, ReadError> {
        self.snapshot().id(ordinal)
    }

    /// The ordinal of an id, given now where it has none. Call it under the store's append
    /// lock, so that ordinals are given in the order of the log.
    ///
    /// # Errors
    /// Where a run is damaged or unreadable, or ordinals run out.
    pub fn find_or_assign(&self, key: UserKey<'_>) -> Result<u32, WriteError> {
        let assigning = self.assigning();
        match self.find(key)? {
            Some(ordinal) => Ok(ordinal),
            None => assigning.give(key),
        }
    }

    /// Gives an id a new ordinal though it may have one already: for a user who comes back
    /// after all that was known under the former ordinal was forgotten. From now on the id finds
    /// the new ordinal; both ordinals name the id until the former one is erased.
    ///
    /// # Errors
    /// Where ordinals run out.
    pub fn assign_anew(&self, key: UserKey<'_>) -> Result<u32, WriteError> {
        self.assigning().give(key)
    }

    /// Builds the run of the ids that only the heap holds. Ids given from now on are not in it.
    /// `None` where there are none. Does not hold up appends nor readers; the ids stay on the
    /// heap until the run is [installed](Self::install), and a failure in between costs nothing:
    /// the next call builds a run of the same ids and those that came after them.
    ///
    /// One run takes 2^26 ids; where [`unsealed`](Self::unsealed) is not 0 after the
    /// installation, and no ids came meanwhile, seal again.
    pub fn seal(&self, number: u64) -> Result<Option<SealedTail>, WriteError> {
        let assigning = self.assigning();
        assigning.close_part();
        let layers = self.layers();
        drop(assigning);
        let mut count = 0;
        // The youngest part is the empty one that ids given from now on go to.
        let closed = &layers.parts[..layers.parts.len() - 1];
        let closed = closed.iter().take_while(|part| {
            let len = part.read().len();
            let fits = len <= merge::MAX_RUN_IDS - count;
            count += if fits { len } else { 0 };
            fits
        });
        let closed: Vec<_> = closed.collect();
        let Some(first) = closed.first() else {
            return Ok(None);
        };
        let mut image = Vec::new();
        let mut sink = |bytes: &[u8]| {
            image.extend_from_slice(bytes);
            Ok(())
        };
        let mut writer = RunWriter::new(&mut sink, self.seed, first.first(), count);
        for part in closed {
            let part = part.read();
            for position in 0..part.len() {
                writer.push(part.id(position))?;
            }
        }
        let meta = writer.finish(number)?;
        Ok(Some(SealedTail { meta, image }))
    }

    /// Answers from the file of a [sealed](Self::seal) tail from now on, and drops its ids from
    /// the heap. The file must be durable and the manifest committed.
    ///
    /// # Errors
    /// Where the file cannot be mapped or is not what was sealed; nothing changes then.
    ///
    /// # Panics
    /// Where `meta` is of a run that does not continue the runs before it.
    pub fn install(&self, meta: RunMeta) -> Result<(), ReadError> {
        let run = Arc::new(Run::open(&*self.storage, self.seed, meta)?);
        self.change_layers(|layers| {
            let sealed = layers.runs.last().map_or(0, |run| run.end());
            assert_eq!(meta.first, sealed, "a run continues the runs before it");
            layers.parts.retain(|part| part.first() >= run.end());
            let left = layers.parts.first().map(|part| part.first());
            assert_eq!(left, Some(run.end()), "a run holds whole parts of the tail");
            layers.runs.push(run);
        });
        Ok(())
    }

    /// The runs that are worth merging now, adjacent and by ordinal; `None` for none. Merging
    /// whenever this says so keeps O(log n) runs.
    pub fn plan_merge(&self) -> Option<Vec<RunMeta>> {
        let runs = self.runs();
        let counts: Vec<u32> = runs.iter().map(|run| run.count).collect();
        merge::plan(&counts).map(|range| runs[range].to_vec())
    }

    /// Writes adjacent runs as one, leaving out the ids of the `erased` ordinals (these ordinals
    /// stay taken, without an id). Also rewrites a single run for an erasure. Does not sync
    /// `out`; holds up nobody. Holds 6.25 bytes for each id, and a few MiB besides.
    ///
    /// # Errors
    /// Where a run is damaged or `out` fails.
    ///
    /// # Panics
    /// Where `runs` are not adjacent runs of this dictionary.
    pub fn merge(
        &self,
        runs: &[RunMeta],
        erased: &RoaringBitmap,
        number: u64,
        out: &mut dyn FileWriter,
    ) -> Result<RunMeta, WriteError> {
        let layers = self.layers();
        let merged = place(&layers, runs);
        let sources: Vec<&Run> = layers.runs[merged].iter().map(|run| &**run).collect();
        let mut sink = |bytes: &[u8]| out.append(bytes);
        merge::write(&sources, erased, self.seed, number, &mut sink)
    }

    /// Answers from a [merged](Self::merge) run instead of the `old` ones from now on. The file
    /// must be durable and the manifest committed; then the old files may be removed.
    ///
    /// # Errors
    /// Where the file cannot be mapped or is not what was merged; nothing changes then.
    ///
    /// # Panics
    /// Where `old` are not adjacent runs of this dictionary, or `new` has other ordinals.
    pub fn install_merged(&self, old: &[RunMeta], new: RunMeta) -> Result<(), ReadError> {
        let run = Arc::new(Run::open(&*self.storage, self.seed, new)?);
        let count: u32 = old.iter().map(|run| run.count).sum();
        assert_eq!(
            (new.first, new.count),
            (old[0].first, count),
            "a merged run has the ordinals of the old ones"
        );
        self.change_layers(|layers| {
            let merged = place(layers, old);
            layers.runs.splice(merged, [run]);
        });
        Ok(())
    }

    /// Reads every byte of every run and checks that both ways agree.
    pub fn verify(&self) -> Result<(), ReadError> {
        for run in &self.layers().runs {
            run.verify(self.seed)?;
        }
        Ok(())
    }
}

/// Where `runs` lie among those of `layers`.
fn place(layers: &Layers, runs: &[RunMeta]) -> std::ops::Range<usize> {
    let first = runs.first().map(|run| run.number);
    let at = layers
        .runs
        .iter()
        .position(|run| Some(run.meta().number) == first);
    let range = at.map(|at| at..at + runs.len());
    let found = range.clone().and_then(|range| layers.runs.get(range));
    let same = |found: &[Arc<Run>]| found.iter().map(|run| run.meta()).eq(runs);
    assert!(
        found.is_some_and(same),
        "runs to merge are adjacent runs of the dictionary"
    );
    range.unwrap_or_default()
}

/// The right to give ordinals, which one thread has at a time.
struct Assigning<'d> {
    dictionary: &'d Dictionary,
    _guard: MutexGuard<'d, ()>,
}

impl Assigning<'_> {
    /// The youngest part, with room for one more id.
    fn open_part(&self) -> Arc<Part> {
        let layers = self.dictionary.layers();
        let youngest = &layers.parts[layers.parts.len() - 1];
        if youngest.read().len() < self.dictionary.part_ids {
            return Arc::clone(youngest);
        }
        self.close_part();
        self.open_part()
    }

    /// Begins a new part, unless the youngest is empty.
    fn close_part(&self) {
        let dictionary = self.dictionary;
        dictionary.change_layers(|layers| {
            let next = dictionary.len();
            if layers.parts.last().is_none_or(|part| part.first() < next) {
                let part = Part::new(next, dictionary.seed);
                layers.parts.push(Arc::new(part));
            }
        });
    }

    fn give(&self, key: UserKey<'_>) -> Result<u32, WriteError> {
        let held = KeySpelling::new(key);
        let id = held.spelling();
        let part = self.open_part();
        self.push(&mut part.write(), id, id.hash(self.dictionary.seed))
    }

    /// Gives the next ordinal to an id, in the youngest part, which has room for it.
    fn push(&self, part: &mut PartIds, id: Spelling<'_>, hash: u64) -> Result<u32, WriteError> {
        let ordinal = self.dictionary.len();
        if ordinal == NOT_FOUND {
            return Err(WriteError::TooManyUsers);
        }
        part.push(id, hash);
        self.dictionary.next.store(ordinal + 1, Ordering::Release);
        Ok(ordinal)
    }

    /// Gives the keys that are [`NOT_FOUND`] ordinals, in order; a key may be there twice.
    fn assign_missing(&self, keys: &[UserKey<'_>], ordinals: &mut [u32]) -> Result<(), WriteError> {
        // Parts that this very call filled: nobody else has given ordinals since the keys were looked up.
        let mut filled: Vec<Arc<Part>> = Vec::new();
        let keys = keys.chunks(HELD_KEYS);
        for (keys, ordinals) in keys.zip(ordinals.chunks_mut(HELD_KEYS)) {
            let mut missing = ordinals.iter().filter(|ordinal| **ordinal == NOT_FOUND);
            let mut left = missing.by_ref().count();
            let (mut keys, mut ordinals) = (keys.iter(), ordinals.iter_mut());
            while left > 0 {
                let part = self.open_part();
                let mut held = part.write();
                let room = (self.dictionary.part_ids - held.len()) as usize;
                held.reserve(left.min(room));
                for (key, ordinal) in keys.by_ref().zip(ordinals.by_ref()) {
                    if *ordinal != NOT_FOUND {
                        continue;
                    }
                    *ordinal = self.given_or_next(*key, (&part, &mut held), &filled)?;
                    left -= 1;
                    if held.len() == self.dictionary.part_ids {
                        break;
                    }
                }
                drop(held);
                if filled.last().is_none_or(|last| !Arc::ptr_eq(last, &part)) {
                    filled.push(part);
                }
            }
        }
        Ok(())
    }

    /// The ordinal that this call gave to a key, or else the next one.
    fn given_or_next(
        &self,
        key: UserKey<'_>,
        (part, held): (&Arc<Part>, &mut PartIds),
        filled: &[Arc<Part>],
    ) -> Result<u32, WriteError> {
        let key = KeySpelling::new(key);
        let id = key.spelling();
        let hash = id.hash(self.dictionary.seed);
        if let Some(position) = held.find(id, hash, u32::MAX) {
            return Ok(part.first() + position);
        }
        let before = filled.iter().rev();
        let before = before.filter(|before| !Arc::ptr_eq(before, part));
        let given = before
            .filter_map(|before| Some(before.first() + before.read().find(id, hash, u32::MAX)?));
        match given.max() {
            Some(ordinal) => Ok(ordinal),
            None => self.push(held, id, hash),
        }
    }
}
