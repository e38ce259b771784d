//! The reverse part of a run: an open-addressing table from an id's hash to its position.
//!
//! One byte of tag (0 = empty) and one `u32` position for each slot, in two arrays, so that most
//! of a search reads tags only. A search starts at the hash's home slot and goes up; it never
//! wraps: the arrays are a little longer than the home slots, and end in an empty slot.
//! A new id takes its home slot and shifts the others up by one ("last come, first served"), so
//! where a run holds one id twice, the search meets the later position first.

/// Slots of 5 for every 4 ids: a load of 0.8.
const SLOTS_FOR: (u64, u64) = (5, 4);
/// Ids inserted together in slot order: random insertion would miss the cache for every id.
const BATCH_IDS: usize = 1 << 20;
const EMPTY: u8 = 0;

/// The home slot of a hash among `home_slots`, from its high bits.
#[inline]
pub(super) fn home(hash: u64, home_slots: u64) -> u64 {
    ((u128::from(hash) * u128::from(home_slots)) >> 64) as u64
}

/// The tag of a hash, from its low bits; never [`EMPTY`].
#[inline]
pub(super) fn tag(hash: u64) -> u8 {
    (hash as u8).max(1)
}

/// Home slots of a run of `count` ids.
pub(super) fn home_slots(count: u32) -> u64 {
    (u64::from(count) * SLOTS_FOR.0)
        .div_ceil(SLOTS_FOR.1)
        .max(1)
}

/// Where `tag` next occurs in `tags` before an empty slot.
///
/// Eight tags at a time: a loop over single ones mispredicts its end for nearly every id, which
/// stops the processor from waiting for several ids at once (15 % in bulk, measured).
#[inline]
pub(super) fn scan(tags: &[u8], tag: u8) -> Scan {
    let wanted = u64::from_ne_bytes([tag; 8]);
    let mut words = tags.chunks_exact(8);
    for (number, word) in words.by_ref().enumerate() {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        let word = u64::from_le_bytes(bytes);
        // The lowest marked byte of each is exact, only higher ones may be false.
        let ends = zero_bytes(word ^ wanted) | zero_bytes(word);
        if ends != 0 {
            let within = ends.trailing_zeros() as usize / 8;
            return met(bytes[within], number * 8 + within);
        }
    }
    let rest = words.remainder();
    let end = rest
        .iter()
        .position(|&found| found == tag || found == EMPTY);
    match end {
        Some(within) => met(rest[within], tags.len() - rest.len() + within),
        None => Scan::GoesOn,
    }
}

#[inline]
fn met(tag: u8, index: usize) -> Scan {
    if tag == EMPTY {
        Scan::Absent
    } else {
        Scan::Candidate(index)
    }
}

/// Marks the top bit of (at least) the lowest zero byte.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}

/// What [`scan`] met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The tag, this many slots on.
    Candidate(usize),
    /// An empty slot: the id is not in the table.
    Absent,
    /// The end of the slots given.
    GoesOn,
}

/// Builds the table; holds 6.25 bytes for each id and at most 8 MiB besides.
#[derive(Debug)]
pub(super) struct TableBuilder {
    home_slots: u64,
    tags: Vec<u8>,
    positions: Vec<u32>,
    /// Home slot (36 bits), index in the batch (20 bits), tag (8 bits); see [`insert`](Self::insert).
    batch: Vec<u64>,
    batch_first: u32,
}

const _: () = assert!(BATCH_IDS <= 1 << 20);

impl TableBuilder {
    /// A table for a run of `count` positions.
    pub(super) fn new(count: u32) -> Self {
        let home_slots = home_slots(count);
        Self {
            home_slots,
            tags: vec![EMPTY; home_slots as usize],
            positions: vec![0; home_slots as usize],
            batch: Vec::new(),
            batch_first: 0,
        }
    }

    /// Adds the id with this hash at `position`; positions come in ascending order.
    pub(super) fn insert(&mut self, hash: u64, position: u32) {
        if self.batch.is_empty() || position - self.batch_first >= BATCH_IDS as u32 {
            self.insert_batch();
            self.batch_first = position;
        }
        let index = u64::from(position - self.batch_first);
        let slot = home(hash, self.home_slots);
        self.batch
            .push(slot << 28 | index << 8 | u64::from(tag(hash)));
    }

    fn insert_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_unstable();
        for &entry in &batch {
            let position = self.batch_first + (entry >> 8 & 0xf_ffff) as u32;
            self.place((entry >> 28) as usize, entry as u8, position);
        }
        batch.clear();
        self.batch = batch;
    }

    fn place(&mut self, home: usize, tag: u8, position: u32) {
        let cluster = self.tags[home..].iter().take_while(|&&tag| tag != EMPTY);
        let empty = home + cluster.count();
        if empty == self.tags.len() {
            self.tags.push(EMPTY);
            self.positions.push(0);
        }
        self.tags.copy_within(home..empty, home + 1);
        self.positions.copy_within(home..empty, home + 1);
        self.tags[home] = tag;
        self.positions[home] = position;
    }

    /// The finished arrays, equally long: tags and positions.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<u32>) {
        self.insert_batch();
        if self.tags.last() != Some(&EMPTY) {
            self.tags.push(EMPTY);
            self.positions.push(0);
        }
        (self.tags, self.positions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find_all(tags: &[u8], positions: &[u32], count: u32, hash: u64) -> Vec<u32> {
        let mut slot = home(hash, home_slots(count)) as usize;
        let mut found = Vec::new();
        while let Scan::Candidate(skip) = scan(&tags[slot..], tag(hash)) {
            found.push(positions[slot + skip]);
            slot += skip + 1;
        }
        found
    }

    proptest! {
        /// Few distinct high bits make long clusters, also at the very end of the table.
        #[test]
        fn every_position_is_found_the_latest_first(
            hashes in prop::collection::vec((0u64..4, 0u64..5, any::<bool>()), 1..200)
        ) {
            let count = hashes.len() as u32;
            let hashes: Vec<u64> = hashes
                .iter()
                .map(|&(high, low, end)| if end { u64::MAX - low } else { high << 61 | low })
                .collect();
            let mut builder = TableBuilder::new(count);
            for (position, &hash) in hashes.iter().enumerate() {
                builder.insert(hash, position as u32);
            }
            let (tags, positions) = builder.finish();
            prop_assert_eq!(tags.len(), positions.len());
            for &hash in &hashes {
                let found = find_all(&tags, &positions, count, hash);
                let same: Vec<u32> = (0..count)
                    .rev()
                    .filter(|&position| hashes[position as usize] == hash)
                    .collect();
                let among: Vec<u32> = found.into_iter().filter(|at| same.contains(at)).collect();
                prop_assert_eq!(among, same);
            }
            let entries = tags.iter().filter(|&&tag| tag != EMPTY).count();
            prop_assert_eq!(entries, hashes.len());
        }
    }

    #[test]
    fn batches_may_split_a_run() {
        let count = BATCH_IDS as u32 + 1_000;
        let hash = |position: u32| u64::from(position).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut builder = TableBuilder::new(count);
        (0..count).for_each(|position| builder.insert(hash(position), position));
        let (tags, positions) = builder.finish();
        for position in (0..count).step_by(997).chain(count - 1_001..count) {
            assert!(find_all(&tags, &positions, count, hash(position)).contains(&position));
        }
    }
}
