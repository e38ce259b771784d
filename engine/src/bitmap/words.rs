//! One container of users as plain bits.

use std::ops::Range;

use super::{CONTAINER_BITS, CONTAINER_WORDS};

/// A dense set of the low halves of one container's ordinals: 65 536 bits in 8 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct Words {
    words: Box<[u64; CONTAINER_WORDS]>,
}

impl std::fmt::Debug for Words {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.iter().take(20)).finish()
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::new()
    }
}

impl Words {
    /// The empty set.
    #[inline]
    pub fn new() -> Self {
        Self {
            words: Box::new([0; CONTAINER_WORDS]),
        }
    }

    /// The set of the places in `range`, which ends at 65 536 at most.
    pub fn of_range(range: Range<u32>) -> Self {
        let mut words = Self::new();
        words.insert_range(range);
        words
    }

    /// Removes every member.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// The bits, lowest place first.
    #[inline]
    pub fn as_slice(&self) -> &[u64; CONTAINER_WORDS] {
        &self.words
    }

    /// The bits, to be changed in place.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u64; CONTAINER_WORDS] {
        &mut self.words
    }

    /// Adds one place.
    #[inline]
    pub fn insert(&mut self, low: u16) {
        self.words[usize::from(low >> 6)] |= 1 << (low & 63);
    }

    /// Adds one place where `holds`, without a branch.
    #[inline]
    pub fn insert_if(&mut self, low: u16, holds: bool) {
        self.words[usize::from(low >> 6)] |= u64::from(holds) << (low & 63);
    }

    /// Removes one place.
    #[inline]
    pub fn remove(&mut self, low: u16) {
        self.words[usize::from(low >> 6)] &= !(1 << (low & 63));
    }

    /// True where the place is a member.
    #[inline]
    pub fn contains(&self, low: u16) -> bool {
        self.words[usize::from(low >> 6)] >> (low & 63) & 1 != 0
    }

    /// Adds the places in `range`; what lies beyond 65 536 is ignored.
    pub fn insert_range(&mut self, range: Range<u32>) {
        self.apply_range(range, |word, mask| *word |= mask);
    }

    /// Removes the places in `range`; what lies beyond 65 536 is ignored.
    pub fn remove_range(&mut self, range: Range<u32>) {
        self.apply_range(range, |word, mask| *word &= !mask);
    }

    /// Keeps only the members in `range`.
    pub fn restrict(&mut self, range: Range<u32>) {
        let end = range.end.max(range.start);
        self.remove_range(0..range.start);
        self.remove_range(end..CONTAINER_BITS as u32);
    }

    fn apply_range(&mut self, range: Range<u32>, apply: impl Fn(&mut u64, u64)) {
        let end = (range.end as usize).min(CONTAINER_BITS);
        let start = range.start as usize;
        if start >= end {
            return;
        }
        let (first, last) = (start / 64, (end - 1) / 64);
        let head = u64::MAX << (start % 64);
        let tail = u64::MAX >> (63 - (end - 1) % 64);
        if first == last {
            apply(&mut self.words[first], head & tail);
            return;
        }
        apply(&mut self.words[first], head);
        for word in &mut self.words[first + 1..last] {
            apply(word, u64::MAX);
        }
        apply(&mut self.words[last], tail);
    }

    /// Adds the members of `other`.
    #[inline]
    pub fn or(&mut self, other: &Self) {
        self.zip(other, |word, other| *word |= other);
    }

    /// Keeps the members that are in `other` too.
    #[inline]
    pub fn and(&mut self, other: &Self) {
        self.zip(other, |word, other| *word &= other);
    }

    /// Removes the members of `other` that are in it, and adds those that are not.
    pub fn toggle(&mut self, other: &Self) {
        self.zip(other, |word, other| *word ^= other);
    }

    /// How many members are in `other` too.
    #[inline]
    pub fn common_len(&self, other: &Self) -> u32 {
        let pairs = self.words.iter().zip(other.words.iter());
        pairs.map(|(word, other)| (word & other).count_ones()).sum()
    }

    /// Removes the members of `other`.
    #[inline]
    pub fn and_not(&mut self, other: &Self) {
        self.zip(other, |word, other| *word &= !other);
    }

    #[inline]
    fn zip(&mut self, other: &Self, apply: impl Fn(&mut u64, u64)) {
        for (word, &other) in self.words.iter_mut().zip(other.words.iter()) {
            apply(word, other);
        }
    }

    /// Number of members.
    #[inline]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// True where there is no member.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Number of members in `range`.
    pub fn len_in(&self, range: Range<u32>) -> u32 {
        let end = (range.end as usize).min(CONTAINER_BITS);
        let start = range.start as usize;
        if start >= end {
            return 0;
        }
        let (first, last) = (start / 64, (end - 1) / 64);
        let head = u64::MAX << (start % 64);
        let tail = u64::MAX >> (63 - (end - 1) % 64);
        if first == last {
            return (self.words[first] & head & tail).count_ones();
        }
        let middle: u32 = self.words[first + 1..last]
            .iter()
            .map(|word| word.count_ones())
            .sum();
        (self.words[first] & head).count_ones() + middle + (self.words[last] & tail).count_ones()
    }

    /// Calls `visit` with each member, ascending: faster than [`Words::iter`].
    pub fn for_each(&self, mut visit: impl FnMut(u16)) {
        for (index, &word) in self.words.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                visit((index * 64) as u16 | rest.trailing_zeros() as u16);
                rest &= rest - 1;
            }
        }
    }

    /// The members, ascending.
    #[inline]
    pub fn iter(&self) -> WordIter<'_> {
        WordIter {
            words: &self.words,
            index: 0,
            rest: self.words[0],
        }
    }

    /// Number of runs of neighbouring members.
    pub(super) fn run_count(&self) -> u32 {
        let mut before = 0;
        let mut runs = 0;
        for &word in self.words.iter() {
            runs += (word & !(word << 1 | before)).count_ones();
            before = word >> 63;
        }
        runs
    }
}

impl Extend<u16> for Words {
    fn extend<I: IntoIterator<Item = u16>>(&mut self, lows: I) {
        lows.into_iter().for_each(|low| self.insert(low));
    }
}

impl FromIterator<u16> for Words {
    fn from_iter<I: IntoIterator<Item = u16>>(lows: I) -> Self {
        let mut words = Self::new();
        words.extend(lows);
        words
    }
}

/// The members of a [`Words`], ascending.
#[derive(Clone, Debug)]
pub struct WordIter<'a> {
    words: &'a [u64; CONTAINER_WORDS],
    index: usize,
    rest: u64,
}

impl Iterator for WordIter<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        while self.rest == 0 {
            self.index += 1;
            self.rest = *self.words.get(self.index)?;
        }
        let low = (self.index * 64) as u16 | self.rest.trailing_zeros() as u16;
        self.rest &= self.rest - 1;
        Some(low)
    }
}
