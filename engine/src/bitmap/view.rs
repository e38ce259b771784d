//! Reading the portable roaring format in place.

use std::ops::Range;

use roaring::RoaringBitmap;

use super::{
    ARRAY_VALUES, BITS_BYTES, COOKIE_PLAIN, COOKIE_RUNS, OFFSETS_FROM, Words, join, split,
};
use crate::format::{Reader, WireError};

/// A bitmap read where it lies, in the portable roaring format.
///
/// [`BitmapView::open`] checks the whole structure (bounds, order of keys, sizes) without
/// touching the values; what the values themselves say can then be wrong only where the bytes
/// were forged, and never leads outside the bitmap. [`BitmapView::check`] looks at them too.
#[derive(Clone, Copy, Debug)]
pub struct BitmapView<'a> {
    bytes: &'a [u8],
    shape: BitmapShape,
}

/// What [`BitmapView::open`] found out, to open the same bytes again at no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapShape {
    containers: u32,
    has_runs: bool,
    has_offsets: bool,
    keys_at: u32,
    data_at: u32,
    cardinality: u64,
    byte_len: usize,
}

/// One container of a [`BitmapView`]: up to 65 536 users.
#[derive(Clone, Copy, Debug)]
pub struct ContainerView<'a> {
    /// The high half of its ordinals.
    pub key: u16,
    /// Number of users, 1..=65 536.
    pub cardinality: u32,
    /// How many users lie in the bitmap's containers before this one.
    pub first_index: u64,
    values: Stored<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Stored<'a> {
    Array(&'a [[u8; 2]]),
    Bits(&'a [[u8; 8]]),
    Runs(&'a [[u8; 4]]),
}

impl<'a> BitmapView<'a> {
    /// The bitmap without users.
    pub const EMPTY: BitmapView<'static> = BitmapView {
        bytes: &[0x3a, 0x30, 0, 0, 0, 0, 0, 0],
        shape: BitmapShape {
            containers: 0,
            has_runs: false,
            has_offsets: true,
            keys_at: 8,
            data_at: 8,
            cardinality: 0,
            byte_len: 8,
        },
    };

    /// Opens `bytes`, which must be exactly one bitmap. Costs a few instructions a container.
    ///
    /// # Errors
    /// Where the structure is not that of a bitmap that fills `bytes`.
    pub fn open(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let cookie = reader.u32()?;
        let has_runs = cookie & 0xffff == COOKIE_RUNS;
        let containers = if has_runs {
            (cookie >> 16) as usize + 1
        } else if cookie == COOKIE_PLAIN {
            reader.u32()? as usize
        } else {
            return Err(WireError {
                at: 0,
                what: "is not a bitmap",
            });
        };
        if containers > 1 << 16 {
            return Err(reader.error("a bitmap has too many containers"));
        }
        if has_runs {
            reader.raw(containers.div_ceil(8))?;
        }
        let keys_at = reader.at();
        reader.raw(containers * 4)?;
        let has_offsets = !has_runs || containers >= OFFSETS_FROM;
        if has_offsets {
            reader.raw(containers * 4)?;
        }
        let mut view = Self {
            bytes,
            shape: BitmapShape {
                containers: containers as u32,
                has_runs,
                has_offsets,
                keys_at: keys_at as u32,
                data_at: reader.at() as u32,
                cardinality: 0,
                byte_len: bytes.len(),
            },
        };
        view.check_structure(reader)?;
        Ok(view)
    }

    /// Walks the containers: keys ascend, each lies right behind the one before and where its
    /// offset says, and the last ends where the bytes end.
    fn check_structure(&mut self, mut reader: Reader<'_>) -> Result<(), WireError> {
        let mut before = None;
        for index in 0..self.shape.containers as usize {
            let (key, cardinality) = self.describe(index);
            if before.is_some_and(|before| before >= key) {
                return Err(reader.error("a bitmap's containers are out of order"));
            }
            before = Some(key);
            if self.shape.has_offsets && self.offset(index) != reader.at() {
                return Err(reader.error("a bitmap's container is not where its offset says"));
            }
            if self.is_runs(index) {
                let runs = usize::from(reader.u16()?);
                reader.raw(runs * 4)?;
            } else {
                reader.raw(plain_len(cardinality))?;
            }
            self.shape.cardinality += u64::from(cardinality);
        }
        reader.finish()
    }

    /// The bitmap in `bytes`, which [`BitmapView::open`] found to have this shape.
    ///
    /// Costs nothing. The empty bitmap where the length differs.
    pub fn from_shape(bytes: &'a [u8], shape: BitmapShape) -> Self {
        if bytes.len() == shape.byte_len {
            Self { bytes, shape }
        } else {
            BitmapView::EMPTY
        }
    }

    /// What opening found out.
    pub fn shape(&self) -> BitmapShape {
        self.shape
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of users.
    pub fn cardinality(&self) -> u64 {
        self.shape.cardinality
    }

    /// True where there is no user.
    pub fn is_empty(&self) -> bool {
        self.shape.containers == 0
    }

    /// Number of containers that have users.
    pub fn container_count(&self) -> usize {
        self.shape.containers as usize
    }

    /// Keys and cardinalities of the containers, ascending, without touching values.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (u16, u32)> + use<'a> {
        let view = *self;
        (0..self.container_count()).map(move |index| view.describe(index))
    }

    /// The containers, ascending.
    pub fn containers(&self) -> impl Iterator<Item = ContainerView<'a>> + use<'a> {
        let view = *self;
        let mut first_index = 0;
        let mut at = view.shape.data_at as usize;
        (0..self.container_count()).map(move |index| {
            let container = view.container_from(index, at, first_index);
            at += container.stored_len();
            first_index += u64::from(container.cardinality);
            container
        })
    }

    /// The place of the container `key` among the containers, or where it would be.
    pub fn position(&self, key: u16) -> Result<usize, usize> {
        let count = self.container_count();
        if count == 0 {
            return Err(0);
        }
        // Ordinals are dense, so a container's place mostly follows from its key.
        let guess = usize::from(key).checked_sub(usize::from(self.describe(0).0));
        if let Some(guess) = guess.filter(|&guess| guess < count)
            && self.describe(guess).0 == key
        {
            return Ok(guess);
        }
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = (low + high) / 2;
            match self.describe(middle).0.cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The container `key`, if it has users. Its `first_index` costs a step for each container
    /// before it.
    pub fn container(&self, key: u16) -> Option<ContainerView<'a>> {
        let index = self.position(key).ok()?;
        let before = (0..index).map(|index| u64::from(self.describe(index).1));
        let first_index = before.sum();
        Some(self.container_from(index, self.data_of(index), first_index))
    }

    /// The container at place `index`, whose `first_index` the caller knows. `None` beyond the
    /// last.
    pub fn container_at(&self, index: usize, first_index: u64) -> Option<ContainerView<'a>> {
        (index < self.container_count())
            .then(|| self.container_from(index, self.data_of(index), first_index))
    }

    /// True where the user is a member.
    pub fn contains(&self, ordinal: u32) -> bool {
        let (key, low) = split(ordinal);
        let index = self.position(key);
        index.is_ok_and(|index| {
            self.container_from(index, self.data_of(index), 0)
                .contains(low)
        })
    }

    /// Number of members below `ordinal`.
    pub fn rank(&self, ordinal: u32) -> u64 {
        let (key, low) = split(ordinal);
        let (Ok(index) | Err(index)) = self.position(key);
        let before: u64 = (0..index)
            .map(|index| u64::from(self.describe(index).1))
            .sum();
        match self.container_at(index, before) {
            Some(container) if container.key == key => before + u64::from(container.rank(low)),
            _ => before,
        }
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.containers().flat_map(|container| {
            let key = container.key;
            container.iter().map(move |low| join(key, low))
        })
    }

    /// Adds the users of container `key` to `words`.
    pub fn or_into(&self, key: u16, words: &mut Words) {
        if let Ok(index) = self.position(key) {
            self.container_from(index, self.data_of(index), 0)
                .or_into(words);
        }
    }

    /// Appends those of `wanted` that are users of container `key` to `lows`, ascending.
    pub fn common(&self, key: u16, wanted: &Words, lows: &mut Vec<u16>) {
        if let Ok(index) = self.position(key) {
            self.container_from(index, self.data_of(index), 0)
                .common(wanted, lows);
        }
    }

    /// Keeps in `words` only the users of container `key`.
    pub fn and_into(&self, key: u16, words: &mut Words) {
        match self.position(key) {
            Ok(index) => self
                .container_from(index, self.data_of(index), 0)
                .and_into(words),
            Err(_) => words.clear(),
        }
    }

    /// Removes the users of container `key` from `words`.
    pub fn and_not_into(&self, key: u16, words: &mut Words) {
        if let Ok(index) = self.position(key) {
            self.container_from(index, self.data_of(index), 0)
                .and_not_into(words);
        }
    }

    /// A copy as the `roaring` crate holds it, every value checked.
    ///
    /// # Errors
    /// Where a container's values contradict its description.
    pub fn to_bitmap(&self) -> Result<RoaringBitmap, WireError> {
        let wrong = WireError {
            at: 0,
            what: "a bitmap's values are inconsistent",
        };
        let bitmap = RoaringBitmap::deserialize_from(self.bytes).map_err(|_| wrong)?;
        if bitmap.len() == self.cardinality() {
            Ok(bitmap)
        } else {
            Err(wrong)
        }
    }

    /// Checks every value: arrays and runs ascend, and each container has as many users as it
    /// says.
    ///
    /// # Errors
    /// The first container that is wrong.
    pub fn check(&self) -> Result<(), WireError> {
        let mut at = self.shape.data_at as usize;
        for container in self.containers() {
            let what = "a bitmap's values are inconsistent";
            container
                .is_sound()
                .then_some(())
                .ok_or(WireError { at, what })?;
            at += container.stored_len();
        }
        Ok(())
    }

    /// Key and cardinality of the container at place `index`.
    fn describe(&self, index: usize) -> (u16, u32) {
        let at = self.shape.keys_at as usize + index * 4;
        let pair = read_u32(self.bytes, at);
        (pair as u16, (pair >> 16) + 1)
    }

    fn is_runs(&self, index: usize) -> bool {
        self.shape.has_runs
            && self
                .bytes
                .get(4 + index / 8)
                .is_some_and(|byte| byte >> (index % 8) & 1 != 0)
    }

    fn offset(&self, index: usize) -> usize {
        let offsets_at = self.shape.keys_at as usize + self.container_count() * 4;
        read_u32(self.bytes, offsets_at + index * 4) as usize
    }

    /// Where the container at place `index` begins.
    fn data_of(&self, index: usize) -> usize {
        if self.shape.has_offsets {
            return self.offset(index);
        }
        let start = self.shape.data_at as usize;
        (0..index).fold(start, |at, index| {
            at + self.container_from(index, at, 0).stored_len()
        })
    }

    fn container_from(&self, index: usize, at: usize, first_index: u64) -> ContainerView<'a> {
        let (key, cardinality) = self.describe(index);
        let values = if self.is_runs(index) {
            let runs = usize::from(read_u32(self.bytes, at) as u16);
            Stored::Runs(chunks(self.bytes, at + 2..at + 2 + runs * 4))
        } else if cardinality <= ARRAY_VALUES {
            Stored::Array(chunks(self.bytes, at..at + plain_len(cardinality)))
        } else {
            Stored::Bits(chunks(self.bytes, at..at + BITS_BYTES))
        };
        ContainerView {
            key,
            cardinality,
            first_index,
            values,
        }
    }
}

