//! Writing the portable roaring format, container by container.

use roaring::RoaringBitmap;

use super::{ARRAY_VALUES, BITS_BYTES, COOKIE_PLAIN, COOKIE_RUNS, OFFSETS_FROM, Words};

/// Builds a bitmap in the portable roaring format from containers in ascending order of key.
/// Each is stored in its smallest form: array, bits or runs.
#[derive(Debug, Default)]
pub struct BitmapBuilder {
    containers: Vec<Container>,
    data: Vec<u8>,
    cardinality: u64,
    has_runs: bool,
}

#[derive(Clone, Copy, Debug)]
struct Container {
    key: u16,
    /// Number of values less one.
    last_index: u16,
    is_runs: bool,
    /// Where it begins in `data`.
    start: u32,
}

impl BitmapBuilder {
    /// An empty bitmap.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of values so far.
    pub fn cardinality(&self) -> u64 {
        self.cardinality
    }

    /// True before the first value.
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }

    /// Bytes of the finished bitmap, as things stand.
    pub fn byte_len(&self) -> usize {
        self.header_len() + self.data.len()
    }

    fn header_len(&self) -> usize {
        let count = self.containers.len();
        let flags = if self.has_runs { count.div_ceil(8) } else { 4 };
        let offsets = if self.has_offsets() { count * 4 } else { 0 };
        4 + flags + count * 4 + offsets
    }

    fn has_offsets(&self) -> bool {
        !self.has_runs || self.containers.len() >= OFFSETS_FROM
    }

    /// Appends the container `key` with these strictly ascending values; none adds nothing.
    ///
    /// # Panics
    /// Where `key` is not above the one before.
    pub fn push(&mut self, key: u16, lows: &[u16]) {
        debug_assert!(lows.is_sorted_by(|a, b| a < b), "values ascend strictly");
        if lows.is_empty() {
            return;
        }
        let breaks = lows.windows(2).filter(|pair| pair[1] != pair[0] + 1);
        let runs = breaks.count() + 1;
        let form = Form::smallest(lows.len() as u32, runs as u32);
        self.begin(key, lows.len() as u32, form);
        match form {
            Form::Array => self.put(lows.iter().copied()),
            Form::Bits => {
                let words: Words = lows.iter().copied().collect();
                self.put_bits(&words);
            }
            Form::Runs => self.put_runs(runs as u32, lows.iter().copied()),
        }
    }

    /// Appends the container `key` with these values; the empty set adds nothing.
    ///
    /// # Panics
    /// Where `key` is not above the one before.
    pub fn push_words(&mut self, key: u16, words: &Words) {
        let cardinality = words.len();
        if cardinality == 0 {
            return;
        }
        let runs = words.run_count();
        let form = Form::smallest(cardinality, runs);
        self.begin(key, cardinality, form);
        match form {
            Form::Array => self.put(words.iter()),
            Form::Bits => self.put_bits(words),
            Form::Runs => self.put_runs(runs, words.iter()),
        }
    }

    fn begin(&mut self, key: u16, cardinality: u32, form: Form) {
        assert!(
            self.containers.last().is_none_or(|last| last.key < key),
            "containers come in ascending order"
        );
        self.containers.push(Container {
            key,
            last_index: (cardinality - 1) as u16,
            is_runs: form == Form::Runs,
            start: self.data.len() as u32,
        });
        self.has_runs |= form == Form::Runs;
        self.cardinality += u64::from(cardinality);
    }

    fn put(&mut self, lows: impl Iterator<Item = u16>) {
        self.data.extend(lows.flat_map(u16::to_le_bytes));
    }

    fn put_bits(&mut self, words: &Words) {
        let words = words.as_slice().iter().copied();
        self.data.extend(words.flat_map(u64::to_le_bytes));
    }

    fn put_runs(&mut self, runs: u32, mut lows: impl Iterator<Item = u16>) {
        self.put(std::iter::once(runs as u16));
        let Some(mut start) = lows.next() else { return };
        let mut end = start;
        for low in lows {
            if low == end.wrapping_add(1) {
                end = low;
            } else {
                self.put([start, end - start].into_iter());
                (start, end) = (low, low);
            }
        }
        self.put([start, end - start].into_iter());
    }

    /// The bitmap's bytes.
    pub fn finish(self) -> Vec<u8> {
        let header = self.header_len() as u32;
        let count = self.containers.len();
        let mut bytes = Vec::with_capacity(self.byte_len());
        if self.has_runs {
            let cookie = COOKIE_RUNS | (count as u32 - 1) << 16;
            bytes.extend_from_slice(&cookie.to_le_bytes());
            for eight in self.containers.chunks(8) {
                let flags = eight.iter().enumerate();
                bytes.push(flags.fold(0, |byte, (bit, one)| byte | u8::from(one.is_runs) << bit));
            }
        } else {
            bytes.extend_from_slice(&COOKIE_PLAIN.to_le_bytes());
            bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for container in &self.containers {
            bytes.extend_from_slice(&container.key.to_le_bytes());
            bytes.extend_from_slice(&container.last_index.to_le_bytes());
        }
        if self.has_offsets() {
            for container in &self.containers {
                bytes.extend_from_slice(&(header + container.start).to_le_bytes());
            }
        }
        bytes.extend_from_slice(&self.data);
        bytes
    }

    /// The bitmap as the `roaring` crate holds it.
    pub fn into_roaring(self) -> RoaringBitmap {
        let bytes = self.finish();
        let read = RoaringBitmap::deserialize_from(bytes.as_slice());
        debug_assert!(read.is_ok(), "what was written reads back");
        read.unwrap_or_default()
    }
}

/// How a container is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Array,
    Bits,
    Runs,
}

impl Form {
    fn smallest(cardinality: u32, runs: u32) -> Self {
        let plain = if cardinality <= ARRAY_VALUES {
            cardinality as usize * 2
        } else {
            BITS_BYTES
        };
        if 2 + 4 * (runs as usize) < plain {
            Self::Runs
        } else if cardinality <= ARRAY_VALUES {
            Self::Array
        } else {
            Self::Bits
        }
    }
}
