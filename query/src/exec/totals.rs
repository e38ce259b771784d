//! Events counted and their numbers added up, by name, calendar period and text properties.
//!
//! Runs are read in stretches of rows, whosever they are. Within a run the groups are told by
//! small numbers (the codes of texts, the places of periods), so that a row costs an addition to an
//! array; names and texts are looked up once for each group and run.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use pugmark_engine::batch::Kind;
use pugmark_engine::codec::PartView;
use pugmark_engine::segment::NameRun;
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Skipped, TimeRange, Truth, property};
use crate::zone::{CalendarUnit, Zone};

use super::Executor;
use super::columns::Columns;
use super::control::{Control, QueryError};
use super::effort;
use super::morsel;
use super::scan::{RunScan, Scan, Verdicts};
use super::traits::TraitTable;

mod numbering;
mod sums;

use numbering::{Numbering, Texts};
pub(crate) use sums::{Number, NumberTotal, Sum};

/// Most rows that a thread takes at a time: what it opens and unpacks for them, it does once.
const STRETCH: u32 = if cfg!(test) { 1 << 8 } else { 1 << 18 };
/// Rows that are read at a time: what is kept of each stays in the cache.
const PIECE: u32 = if cfg!(test) { 1 << 6 } else { 1 << 15 };
/// Where there are rows enough each thread finds so many stretches, so that none waits long for the others.
const STRETCHES_OF_A_THREAD: usize = 8;
/// What is counted, and by what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Totals {
    pub(crate) condition: Condition,
    pub(crate) range: TimeRange,
    pub(crate) by_event: bool,
    /// Calendar periods of UTC.
    pub(crate) by_period: Option<CalendarUnit>,
    /// Properties whose values are single texts.
    pub(crate) by_properties: Vec<String>,
    /// Whether first and last times are wanted.
    pub(crate) times: bool,
    /// Properties of numbers, added up.
    pub(crate) numbers: Vec<Measured>,
}

/// A property of numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    pub(crate) property: String,
    /// Whether all of its values are whole numbers.
    pub(crate) whole: bool,
}

/// A group that has events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TotalRow {
    /// The name, where they are told apart.
    pub(crate) event: String,
    /// The first instant of the period, where they are told apart.
    pub(crate) period: i64,
    pub(crate) properties: Vec<Option<String>>,
    pub(crate) total: Total,
}

/// What a group comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Total {
    pub(crate) events: u64,
    /// Meaningless where not wanted.
    pub(crate) first: i64,
    /// Meaningless where not wanted.
    pub(crate) last: i64,
    pub(crate) numbers: Vec<NumberTotal>,
}

impl Total {
    fn nothing(totals: &Totals) -> Self {
        Self {
            events: 0,
            first: i64::MAX,
            last: i64::MIN,
            numbers: totals.numbers.iter().map(NumberTotal::nothing).collect(),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        for (sum, other) in self.numbers.iter_mut().zip(&other.numbers) {
            sum.merge(other);
        }
    }
}

/// What one thread has added up of one run, by the numbers of groups; one more takes what does
/// not count.
#[derive(Debug)]
struct RunTotals {
    events: Vec<u64>,
    first: Vec<i64>,
    last: Vec<i64>,
    numbers: Vec<NumberTotals>,
}

#[derive(Debug)]
enum NumberTotals {
    Whole(Vec<Sum<i64>>),
    Float(Vec<Sum<f64>>),
}

impl NumberTotals {
    fn get(&self, group: usize) -> NumberTotal {
        match self {
            Self::Whole(sums) => NumberTotal::Whole(sums[group]),
            Self::Float(sums) => NumberTotal::Float(sums[group]),
        }
    }
}

impl RunTotals {
    fn new(totals: &Totals, numbering: &Numbering) -> Self {
        let groups = numbering.groups + 1;
        let times = if totals.times { groups } else { 0 };
        let numbers = totals.numbers.iter().map(|measured| match measured.whole {
            true => NumberTotals::Whole(vec![Sum::NOTHING; groups]),
            false => NumberTotals::Float(vec![Sum::NOTHING; groups]),
        });
        Self {
            events: vec![0; groups],
            first: vec![i64::MAX; times],
            last: vec![i64::MIN; times],
            numbers: numbers.collect(),
        }
    }

