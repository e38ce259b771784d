//! Every row of a snapshot, by user, in total order.
//!
//! Reads segment by segment and run by run, the plain way, so that it can be compared with a
//! reference row by row.

use std::collections::BTreeMap;
use std::sync::Arc;

use pugmark_engine::bitmap::join;
use pugmark_engine::segment::{NameRun, Segment, UserStarts};
use pugmark_engine::{ReadError, Snapshot};

use crate::reference::{Row, Trails, cell};

/// A row's place among those of its user: time, place of the segment in order of arrival, tie
/// rank, row.
type Place = (i64, usize, u32, u32);

/// Reads everything.
///
/// # Errors
/// The first damage.
pub fn dump(snapshot: &Snapshot) -> Result<Trails, ReadError> {
    Ok(Trails {
        events: rows_of(snapshot, snapshot.event_segments())?,
        traits: rows_of(snapshot, snapshot.trait_segments())?,
    })
}

fn rows_of(
    snapshot: &Snapshot,
    segments: &[Arc<Segment>],
) -> Result<BTreeMap<String, Vec<Row>>, ReadError> {
    let mut placed: BTreeMap<u32, Vec<(Place, Row)>> = BTreeMap::new();
    for (index, segment) in segments.iter().enumerate() {
        for run in segment.all_runs() {
            read_run(&run, index, &mut placed)?;
        }
    }
    let mut users = BTreeMap::new();
    for (ordinal, mut rows) in placed {
        rows.sort();
        let id = snapshot
            .dictionary()
            .id(ordinal)?
            .expect("a user with rows has an id");
        let rows = rows.into_iter().map(|(_, row)| row).collect();
        let previous = users.insert(id.to_string(), rows);
        assert!(previous.is_none(), "{id} has two ordinals");
    }
    Ok(users)
}

fn read_run(
    run: &NameRun<'_>,
    segment: usize,
    placed: &mut BTreeMap<u32, Vec<(Place, Row)>>,
) -> Result<(), ReadError> {
    let properties = run.properties()?;
    let columns: Vec<_> = properties
        .names()
        .map(|name| (name, properties.get(name)))
        .collect();
    // The rarest names share a run that has their names beside its rows.
    let names = if run.is_overflow() {
        Some(run.overflow_names(0..run.rows())?)
    } else {
        None
    };
    let mut users = UserStarts::default();
    for (key, _) in run.users()?.keys() {
        run.user_starts(key, 0..1 << 16, &mut users)?;
        for (place, low) in users.users.iter().enumerate() {
            let rows = users.starts[place]..users.starts[place + 1];
            let times = run.times(rows.clone())?;
            let ties = run.ties(rows.clone())?;
            let trail = placed.entry(join(key, low)).or_default();
            for (index, number) in rows.enumerate() {
                let time = times.get(index);
                let mut row = Row {
                    time,
                    name: run.name().to_owned(),
                    ..Row::default()
                };
                if let Some(names) = &names {
                    row.name = names.get(number as usize).to_owned();
                }
                for (name, column) in &columns {
                    let column = column.as_ref().map_err(Clone::clone)?;
                    let value = column
                        .as_ref()
                        .and_then(|column| column.value(number).transpose());
                    if let Some(value) = value.transpose()? {
                        row.properties.insert((*name).to_owned(), cell(&value));
                    }
                }
                trail.push(((time, segment, ties.rank(number), number), row));
            }
        }
    }
    Ok(())
}
