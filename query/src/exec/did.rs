//! `did(…)` over a morsel: by bitmaps, by counts, or by gathering events.

use pugmark_engine::bitmap::Words;
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Did, TimeRange, Truth};
use crate::kernel::{DidEvents, DidPlan, DidScratch, Held, Measures, match_did};

use super::control::{Control, QueryError};
use super::exists::{Bounds, Exists};
use super::gather::{Asked, Gather, Gathering};
use super::morsel::Morsel;
use super::scan::{DENSE_STARTS, RunScan, Scan};
use super::traits::TraitTable;
use super::values::{Lists, held, measures};
use super::worker::Worker;

/// A `did(…)` made ready for a snapshot.
#[derive(Debug)]
pub(crate) struct PreparedDid<'a> {
    did: Did,
    way: Way<'a>,
}

#[derive(Debug)]
enum Way<'a> {
    /// Those of `with` who are in none of `without`.
    Exists {
        with: Exists<'a>,
        without: Vec<Exists<'a>>,
    },
    /// Those whose number of events in the range is within bounds.
    Counts {
        scan: Scan<'a>,
        least: u64,
        most: u64,
    },
    /// Those whom the matcher accepts.
    Events { scan: Scan<'a>, plan: DidPlan },
}

/// What bitmaps tell of a morsel's users for each question of existence that a `did(…)` is made of.
pub(crate) type Parts = Vec<Bounds>;

impl<'a> PreparedDid<'a> {
    /// Chooses the cheapest way that has the right answer.
    pub(crate) fn new(snapshot: &'a Snapshot, did: &Did, as_of: i64) -> Result<Self, QueryError> {
        let range = did.range.resolve(as_of);
        let (least, most) = did.count_bounds();
        let followed = did.then.is_some() || did.not_then.is_some();
        let plain = !followed && did.on_days.is_none() && did.aggregates.is_empty();
        let looks_outside = did.first_time || did.idle_for.is_some();
        let way = if plain && (least, most) == (1, u64::MAX) {
            Self::by_existence(snapshot, did, range, as_of)?
        } else if plain && !looks_outside {
            let scan = Scan::prepare(snapshot, &[&did.condition], range, false);
            Way::Counts { scan, least, most }
        } else {
            Self::by_events(snapshot, did, range, as_of)
        };
        Ok(Self {
            did: did.clone(),
            way,
        })
    }