    fn byte_len(totals: &Totals, numbering: &Numbering) -> usize {
        let sums = totals.numbers.len() * size_of::<Sum<f64>>();
        (numbering.groups + 1) * (3 * size_of::<u64>() + sums)
    }

    fn total(&self, group: usize) -> Total {
        Total {
            events: self.events[group],
            first: self.first.get(group).copied().unwrap_or(i64::MAX),
            last: self.last.get(group).copied().unwrap_or(i64::MIN),
            numbers: self.numbers.iter().map(|sums| sums.get(group)).collect(),
        }
    }
}

/// Some rows of one of the runs.
#[derive(Clone, Debug)]
struct Stretch {
    run: usize,
    rows: Range<u32>,
}

/// Rows of a stretch that are read together.
#[derive(Debug)]
struct Piece<'p, 'a> {
    scan: &'p RunScan<'a>,
    numbering: &'p Numbering,
    columns: &'p Columns<'a>,
    rows: Range<u32>,
}

/// A question made ready for a snapshot.
#[derive(Debug)]
struct Prepared<'a, 'q> {
    totals: &'q Totals,
    scan: Scan<'a>,
    /// One for each run.
    numberings: Vec<Numbering>,
}

impl<'a, 'q> Prepared<'a, 'q> {
    fn new(snapshot: &'a Snapshot, totals: &'q Totals) -> Result<Option<Self>, Corruption> {
        let scan = Scan::prepare(snapshot, &[&totals.condition], totals.range, false);
        if !scan.traits.is_empty() {
            return Ok(None);
        }
        let mut numberings = Vec::with_capacity(scan.runs.len());
        for run in &scan.runs {
            let named = !totals.by_event || !run.run.is_overflow();
            match Numbering::new(totals, run.run)? {
                Some(numbering) if named => numberings.push(numbering),
                _ => return Ok(None),
            }
        }
        Ok(Some(Self {
            totals,
            scan,
            numberings,
        }))
    }

    /// Stretches for so many threads, several for each where there are rows enough.
    fn stretches(&self, threads: usize) -> Vec<Stretch> {
        let rows: u64 = self
            .scan
            .runs
            .iter()
            .map(|scan| u64::from(scan.run.rows()))
            .sum();
        let share = rows / (threads.max(1) * STRETCHES_OF_A_THREAD) as u64;
        let length = share.clamp(PIECE.into(), STRETCH.into()) as u32 / PIECE * PIECE;
        let mut stretches = Vec::new();
        for (run, scan) in self.scan.runs.iter().enumerate() {
            let rows = scan.run.rows();
            for start in (0..rows).step_by(length as usize) {
                let rows = start..rows.min(start.saturating_add(length));
                stretches.push(Stretch { run, rows });
            }
        }
        stretches
    }

    /// Adds a stretch to what its run comes to.
    fn add(
        &self,
        stretch: &Stretch,
        own: &mut RunTotals,
        control: &Control,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        let scan = &self.scan.runs[stretch.run];
        let columns = Columns::of(scan.run);
        for first in stretch.rows.clone().step_by(PIECE as usize) {
            let piece = Piece {
                scan,
                numbering: &self.numberings[stretch.run],
                columns: &columns,
                rows: first..stretch.rows.end.min(first.saturating_add(PIECE)),
            };
            control.check()?;
            if !self.count_codes(&piece, own)? {
                self.add_piece(&piece, own, control, skipped)?;
            }
        }
        Ok(())
    }

