//! Segments: immutable files of one time partition and one range of users.
//!
//! A segment is born from batches ([`build`]) or from its neighbours in arrival order
//! ([`merge`]), as the image of a whole file; [`Segment::open`] reads an image and a mapped file
//! alike. Inside, rows are grouped into runs of one event name, sorted by (ordinal, time,
//! arrival); [`NameRun`] reads one of them in place. `docs/format.md` has the bytes.
//!
//! The modules in the order of the data's way: `build` and `merge` decide which rows a segment
//! has and in which order, `writer` lays them out with the help of `counts`, `days`, `times`, `order` and
//! `area`, `layout` is the directory that finds them again, `starts`, `segment` and `run` read, `verify`
//! reads everything. None of them touches the operating system or knows of manifests.

mod area;
mod build;
mod counts;
mod days;
mod hours;
mod kept;
mod layout;
mod merge;
mod names;
mod order;
mod run;
#[expect(clippy::module_inception, reason = "the file of the type Segment")]
mod segment;
mod spans;
mod starts;
mod ties;
mod times;
mod values;
mod verify;
mod writer;

pub use build::build;
pub use hours::{DayHours, Hours};
pub use merge::{Keep, Stop, merge, merge_each};
pub use order::RowOrder;
pub use run::{NameRun, ValueUsers};
pub use segment::Segment;
pub use spans::DaySpan;
pub use starts::UserStarts;
pub use ties::TieRanks;
pub use times::{Offsets, Times};
pub use verify::VerifyReport;

use crate::format::{Reader, WireError, Writer};
use crate::limits;

/// The span of event time that a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    /// Trait updates of all times. Its only run has the empty name.
    Traits,
    /// Events whose time lies in `[n * length, (n + 1) * length)`; the length is the store's
    /// option.
    Events(i64),
}

/// What a segment holds, as its manifest entry and its footer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// The span of event time.
    pub partition: Partition,
    /// First container (65 536 ordinals) that has rows.
    pub first_container: u16,
    /// Last container that has rows.
    pub last_container: u16,
    /// First and last number of the store's arrival sequence that the rows came in.
    pub arrival: (u64, u64),
    /// Number of rows.
    pub rows: u32,
    /// Earliest time, in microseconds since 1970-01-01 UTC.
    pub min_time: i64,
    /// Latest time, in microseconds since 1970-01-01 UTC.
    pub max_time: i64,
}

/// How segments are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// A segment is cut at a container where it would become larger than about this.
    pub target_bytes: usize,
    /// A segment is cut at a container where it would have more rows than this.
    pub max_rows: u32,
    /// Event names with a run of their own; the rarest beyond share the overflow run.
    pub max_name_runs: usize,
    /// Whether properties are made small, which is most of the time that building takes.
    pub compressed: bool,
    /// Outputs of a merge that are made at a time, at least 1.
    pub merge_threads: usize,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            target_bytes: 128 << 20,
            max_rows: 1 << 24,
            max_name_runs: limits::MAX_NAME_RUNS,
            compressed: true,
            merge_threads: 1,
        }
    }
}

/// The bytes of a whole segment, not yet a file.
#[derive(Clone, Debug)]
pub struct SegmentImage {
    /// What it holds.
    pub meta: SegmentMeta,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

#[cfg(test)]
mod damage;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

impl SegmentMeta {
    /// Appends the metadata, 41 bytes, as the manifest holds it.
    pub(crate) fn encode(&self, out: &mut Writer) {
        let (kind, number) = match self.partition {
            Partition::Traits => (0, 0),
            Partition::Events(number) => (1, number),
        };
        out.u8(kind);
        out.i64(number);
        out.u16(self.first_container);
        out.u16(self.last_container);
        out.u64(self.arrival.0);
        out.u64(self.arrival.1);
        out.u32(self.rows);
        out.i64(self.min_time);
        out.i64(self.max_time);
    }

    /// Reads metadata.
    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, WireError> {
        let partition = match (bytes.u8()?, bytes.i64()?) {
            (0, _) => Partition::Traits,
            (1, number) => Partition::Events(number),
            _ => return Err(bytes.error("a partition of an unknown kind")),
        };
        Ok(Self {
            partition,
            first_container: bytes.u16()?,
            last_container: bytes.u16()?,
            arrival: (bytes.u64()?, bytes.u64()?),
            rows: bytes.u32()?,
            min_time: bytes.i64()?,
            max_time: bytes.i64()?,
        })
    }
}
