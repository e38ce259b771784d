//! One morsel's events, user by user, in total order: the general way to any question.
//!
//! Every run hands over its rows in (user, time, arrival) order; a counting sort brings the rows
//! of each user together, and a user whose rows come from several runs is sorted by time, then
//! segment, then tie rank. No hash table of users exists; memory is bounded by the morsel.

use crate::behaviour::Skipped;

use super::control::{Control, QueryError};
use super::memory::Reservation;
use super::morsel::Morsel;
use super::scan::{DENSE_STARTS, Scan};
use super::traits::TraitTable;

/// Where a gathered event lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowRef {
    /// Index of the run in the scan.
    pub(crate) run: u32,
    /// Row in the run.
    pub(crate) row: u32,
}

/// An event on its way into order.
#[derive(Clone, Copy, Debug, Default)]
struct Gathered {
    time: i64,
    mask: u64,
    at: RowRef,
    rank: u32,
    low: u16,
    flags: u8,
}

/// A morsel's events. Kept between morsels, so that its memory is reused.
#[derive(Debug)]
pub(crate) struct Gather<'c> {
    /// Lower halves of the users that have events, ascending.
    pub(crate) lows: Vec<u16>,
    /// User `i` has the events `starts[i]..starts[i + 1]`.
    pub(crate) starts: Vec<u32>,
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) times: Vec<i64>,
    /// Bit `s`: the event satisfies condition `s` of the first 64.
    pub(crate) masks: Vec<u64>,
    /// Bit `f`: it satisfies condition `64 + f`.
    pub(crate) flags: Vec<u8>,
    /// Where it lies.
    pub(crate) rows: Vec<RowRef>,
    unsorted: Vec<Gathered>,
    sorted: Vec<Gathered>,
    dense: Vec<u32>,
    control: &'c Control,
    memory: Reservation<'c>,
}

impl<'c> Gather<'c> {
    /// An empty gathering.
    pub(crate) fn new(control: &'c Control) -> Self {
        Self {
            lows: Vec::new(),
            starts: Vec::new(),
            times: Vec::new(),
            masks: Vec::new(),
            flags: Vec::new(),
            rows: Vec::new(),
            unsorted: Vec::new(),
            sorted: Vec::new(),
            dense: vec![0; DENSE_STARTS],
            control,
            memory: control.reservation(),
        }
    }

    /// Number of users that have events.
    pub(crate) fn users(&self) -> usize {
        self.lows.len()
    }

    /// The events of the `index`-th user.
    pub(crate) fn events(&self, index: usize) -> std::ops::Range<usize> {
        self.starts[index] as usize..self.starts[index + 1] as usize
    }

    /// Gathers the morsel's events that satisfy any condition (with `every_row`, all) in the
    /// scan's range. The first `steps` conditions are bits of the masks, the others flags.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site a question, each names what it has"
    )]
    pub(crate) fn fill(
        &mut self,
        scan: &Scan<'_>,
        morsel: &Morsel,
        wanted: &dyn Fn(u16) -> bool,
        traits: &TraitTable,
        steps: usize,
        every_row: bool,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        self.unsorted.clear();
        for number in 0..scan.runs.len() {
            self.collect(
                scan, number, morsel, wanted, traits, steps, every_row, skipped,
            )?;
        }
        self.memory
            .at_least(self.unsorted.len() * BYTES_PER_EVENT)?;
        self.order(scan);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "as above")]
    fn collect(
        &mut self,
        scan: &Scan<'_>,
        number: usize,
        morsel: &Morsel,
        wanted: &dyn Fn(u16) -> bool,
        traits: &TraitTable,
        steps: usize,
        every_row: bool,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        let source = &scan.runs[number];
        let Some(rows) = source.rows_of(morsel, &mut self.dense)? else {
            return Ok(());
        };
        self.memory
            .at_least((self.unsorted.len() + rows.range.len()) * BYTES_PER_EVENT)?;
        let verdicts = source.evaluate(&rows, morsel, traits, self.control, skipped)?;
        let times = source.run.times(rows.range.clone())?;
        let ties = source.run.ties(rows.range.clone())?;
        for low in morsel.lows.clone() {
            let (start, end) = (rows.starts[low as usize], rows.starts[low as usize + 1]);
            if start == end || !wanted(low as u16) {
                continue;
            }
            for row in start..end {
                let index = (row - rows.range.start) as usize;
                let time = times.get(index);
                if !source.whole && !scan.range.contains(time) {
                    continue;
                }
                let (mut mask, mut flags) = (0, 0);
                for (bit, verdicts) in verdicts.iter().enumerate() {
                    let holds = verdicts.at(index);
                    if bit < steps {
                        mask |= u64::from(holds) << bit;
                    } else {
                        flags |= u8::from(holds) << (bit - steps);
                    }
                }
                if mask != 0 || flags != 0 || every_row {
                    let rank = ties.rank(row);
                    let at = RowRef {
                        run: number as u32,
                        row,
                    };
                    self.unsorted.push(Gathered {
                        time,
                        mask,
                        at,
                        rank,
                        low: low as u16,
                        flags,
                    });
                }
            }
        }
        Ok(())
    }

    /// Sorts by user (counting), then each user's events into total order, and splits columns.
    fn order(&mut self, scan: &Scan<'_>) {
        let counts = &mut self.dense;
        counts.fill(0);
        for event in &self.unsorted {
            counts[usize::from(event.low) + 1] += 1;
        }
        self.lows.clear();
        self.starts.clear();
        let mut total = 0;
        for low in 0..DENSE_STARTS - 1 {
            if counts[low + 1] > 0 {
                self.lows.push(low as u16);
                self.starts.push(total);
            }
            total += counts[low + 1];
            counts[low + 1] = total;
        }
        self.starts.push(total);
        self.sorted.clear();
        self.sorted.resize(self.unsorted.len(), Gathered::default());
        for event in &self.unsorted {
            let place = &mut counts[usize::from(event.low)];
            self.sorted[*place as usize] = *event;
            *place += 1;
        }
        let segment = |event: &Gathered| scan.runs[event.at.run as usize].segment;
        for index in 0..self.lows.len() {
            let events = self.events(index);
            let events = &mut self.sorted[events];
            // Stable: rows of one run without ranks keep their order, which is that of arrival.
            let key = |event: &Gathered| (event.time, segment(event), event.rank);
            if !events.is_sorted_by_key(key) {
                events.sort_by_key(key);
            }
        }
        self.split();
    }

    fn split(&mut self) {
        self.times.clear();
        self.masks.clear();
        self.flags.clear();
        self.rows.clear();
        self.times
            .extend(self.sorted.iter().map(|event| event.time));
        self.masks
            .extend(self.sorted.iter().map(|event| event.mask));
        self.flags
            .extend(self.sorted.iter().map(|event| event.flags));
        self.rows.extend(self.sorted.iter().map(|event| event.at));
    }
}

/// What an event costs while it is gathered: twice on its way, once in columns.
const BYTES_PER_EVENT: usize = 2 * size_of::<Gathered>() + 8 + 8 + 1 + size_of::<RowRef>();
