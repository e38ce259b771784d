//! Steps that a client takes, and the states that they may have left behind.
//!
//! A step that was acknowledged has happened; one that failed, or that a crash cut off, has
//! happened or not, and a bulk load up to any of its batches. [`States`] keeps every possibility
//! until the store tells which it was; a store that is in none of them has lost something
//! acknowledged, kept half a batch, or invented one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pugmark_engine::storage::Storage;
use pugmark_engine::{Clock, OpenError, Options, Store, WriteError};

use crate::dice::Dice;
use crate::events::{self, DAY, Event, START, Traits};
use crate::reference::{Reference, Trails};

/// One thing that a client asks of a store.
#[derive(Clone, Debug)]
pub enum Step {
    /// Append a batch.
    Append(Vec<Event>),
    /// Set traits.
    SetTraits(Traits),
    /// Turn everything into segments.
    Flush,
    /// Merge all segments.
    Compact,
    /// Drop what is older.
    DropBefore(i64),
    /// Load batches in bulk, from where an earlier attempt came to.
    Load {
        /// What stands for the input.
        key: u128,
        /// The input.
        batches: Vec<Vec<Event>>,
    },
}

impl Step {
    /// Takes the step. Returns how many events were stored, where the store tells.
    ///
    /// # Errors
    /// What the store answers.
    pub fn take(&self, store: &Store) -> Result<Option<u64>, WriteError> {
        match self {
            Self::Append(events) => store
                .append(events::batch_of(events))
                .map(|done| Some(done.stored)),
            Self::SetTraits(traits) => {
                let values = traits
                    .values
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.clone()));
                store
                    .set_traits(&traits.user, traits.time, values)
                    .map(|()| None)
            }
            Self::Flush => store.flush().map(|()| None),
            Self::Compact => store.compact().map(|()| None),
            Self::DropBefore(time) => store.drop_before(*time).map(|_| None),
            Self::Load { key, batches } => load(store, *key, batches).map(|()| None),
        }
    }

    /// What the step does to a reference store once it is done.
    fn apply(&self, reference: &mut Reference, now: i64) -> Option<u64> {
        match self {
            Self::Append(events) => return Some(reference.append(events, now)),
            Self::SetTraits(traits) => reference.set_traits(traits),
            Self::Flush | Self::Compact => {}
            Self::DropBefore(time) => reference.drop_before(*time),
            Self::Load { key, batches } => reference.load(*key, batches, batches.len()),
        }
        None
    }

    /// The states that the step may have led to when nobody knows how it went.
    fn apply_perhaps(&self, before: &Reference, now: i64) -> Vec<Reference> {
        if let Self::Load { key, batches } = self {
            let counts = before.loaded(*key)..=batches.len();
            let loaded = |count| {
                let mut after = before.clone();
                after.load(*key, batches, count);
                after
            };
            return counts.map(loaded).collect();
        }
        let mut after = before.clone();
        self.apply(&mut after, now);
        vec![before.clone(), after]
    }
}

/// Loads in bulk what an earlier attempt has not.
fn load(store: &Store, key: u128, batches: &[Vec<Event>]) -> Result<(), WriteError> {
    let mut load = store.bulk_load(key)?;
    if load.is_complete() {
        return Ok(());
    }
    let skip = load.rows_done();
    let mut rows = 0;
    for batch in batches {
        rows += batch.len() as u64;
        if rows > skip {
            load.append(events::batch_of(batch), rows)?;
        }
    }
    load.finish(rows)
}

/// Every state that a store may be in, as far as its client knows.
#[derive(Clone, Debug)]
pub struct States {
    candidates: Vec<Reference>,
}

impl States {
    /// An empty store.
    pub fn new(options: &Options) -> Self {
        let empty = Reference::new(options.partition_micros, options.dedup_window_micros);
        Self {
            candidates: vec![empty],
        }
    }

    /// The step was acknowledged. Returns how many events it has stored, where that is certain.
    pub fn done(&mut self, step: &Step, now: i64) -> Option<u64> {
        let mut stored = Vec::new();
        for candidate in &mut self.candidates {
            stored.push(step.apply(candidate, now));
        }
        if stored.len() == 1 { stored[0] } else { None }
    }

    /// The step failed, or the store crashed before it was acknowledged.
    pub fn perhaps(&mut self, step: &Step, now: i64) {
        let before = std::mem::take(&mut self.candidates);
        for after in before
            .iter()
            .flat_map(|before| step.apply_perhaps(before, now))
        {
            if !self.candidates.contains(&after) {
                self.candidates.push(after);
            }
        }
        assert!(
            self.candidates.len() <= 1_000,
            "too many steps of unknown outcome"
        );
    }