    fn add_piece(
        &self,
        piece: &Piece<'_, 'a>,
        own: &mut RunTotals,
        control: &Control,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        let Piece {
            scan,
            numbering,
            columns,
            rows,
        } = piece;
        let traits = TraitTable::default();
        let verdicts = scan.evaluate_from(columns, rows, &Vec::new, &traits, control, skipped)?;
        if matches!(verdicts[0], Verdicts::None) {
            return Ok(());
        }
        let whole = scan.whole && matches!(verdicts[0], Verdicts::All);
        let groups = match whole && numbering.groups == 1 {
            true => None,
            false => Some(self.groups(piece, &verdicts[0])?),
        };
        effort::rows(groups.as_ref().map_or(0, Vec::len));
        match &groups {
            Some(groups) => groups
                .iter()
                .for_each(|&group| own.events[group as usize] += 1),
            None => own.events[0] += u64::from(rows.end - rows.start),
        }
        if self.totals.times {
            add_times(scan.run, rows, groups.as_deref(), own)?;
        }
        for (measured, sums) in self.totals.numbers.iter().zip(&mut own.numbers) {
            if let Some(column) = columns.get(&measured.property)? {
                effort::values(rows.len(), 1);
                for part in column.parts() {
                    let of = (*columns, measured.property.as_str());
                    add_numbers(of, part, rows, groups.as_deref(), sums)?;
                }
            }
        }
        Ok(())
    }

    /// Counts by one text alone, where every row of the run counts, or every row that has the text: its codes
    /// tell, whichever rows have them. False where that is not asked.
    fn count_codes(&self, piece: &Piece<'_, 'a>, own: &mut RunTotals) -> Result<bool, Corruption> {
        let Piece {
            scan, numbering, ..
        } = piece;
        let ([name], [Texts::Coded(_)]) = (&self.totals.by_properties[..], &numbering.texts[..])
        else {
            return Ok(false);
        };
        let counts_absent = match &scan.conditions[0] {
            Condition::Constant(Truth::True) => true,
            condition => match *condition == property(name).is_not_null() {
                true => false,
                false => return Ok(false),
            },
        };
        let more = numbering.slots.is_some() || self.totals.times || !own.numbers.is_empty();
        if more || (counts_absent && !scan.whole) {
            return Ok(false);
        }
        let column = piece.columns.get(name)?;
        let part = column.as_ref().and_then(|column| column.part(Kind::Text));
        let mut codes = Vec::new();
        if let Some(part) = part
            && let Some(coded) = part.coded()
        {
            let indices = part.indices(piece.rows.clone());
            coded.codes(indices.clone(), &mut codes)?;
            effort::values(codes.len(), 1);
            if !scan.whole {
                self.keep_inside(piece, part, indices, &mut codes)?;
            }
        }
        add_ones(&codes, &mut own.events[1..]);
        if counts_absent {
            own.events[0] += (piece.rows.len() - codes.len()) as u64;
        }
        Ok(true)
    }

    /// Keeps the codes of those values of a piece that lie in the range.
    fn keep_inside(
        &self,
        piece: &Piece<'_, 'a>,
        part: &PartView<'_>,
        indices: Range<u32>,
        codes: &mut Vec<u32>,
    ) -> Result<(), Corruption> {
        let times = piece.scan.run.times(piece.rows.clone())?;
        let mut kept = 0;
        each_present(part, &piece.rows, indices, |place, index| {
            codes[kept] = codes[index];
            kept += usize::from(self.totals.range.contains(times.get(place)));
        });
        codes.truncate(kept);
        Ok(())
    }

    /// The group of each row; of those that do not count the one after the last.
    fn groups(&self, piece: &Piece<'_, 'a>, verdicts: &Verdicts) -> Result<Vec<u32>, Corruption> {
        let Piece {
            scan,
            numbering,
            columns,
            rows,
        } = piece;
        let mut groups = vec![0; rows.len()];
        if let Some(slots) = &numbering.slots {
            let mut times = Vec::with_capacity(rows.len());
            scan.run.times(rows.clone())?.append_to(&mut times);
            for (group, time) in groups.iter_mut().zip(times) {
                *group = slots.place(time);
            }
        }
        for (name, texts) in self.totals.by_properties.iter().zip(&numbering.texts) {
            let width = texts.count() as u32 + 1;
            groups.iter_mut().for_each(|group| *group *= width);
            let column = columns.get(name)?;
            if let Some(part) = column.as_ref().and_then(|column| column.part(Kind::Text)) {
                add_codes(part, texts, rows, &mut groups)?;
            }
        }
        let nowhere = numbering.groups as u32;
        if !scan.whole {
            let times = scan.run.times(rows.clone())?;
            for (place, group) in groups.iter_mut().enumerate() {
                if !self.totals.range.contains(times.get(place)) {
                    *group = nowhere;
                }
            }
        }
        if !matches!(verdicts, Verdicts::All) {
            for (place, group) in groups.iter_mut().enumerate() {
                if !verdicts.at(place) {
                    *group = nowhere;
                }
            }
        }
        Ok(groups)
    }