impl<'a> ContainerView<'a> {
    /// True where the place is a member.
    pub fn contains(&self, low: u16) -> bool {
        match self.values {
            Stored::Array(lows) => lows
                .binary_search_by_key(&low, |&bytes| u16::from_le_bytes(bytes))
                .is_ok(),
            Stored::Bits(words) => {
                let word = words.get(usize::from(low >> 6));
                word.is_some_and(|&word| u64::from_le_bytes(word) >> (low & 63) & 1 != 0)
            }
            Stored::Runs(runs) => {
                let after = runs.partition_point(|&run| run_of(run).start <= u32::from(low));
                let run = after.checked_sub(1).and_then(|index| runs.get(index));
                run.is_some_and(|&run| run_of(run).contains(&u32::from(low)))
            }
        }
    }

    /// Number of members below `low`.
    pub fn rank(&self, low: u16) -> u32 {
        match self.values {
            Stored::Array(lows) => {
                lows.partition_point(|&bytes| u16::from_le_bytes(bytes) < low) as u32
            }
            Stored::Bits(words) => {
                let (whole, bit) = (usize::from(low >> 6), low & 63);
                let count = |word: &[u8; 8]| u64::from_le_bytes(*word).count_ones();
                let before: u32 = words.iter().take(whole).map(count).sum();
                let part = words.get(whole).map_or(0, |&word| {
                    (u64::from_le_bytes(word) & ((1 << bit) - 1)).count_ones()
                });
                before + part
            }
            Stored::Runs(runs) => runs
                .iter()
                .map(|&run| run_of(run))
                .take_while(|run| run.start < u32::from(low))
                .map(|run| run.end.min(u32::from(low)) - run.start)
                .sum(),
        }
    }