    /// The store holds `found`; it must be one of the states. From now on it is known.
    ///
    /// # Panics
    /// Where the store is in none of the states.
    pub fn settle(&mut self, found: &Trails, context: &dyn Fn() -> String) {
        let before = self.candidates.clone();
        self.candidates
            .retain(|candidate| candidate.trails() == *found);
        if self.candidates.is_empty() {
            let least = before.first().expect("there is a state");
            let most = before.last().expect("there is a state");
            panic!(
                "{}: the store is in none of {} possible states.\nAgainst the least: {}\nAgainst the most: {}",
                context(),
                before.len(),
                least.trails().difference(found).unwrap_or_default(),
                most.trails().difference(found).unwrap_or_default(),
            );
        }
        // What differs only in message ids that were never stored is settled by later steps.
    }

    /// The state, where it is known.
    pub fn known(&self) -> Option<Trails> {
        let mut all = self.candidates.iter().map(Reference::trails);
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }
}

/// A clock that stands still until it is told to move.
#[derive(Clone, Debug, Default)]
pub struct HandClock(Arc<AtomicI64>);

impl HandClock {
    /// A clock that shows `time`.
    pub fn at(time: i64) -> Self {
        Self(Arc::new(AtomicI64::new(time)))
    }

    /// What it shows.
    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Moves it on.
    pub fn advance(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// The clock, for a store.
    pub fn clock(&self) -> Clock {
        let this = self.clone();
        Clock::custom(move || this.now())
    }
}

/// Options that make everything happen often: tiny memory tables, segments, blocks and loads.
pub fn tiny_options() -> Options {
    Options {
        partition_micros: 10 * DAY,
        memtable_bytes: 2_048,
        segment_bytes: 4_096,
        max_frozen: 1,
        max_layers: 2,
        bulk_rows: 8,
        ..Options::default()
    }
}

/// As [`tiny_options`], but nothing happens unless asked for: so a run can be repeated.
pub fn quiet_options(clock: &HandClock) -> Options {
    Options {
        memtable_bytes: 1 << 20,
        background_compaction: false,
        clock: clock.clock(),
        ..tiny_options()
    }
}

/// Opens the store in `storage`.
///
/// # Errors
/// What the store answers.
pub fn open(storage: Arc<dyn Storage>, options: &Options) -> Result<Store, OpenError> {
    Store::builder("")
        .storage(storage)
        .options(options.clone())
        .open()
}

/// A repeatable endless run of steps of one client, whose users' ids all begin with `users`.
#[derive(Clone, Debug)]
pub struct Script {
    dice: Dice,
    users: String,
    serial: u64,
    steps: u64,
    drops: bool,
    later_by: i64,
    last_batch: Vec<Event>,
}

impl Script {
    /// The script of `seed`. With `drops`, old partitions are dropped now and then.
    pub fn new(seed: u64, users: &str, drops: bool) -> Self {
        Self {
            dice: Dice::new(seed),
            users: users.to_owned(),
            serial: 0,
            steps: 0,
            drops,
            later_by: 0,
            last_batch: Vec::new(),
        }
    }

    /// The same with all events so much later, out of reach of another client's drops.
    #[must_use]
    pub fn later_by(mut self, micros: i64) -> Self {
        self.later_by = micros;
        self
    }

    fn events(&mut self, most: u64) -> Vec<Event> {
        let count = 1 + self.dice.below(most);
        let mut events = Vec::new();
        for _ in 0..count {
            self.serial += 1;
            let mut event = events::numbered_event(&mut self.dice, &self.users, self.serial);
            // Time goes on slowly, so that what is dropped is old.
            event.time += (self.steps / 40) as i64 * DAY + self.later_by;
            events.push(event);
        }
        events
    }

    /// A batch of its own, or one with message ids, some of which are retries.
    fn append(&mut self) -> Step {
        let mut events = self.events(8);
        if self.dice.one_in(2) {
            for event in &mut events {
                let serial = self.serial * 100 + self.dice.below(90);
                event.message_id = Some(format!("{}-{serial}", self.users));
            }
            if self.dice.one_in(3) {
                events.extend(self.last_batch.iter().take(3).cloned());
            }
            self.last_batch.clone_from(&events);
        }
        Step::Append(events)
    }
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.steps += 1;
        Some(match self.dice.below(20) {
            0..=10 => self.append(),
            11 | 12 => {
                let user = format!("{}{}", self.users, self.dice.below(12));
                let time = START + self.dice.below(100) as i64 * DAY;
                self.serial += 1;
                let values = vec![
                    ("serial".to_owned(), (self.serial as i64).into()),
                    (
                        "plan".to_owned(),
                        (*self.dice.pick(&["free", "paid"])).into(),
                    ),
                ];
                Step::SetTraits(Traits { user, time, values })
            }
            13 | 14 => Step::Flush,
            15 => Step::Compact,
            16 if self.drops => {
                let old = (self.steps / 40) as i64 - 30;
                Step::DropBefore(START + old.max(10) * DAY)
            }
            17 | 18 => {
                let batches = (0..1 + self.dice.below(3))
                    .map(|_| self.events(8))
                    .collect();
                let key = u128::from(self.dice.any());
                Step::Load { key, batches }
            }
            _ => self.append(),
        })
    }
}