    /// The rows of all threads and runs, by name, period and texts.
    fn rows(&self, found: Vec<HashMap<usize, RunTotals>>) -> Result<Vec<TotalRow>, Corruption> {
        let mut whole: BTreeMap<(&str, i64, Vec<Option<String>>), Total> = BTreeMap::new();
        for (run, own) in found.iter().flatten() {
            let (numbering, scan) = (&self.numberings[*run], &self.scan.runs[*run]);
            let event = if self.totals.by_event {
                scan.run.name()
            } else {
                ""
            };
            let mut columns = Vec::new();
            for name in &self.totals.by_properties {
                columns.push(scan.run.properties()?.get(name)?);
            }
            for group in 0..numbering.groups {
                if own.events[group] == 0 {
                    continue;
                }
                let (period, codes) = numbering.parts(group);
                let texts = columns.iter().zip(&numbering.texts).zip(codes);
                let texts = texts.map(|((column, texts), code)| {
                    code.map(|code| texts.text(column.as_ref(), code))
                        .transpose()
                });
                whole
                    .entry((event, period, texts.collect::<Result<_, _>>()?))
                    .or_insert_with(|| Total::nothing(self.totals))
                    .merge(&own.total(group));
            }
        }
        let rows = whole
            .into_iter()
            .map(|((event, number, properties), total)| TotalRow {
                event: event.to_owned(),
                period: match self.totals.by_period {
                    Some(unit) => Zone::UTC.numbered(unit, number).start,
                    None => 0,
                },
                properties,
                total,
            });
        Ok(rows.collect())
    }
}

/// Counts codes. Neighbours go to different counts, as one addition to a count waits for the one before.
fn add_ones(codes: &[u32], counts: &mut [u64]) {
    let mut others = vec![0; counts.len()];
    let pairs = codes.chunks_exact(2);
    pairs
        .remainder()
        .iter()
        .for_each(|&code| counts[code as usize] += 1);
    for pair in pairs {
        counts[pair[0] as usize] += 1;
        others[pair[1] as usize] += 1;
    }
    for (count, other) in counts.iter_mut().zip(others) {
        *count += other;
    }
}

/// Adds each row's code, which absence comes before.
fn add_codes(
    part: &PartView<'_>,
    texts: &Texts,
    rows: &Range<u32>,
    groups: &mut [u32],
) -> Result<(), Corruption> {
    let indices = part.indices(rows.clone());
    let mut codes = Vec::with_capacity(indices.len());
    match (texts, part.coded()) {
        (Texts::Listed { codes: own, .. }, _) => {
            codes.extend_from_slice(&own[indices.start as usize..indices.end as usize]);
        }
        (Texts::Coded(_), Some(coded)) => coded.codes(indices.clone(), &mut codes)?,
        (Texts::Coded(_), None) => return Ok(()),
    }
    each_present(part, rows, indices, |place, index| {
        groups[place] += codes[index] + 1
    });
    Ok(())
}

/// Calls `each` with the place among `rows` of each present value and its place among the values.
#[inline]
fn each_present(
    part: &PartView<'_>,
    rows: &Range<u32>,
    indices: Range<u32>,
    mut each: impl FnMut(usize, usize),
) {
    if part.is_all() {
        (0..indices.len()).for_each(|place| each(place, place));
        return;
    }
    let mut present = Vec::with_capacity(indices.len());
    part.fill_rows(indices, &mut present);
    for (index, row) in present.into_iter().enumerate() {
        each((row - rows.start) as usize, index);
    }
}

fn add_times(
    run: NameRun<'_>,
    rows: &Range<u32>,
    groups: Option<&[u32]>,
    own: &mut RunTotals,
) -> Result<(), Corruption> {
    let Some(groups) = groups else {
        own.first[0] = own.first[0].min(run.min_time());
        own.last[0] = own.last[0].max(run.max_time());
        return Ok(());
    };
    let mut times = Vec::with_capacity(rows.len());
    run.times(rows.clone())?.append_to(&mut times);
    for (&group, time) in groups.iter().zip(times) {
        let group = group as usize;
        own.first[group] = own.first[group].min(time);
        own.last[group] = own.last[group].max(time);
    }
    Ok(())
}

fn add_numbers<'a>(
    (columns, name): (&Columns<'a>, &str),
    part: &PartView<'a>,
    rows: &Range<u32>,
    groups: Option<&[u32]>,
    sums: &mut NumberTotals,
) -> Result<(), Corruption> {
    let indices = part.indices(rows.clone());
    match (part.kind(), sums) {
        (Kind::I64, NumberTotals::Whole(sums)) => {
            let mut values = Vec::with_capacity(indices.len());
            part.ints(indices.clone(), &mut values)?;
            add_values(part, rows, indices, &values, groups, sums);
        }
        (Kind::I64, NumberTotals::Float(sums)) => {
            let mut values = Vec::with_capacity(indices.len());
            part.floats(indices.clone(), &mut values)?;
            add_values(part, rows, indices, &values, groups, sums);
        }
        (Kind::F64, NumberTotals::Float(sums)) => {
            let values = columns.floats(name, part, indices.clone())?;
            add_values(part, rows, indices, &values, groups, sums);
        }
        _ => {}
    }
    Ok(())
}

fn add_values<T: Number>(
    part: &PartView<'_>,
    rows: &Range<u32>,
    indices: Range<u32>,
    values: &[T],
    groups: Option<&[u32]>,
    sums: &mut [Sum<T>],
) {
    match groups {
        None => sums[0].add_all(values),
        Some(groups) => each_present(part, rows, indices, |place, index| {
            sums[groups[place] as usize].add(values[index]);
        }),
    }
}

impl Totals {
    /// True where this way of counting can answer about the snapshot.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub(crate) fn fits(&self, snapshot: &Snapshot) -> Result<bool, Corruption> {
        Ok(Prepared::new(snapshot, self)?.is_some())
    }

