//! Trails: one user's rows of every run, brought into order.
//!
//! No morsels: a run finds its rows of one user by itself, so that nobody else's are touched.

use std::collections::BTreeMap;

use pugmark_engine::{UserKey, Value};

use crate::behaviour::{Trail, TrailRow, any};

use super::Executor;
use super::control::{Control, QueryError};
use super::memory::Reservation;
use super::scan::{RunScan, Scan};

/// An event, and what decides its place: its time, segment, rank among ties, and run and row,
/// which tell the arrival where a run has no ranks.
type Placed = (i64, u32, u32, usize, u32, TrailRow);

impl Executor {
    /// One user's events in total order, with all of their properties. Of an id that the store
    /// does not know there are none.
    ///
    /// Costs a lookup in each run of the range, and then the user's own rows. Holds all of them;
    /// the memory budget says how many that can be.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn trail(&self, trail: &Trail) -> Result<Vec<TrailRow>, QueryError> {
        trail.validate()?;
        let control = Control::start(self.options());
        let user = UserKey::from_text(&trail.user);
        let Some(ordinal) = self.snapshot().find(user)? else {
            return Ok(Vec::new());
        };
        let range = trail.range.resolve(self.as_of());
        let scan = Scan::prepare(self.snapshot(), &[&any()], range, true);
        let mut memory = control.reservation();
        let mut found: Vec<Placed> = Vec::new();
        for (number, run) in scan.runs.iter().enumerate() {
            control.check()?;
            collect(&scan, number, run, ordinal.0, &mut found, &mut memory)?;
        }
        found.sort_unstable_by_key(|&(time, segment, rank, run, row, _)| {
            (time, segment, rank, run, row)
        });
        Ok(found.into_iter().map(|(.., event)| event).collect())
    }
}

/// Reads the user's rows of one run.
fn collect(
    scan: &Scan<'_>,
    number: usize,
    source: &RunScan<'_>,
    ordinal: u32,
    found: &mut Vec<Placed>,
    memory: &mut Reservation<'_>,
) -> Result<(), QueryError> {
    let run = source.run;
    let rows = run.user_rows(ordinal)?;
    let first = found.len();
    if rows.is_empty() {
        return Ok(());
    }
    memory.grow(rows.len() * (size_of::<Placed>() + run.name().len()))?;
    let times = run.times(rows.clone())?;
    let ties = run.ties(rows.clone())?;
    let names = match run.is_overflow() {
        true => Some(run.overflow_names(rows.clone())?),
        false => None,
    };
    for (index, row) in rows.clone().enumerate() {
        let time = times.get(index);
        if scan.range.contains(time) {
            let event = match &names {
                Some(names) => names.get(index).to_owned(),
                None => run.name().to_owned(),
            };
            let event = TrailRow {
                time,
                event,
                properties: BTreeMap::new(),
            };
            found.push((time, source.segment, ties.rank(row), number, row, event));
        }
    }
    properties(source, &mut found[first..], memory)
}

/// Reads the properties of events of one run, column by column.
fn properties(
    source: &RunScan<'_>,
    events: &mut [Placed],
    memory: &mut Reservation<'_>,
) -> Result<(), QueryError> {
    let columns = source.run.properties()?;
    for name in columns.names() {
        let Some(column) = columns.get(name)? else {
            continue;
        };
        for (.., row, event) in events.iter_mut() {
            if let Some(value) = column.value(*row)?.filter(|value| *value != Value::Null) {
                memory.grow(ENTRY_BYTES + name.len() + byte_len(&value))?;
                event.properties.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// About what an entry of a map takes, beside the bytes of its texts.
const ENTRY_BYTES: usize = 2 * size_of::<(String, Value)>();

/// Bytes that a value holds beside itself.
fn byte_len(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::List(elements) => elements
            .iter()
            .map(|element| size_of::<Value>() + byte_len(element))
            .sum(),
        _ => 0,
    }
}