    /// Calls `visit` with each member, ascending.
    pub fn for_each(&self, mut visit: impl FnMut(u16)) {
        match self.values {
            Stored::Array(lows) => lows
                .iter()
                .for_each(|&bytes| visit(u16::from_le_bytes(bytes))),
            Stored::Bits(words) => {
                for (index, &word) in words.iter().enumerate() {
                    let mut rest = u64::from_le_bytes(word);
                    while rest != 0 {
                        visit((index * 64) as u16 | rest.trailing_zeros() as u16);
                        rest &= rest - 1;
                    }
                }
            }
            Stored::Runs(runs) => {
                for &run in runs {
                    run_of(run).for_each(|low| visit(low as u16));
                }
            }
        }
    }

    /// Appends the members that are in `wanted` too to `lows`, ascending.
    pub fn common(&self, wanted: &Words, lows: &mut Vec<u16>) {
        match self.values {
            Stored::Array(stored) => {
                // Which are common is hard to foresee, so each is written and mostly overwritten.
                let start = lows.len();
                lows.resize(start + stored.len(), 0);
                let mut end = start;
                for &bytes in stored {
                    let low = u16::from_le_bytes(bytes);
                    lows[end] = low;
                    end += usize::from(wanted.contains(low));
                }
                lows.truncate(end);
            }
            Stored::Bits(words) => {
                let words = words.iter().zip(wanted.as_slice()).enumerate();
                for (number, (&word, &wanted)) in words {
                    let mut rest = u64::from_le_bytes(word) & wanted;
                    while rest != 0 {
                        lows.push((number * 64) as u16 | rest.trailing_zeros() as u16);
                        rest &= rest - 1;
                    }
                }
            }
            Stored::Runs(runs) => {
                let stored = runs.iter().flat_map(|&run| run_of(run));
                lows.extend(
                    stored
                        .map(|low| low as u16)
                        .filter(|&low| wanted.contains(low)),
                );
            }
        }
    }