    /// What no event at all comes to.
    #[cfg(feature = "sql")]
    pub(crate) fn nothing(&self) -> Total {
        Total::nothing(self)
    }
}

impl Executor {
    /// Adds up; groups without events have no row. Ordered by name, period, texts. Nothing is
    /// told where the question does not [fit](Totals::fits).
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(crate) fn totals(&self, totals: &Totals) -> Result<(Vec<TotalRow>, Skipped), QueryError> {
        let control = Control::start(self.options());
        let Some(prepared) = Prepared::new(self.snapshot(), totals)? else {
            return Ok((Vec::new(), Skipped::default()));
        };
        let begin = || (HashMap::new(), control.reservation(), Skipped::default());
        let states = morsel::run(
            &prepared.stretches(self.threads()),
            self.threads(),
            &control,
            begin,
            |(own, memory, skipped), stretch| {
                let numbering = &prepared.numberings[stretch.run];
                if !own.contains_key(&stretch.run) {
                    memory.grow(RunTotals::byte_len(totals, numbering))?;
                }
                let own = own
                    .entry(stretch.run)
                    .or_insert_with(|| RunTotals::new(totals, numbering));
                prepared.add(stretch, own, &control, skipped)
            },
        )?;
        let mut skipped = Skipped::default();
        let found = states.into_iter().map(|(own, _, more)| {
            skipped.merge(&more);
            own
        });
        let rows = prepared.rows(found.collect())?;
        Ok((rows, skipped))
    }
}