    /// The first such event lies in the range where none lies before it; the last lies at least
    /// `idle_for` back where none lies after that.
    fn by_existence(
        snapshot: &'a Snapshot,
        did: &Did,
        range: TimeRange,
        as_of: i64,
    ) -> Result<Way<'a>, QueryError> {
        let condition = &did.condition;
        let mut without = Vec::new();
        if did.first_time && range.first > i64::MIN {
            let before = TimeRange {
                first: i64::MIN,
                last: range.first - 1,
            };
            without.push(Exists::prepare(snapshot, condition, before)?);
        }
        if let Some(span) = did.idle_for {
            let last_allowed = as_of.saturating_sub(span.micros);
            if last_allowed < as_of {
                let since = TimeRange {
                    first: last_allowed + 1,
                    last: as_of,
                };
                without.push(Exists::prepare(snapshot, condition, since)?);
            }
        }
        let with = Exists::prepare(snapshot, condition, range)?;
        Ok(Way::Exists { with, without })
    }

    fn by_events(snapshot: &'a Snapshot, did: &Did, range: TimeRange, as_of: i64) -> Way<'a> {
        let plan = DidPlan::new(did, as_of);
        let first = match did.first_time || did.idle_for.is_some() {
            true => i64::MIN,
            false => range.first,
        };
        let last = if plan.looks_outside() {
            as_of
        } else {
            range.last
        };
        let never = Condition::Constant(Truth::False);
        let then = did.then.as_ref().unwrap_or(&never);
        let not_then = did.not_then.as_ref().unwrap_or(&never);
        let conditions = [&did.condition, then, not_then];
        let scan = Scan::prepare(snapshot, &conditions, TimeRange { first, last }, false);
        Way::Events { scan, plan }
    }

    /// The scans that it reads, for cutting morsels and for the traits they need.
    pub(crate) fn scans(&self) -> Vec<&Scan<'a>> {
        match &self.way {
            Way::Exists { with, without } => without
                .iter()
                .chain([with])
                .map(|exists| &exists.scan)
                .collect(),
            Way::Counts { scan, .. } | Way::Events { scan, .. } => vec![scan],
        }
    }

    /// About how many users will be found, at most; the dearer ways count as very many.
    pub(crate) fn most_users(&self) -> u64 {
        match &self.way {
            Way::Exists { with, .. } => with.most_users(),
            Way::Counts { .. } => 1 << 41,
            Way::Events { .. } => 1 << 42,
        }
    }

    /// True where rows are read, so that their number tells what a morsel costs.
    pub(crate) fn reads_rows(&self) -> bool {
        match &self.way {
            Way::Exists { with, without } => without.iter().chain([with]).any(Exists::reads_rows),
            Way::Counts { .. } | Way::Events { .. } => true,
        }
    }

    /// What bitmaps alone tell of the morsel's users who did, and of what that is made of.
    pub(crate) fn bounds(&self, morsel: &Morsel) -> Result<(Bounds, Parts), Corruption> {
        let mut whole = Bounds::default();
        match &self.way {
            Way::Exists { with, without } => {
                whole = with.bounds(morsel)?;
                let mut parts = vec![whole.clone()];
                for exists in without {
                    let part = exists.bounds(morsel)?;
                    whole = whole.except(&part);
                    parts.push(part);
                }
                return Ok((whole, parts));
            }
            Way::Counts { least: 0, .. } => whole.possibly = Words::of_range(morsel.lows.clone()),
            Way::Counts { scan, .. } | Way::Events { scan, .. } => {
                for source in &scan.runs {
                    let users = match &self.way {
                        Way::Counts { .. } => source.possible_users()?,
                        _ => source.run.users()?,
                    };
                    users.or_into(morsel.key, &mut whole.possibly);
                }
            }
        }
        Ok((whole, Parts::new()))
    }

    /// Those among `within`, which are users of the morsel, that did. `parts` are those of
    /// the morsel.
    pub(crate) fn users(
        &self,
        morsel: &Morsel,
        parts: &[Bounds],
        within: &Words,
        traits: &TraitTable,
        worker: &mut Worker<'_>,
    ) -> Result<Words, QueryError> {
        match &self.way {
            Way::Exists { with, without } => {
                let Worker {
                    control,
                    starts,
                    skipped,
                    ..
                } = worker;
                let mut parts = [with].into_iter().chain(without).zip(parts);
                let mut found = Words::new();
                if let Some((with, bounds)) = parts.next() {
                    found = with.users(morsel, bounds, within, traits, control, starts, skipped)?;
                }
                for (exists, bounds) in parts {
                    let others =
                        exists.users(morsel, bounds, &found, traits, control, starts, skipped)?;
                    found.and_not(&others);
                }
                Ok(found)
            }
            Way::Counts { scan, least, most } => {
                worker.counts.clear();
                worker.counts.resize(DENSE_STARTS - 1, 0);
                for source in &scan.runs {
                    count_run(source, scan.range, morsel, within, traits, worker)?;
                }
                let (bounds, counts) = (*least..=*most, &worker.counts);
                let mut found = Words::new();
                within.for_each(|low| {
                    found.insert_if(low, bounds.contains(&counts[usize::from(low)]));
                });
                Ok(found)
            }
            Way::Events { scan, plan } => {
                self.by_matching(scan, plan, morsel, within, traits, worker)
            }
        }
    }

    fn by_matching(
        &self,
        scan: &Scan<'a>,
        plan: &DidPlan,
        morsel: &Morsel,
        within: &Words,
        traits: &TraitTable,
        worker: &mut Worker<'_>,
    ) -> Result<Words, QueryError> {
        let Worker {
            control,
            gather,
            skipped,
            did: scratch,
            ..
        } = worker;
        let asked = Asked {
            steps: 0,
            every_row: false,
        };
        let of = Gathering {
            scan,
            morsel,
            wanted: within,
            traits,
            asked,
        };
        gather.fill(of, skipped)?;
        let holding = match self.did.holding.as_slice() {
            [] => None,
            properties => Some(held(scan, gather, properties)?.0),
        };
        let tests = self.did.aggregates.iter();
        let measured: Vec<Lists<_>> = tests
            .map(|test| measures(scan, gather, test))
            .collect::<Result<_, _>>()?;
        let mut found = Words::new();
        for user in 0..gather.users() {
            if match_user(
                plan,
                gather,
                user,
                holding.as_ref(),
                &measured,
                scratch,
                control,
            )? {
                found.insert(gather.lows[user]);
            }
        }
        Ok(found)
    }
}

fn match_user(
    plan: &DidPlan,
    gather: &Gather<'_>,
    user: usize,
    holding: Option<&Lists<u32>>,
    measured: &[Lists<crate::kernel::Measure>],
    scratch: &mut DidScratch,
    control: &Control,
) -> Result<bool, QueryError> {
    let events = gather.events(user);
    let mut held_ends = Vec::new();
    let held = match holding {
        Some(lists) => {
            let ids = lists.slice(events.clone(), &mut held_ends);
            Held::Ids {
                ends: &held_ends,
                ids,
            }
        }
        None => Held::Nothing,
    };
    let mut ends = vec![Vec::new(); measured.len()];
    let measures: Vec<Measures<'_>> = measured
        .iter()
        .zip(&mut ends)
        .map(|(lists, ends)| {
            let values = lists.slice(events.clone(), ends);
            Measures { ends, values }
        })
        .collect();
    let seen = DidEvents {
        times: &gather.times[events.clone()],
        flags: &gather.flags[events],
        held,
        measures: &measures,
    };
    match match_did(plan, &seen, scratch, &|| control.check().is_err()) {
        Ok(matched) => Ok(matched),
        Err(_) => Err(control.check().err().unwrap_or(QueryError::Cancelled)),
    }
}

/// Adds one run's matching rows to the counts of `within`.
fn count_run(
    source: &RunScan<'_>,
    range: TimeRange,
    morsel: &Morsel,
    within: &Words,
    traits: &TraitTable,
    worker: &mut Worker<'_>,
) -> Result<(), QueryError> {
    let Worker {
        control,
        starts,
        counts,
        skipped,
        ..
    } = worker;
    let Some(rows) = source.rows_of(morsel, starts)? else {
        return Ok(());
    };
    let lows = || rows.lows(morsel);
    let verdicts = source.evaluate(&rows.range, &lows, traits, control, skipped)?;
    let times = source.run.times(rows.range.clone())?;
    within.for_each(|low| {
        let own = source.inside(rows.of(low), &times, range);
        counts[usize::from(low)] += verdicts[0].count(own) as u64;
    });
    Ok(())
}