    /// Calls `visit` with those of `lows`, which ascend, that are members, each with the number of
    /// members below it. Cost: a look at every member, or at every 64.
    pub fn for_each_of(&self, lows: &[u16], mut visit: impl FnMut(u16, u32)) {
        match self.values {
            Stored::Array(stored) => {
                let mut at = 0;
                for &low in lows {
                    let rest = stored.get(at..).unwrap_or_default();
                    let ahead = rest
                        .iter()
                        .take_while(|&&bytes| u16::from_le_bytes(bytes) < low);
                    at += ahead.count();
                    let found = stored.get(at).map(|&bytes| u16::from_le_bytes(bytes));
                    if found == Some(low) {
                        visit(low, at as u32);
                    }
                }
            }
            Stored::Bits(words) => {
                let (mut at, mut before) = (0, 0);
                for &low in lows {
                    let number = usize::from(low >> 6);
                    for &word in words.get(at..number).unwrap_or_default() {
                        before += u64::from_le_bytes(word).count_ones();
                    }
                    at = at.max(number);
                    let word = words.get(number).copied().map_or(0, u64::from_le_bytes);
                    let bit = low & 63;
                    if word >> bit & 1 != 0 {
                        visit(low, before + (word & ((1 << bit) - 1)).count_ones());
                    }
                }
            }
            Stored::Runs(runs) => {
                let (mut at, mut before) = (0, 0);
                for &low in lows {
                    let place = u32::from(low);
                    while let Some(run) = runs.get(at).map(|&run| run_of(run)) {
                        if place < run.end {
                            break;
                        }
                        before += run.len() as u32;
                        at += 1;
                    }
                    match runs.get(at).map(|&run| run_of(run)) {
                        Some(run) if run.start <= place => visit(low, before + place - run.start),
                        _ => {}
                    }
                }
            }
        }
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<'a> {
        let (lows, words, runs) = match self.values {
            Stored::Array(lows) => (lows, &[][..], &[][..]),
            Stored::Bits(words) => (&[][..], words, &[][..]),
            Stored::Runs(runs) => (&[][..], &[][..], runs),
        };
        let lows = lows.iter().map(|&bytes| u16::from_le_bytes(bytes));
        let words = words.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = u64::from_le_bytes(word);
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as u16)?;
                rest &= rest - 1;
                Some((index * 64) as u16 | bit)
            })
        });
        let runs = runs.iter().flat_map(|&run| run_of(run));
        lows.chain(words).chain(runs.map(|low| low as u16))
    }

    /// Appends the members to `lows`, ascending.
    pub fn append_to(&self, lows: &mut Vec<u16>) {
        lows.reserve(self.cardinality as usize);
        match self.values {
            Stored::Array(stored) => {
                lows.extend(stored.iter().map(|&bytes| u16::from_le_bytes(bytes)));
            }
            Stored::Runs(runs) => {
                for &run in runs {
                    lows.extend(run_of(run).map(|low| low as u16));
                }
            }
            Stored::Bits(_) => self.for_each(|low| lows.push(low)),
        }
    }

    /// Writes for each place `u` of the container the entry of `table` whose number is that of
    /// the members below `u`: with the members' first rows, a dense table of rows. `table` has an
    /// entry more than there are members, `out` 65 537.
    ///
    /// Costs about a nanosecond a place. False where the lengths are others, or forged values
    /// contradict the cardinality; `out` is then of no use.
    pub fn spread(&self, table: &[u32], out: &mut [u32]) -> bool {
        if table.len() != self.cardinality as usize + 1 || out.len() != (1 << 16) + 1 {
            return false;
        }
        let (mut done, mut next) = (0, 0);
        match self.values {
            Stored::Array(lows) => {
                for (&bytes, &entry) in lows.iter().zip(table) {
                    let low = usize::from(u16::from_le_bytes(bytes));
                    let Some(gap) = out.get_mut(done..=low) else {
                        return false;
                    };
                    gap.fill(entry);
                    (done, next) = (low + 1, next + 1);
                }
            }
            Stored::Bits(words) => {
                let count = |word: &[u8; 8]| u64::from_le_bytes(*word).count_ones();
                if words.iter().map(count).sum::<u32>() != self.cardinality {
                    return false;
                }
                // Without a branch for each place: half of them would be mispredicted.
                for (&word, places) in words.iter().zip(out.chunks_exact_mut(64)) {
                    let mut bits = u64::from_le_bytes(word);
                    for place in places {
                        *place = table[next];
                        next += (bits & 1) as usize;
                        bits >>= 1;
                    }
                }
                done = 1 << 16;
            }
            Stored::Runs(runs) => {
                for &run in runs {
                    let run = run_of(run);
                    let (start, len) = (run.start as usize, run.len());
                    let gap = out.get_mut(done..start);
                    let (Some(gap), Some(rows)) = (gap, table.get(next..next + len)) else {
                        return false;
                    };
                    gap.fill(table[next]);
                    out[start..start + len].copy_from_slice(rows);
                    (done, next) = (start + len, next + len);
                }
            }
        }
        let last = table.get(next).copied().unwrap_or_default();
        out[done..].fill(last);
        next + 1 == table.len()
    }

    /// Adds the members to `words`.
    pub fn or_into(&self, words: &mut Words) {
        match self.values {
            Stored::Array(lows) => {
                // Neighbours fall into the same word and wait for each other; quarters do not.
                let quarter = lows.len() / 4;
                let (first, rest) = lows.split_at(quarter);
                let (second, rest) = rest.split_at(quarter);
                let (third, rest) = rest.split_at(quarter);
                let (fourth, last) = rest.split_at(quarter);
                for (((&a, &b), &c), &d) in first.iter().zip(second).zip(third).zip(fourth) {
                    for bytes in [a, b, c, d] {
                        words.insert(u16::from_le_bytes(bytes));
                    }
                }
                for &bytes in last {
                    words.insert(u16::from_le_bytes(bytes));
                }
            }
            Stored::Bits(stored) => zip(words, stored, |word, stored| *word |= stored),
            Stored::Runs(runs) => runs.iter().for_each(|&run| words.insert_range(run_of(run))),
        }
    }

    /// Keeps in `words` only the members.
    pub fn and_into(&self, words: &mut Words) {
        match self.values {
            Stored::Bits(stored) => zip(words, stored, |word, stored| *word &= stored),
            Stored::Array(lows) => {
                let words = words.as_mut_slice();
                let (mut at, mut members) = (0, 0);
                for &bytes in lows {
                    let low = u16::from_le_bytes(bytes);
                    let word = usize::from(low >> 6);
                    if word > at {
                        words[at] &= members;
                        words[at + 1..word].fill(0);
                        (at, members) = (word, 0);
                    }
                    members |= 1 << (low & 63);
                }
                words[at] &= members;
                words[at + 1..].fill(0);
            }
            Stored::Runs(runs) => {
                let mut gap = 0;
                for &run in runs {
                    let run = run_of(run);
                    words.remove_range(gap..run.start);
                    gap = run.end;
                }
                words.remove_range(gap..1 << 16);
            }
        }
    }

    /// Removes the members from `words`.
    pub fn and_not_into(&self, words: &mut Words) {
        match self.values {
            Stored::Array(lows) => {
                for &bytes in lows {
                    words.remove(u16::from_le_bytes(bytes));
                }
            }
            Stored::Bits(stored) => zip(words, stored, |word, stored| *word &= !stored),
            Stored::Runs(runs) => runs.iter().for_each(|&run| words.remove_range(run_of(run))),
        }
    }

    /// Bytes that the values take.
    fn stored_len(&self) -> usize {
        match self.values {
            Stored::Array(lows) => lows.len() * 2,
            Stored::Bits(_) => BITS_BYTES,
            Stored::Runs(runs) => 2 + runs.len() * 4,
        }
    }

    fn is_sound(&self) -> bool {
        let ordered = match self.values {
            Stored::Array(lows) => {
                lows.is_sorted_by(|&a, &b| u16::from_le_bytes(a) < u16::from_le_bytes(b))
            }
            Stored::Bits(_) => true,
            // Runs neither touch nor overlap, and none reaches beyond the container.
            Stored::Runs(runs) => {
                let fits = |&[a, b, c, d]: &[u8; 4]| {
                    let start = u32::from(u16::from_le_bytes([a, b]));
                    start + u32::from(u16::from_le_bytes([c, d])) < 1 << 16
                };
                runs.iter().all(fits) && runs.is_sorted_by(|&a, &b| run_of(a).end < run_of(b).start)
            }
        };
        let found = match self.values {
            Stored::Array(lows) => lows.len() as u32,
            Stored::Bits(words) => words
                .iter()
                .map(|&word| u64::from_le_bytes(word).count_ones())
                .sum(),
            Stored::Runs(runs) => runs.iter().map(|&run| run_of(run).len() as u32).sum(),
        };
        ordered && found == self.cardinality
    }
}

/// Places of a stored run, cut at the end of the container.
fn run_of([a, b, c, d]: [u8; 4]) -> Range<u32> {
    let start = u32::from(u16::from_le_bytes([a, b]));
    let more = u32::from(u16::from_le_bytes([c, d]));
    start..(start + more + 1).min(1 << 16)
}

fn zip(words: &mut Words, stored: &[[u8; 8]], apply: impl Fn(&mut u64, u64)) {
    for (word, &stored) in words.as_mut_slice().iter_mut().zip(stored) {
        apply(word, u64::from_le_bytes(stored));
    }
}

/// Bytes of a container that is not stored as runs.
fn plain_len(cardinality: u32) -> usize {
    if cardinality <= ARRAY_VALUES {
        cardinality as usize * 2
    } else {
        BITS_BYTES
    }
}

/// The four bytes at `at`; those beyond the end read as 0.
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first_chunk::<4>() {
        Some(&four) => u32::from_le_bytes(four),
        None => rest
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u32::from(byte)),
    }
}

/// The bytes of `range` in pieces of `N`; none where it lies outside.
fn chunks<const N: usize>(bytes: &[u8], range: Range<usize>) -> &[[u8; N]] {
    bytes.get(range).unwrap_or_default().as_chunks().0
}
