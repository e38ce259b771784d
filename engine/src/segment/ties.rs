//! Tie ranks: the arrival order of a user's rows of different names at one time.

use std::ops::Range;

/// The ranks of rows that share their user and time with rows of another run.
///
/// Sorted by row; a row that is not listed shares its time with rows of its own run at most, and
/// there the order of rows is the order of arrival. Ranks count from 1 in each group.
#[derive(Clone, Copy, Debug, Default)]
pub struct TieRanks<'a> {
    pairs: &'a [[u32; 2]],
}

impl<'a> TieRanks<'a> {
    pub(super) fn new(pairs: &'a [[u32; 2]]) -> Self {
        Self { pairs }
    }

    pub(super) fn within(&self, rows: Range<u32>) -> Self {
        let start = self.pairs.partition_point(|pair| pair[0] < rows.start);
        let end = self.pairs.partition_point(|pair| pair[0] < rows.end);
        Self {
            pairs: self.pairs.get(start..end).unwrap_or_default(),
        }
    }

    /// True where no row has a rank: the common case.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// `[row, rank]`, ascending by row.
    pub fn pairs(&self) -> &'a [[u32; 2]] {
        self.pairs
    }

    /// The rank of a row; 0 where it has none.
    pub fn rank(&self, row: u32) -> u32 {
        if self.pairs.is_empty() {
            return 0;
        }
        let found = self.pairs.binary_search_by_key(&row, |pair| pair[0]);
        found.map_or(0, |index| self.pairs[index][1])
    }
}
