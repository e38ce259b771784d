//! The lanes of a stretch: where every step has one segment's times there, as 32-bit offsets of one
//! unit, most users' chains are found by [`search`] without a look at anything else.

use std::ops::Range;

use pugmark_engine::segment::Offsets;

use crate::kernel::{Bounds, ExcludedLane, Lane, LaneBounds, LaneScratch, Link, search};

use super::steps::{Source, StepRows, UserRows};

/// Bounds are cut to this many units, shifts must lie within; windows are cut to twice as many, which
/// is more than two times of a stretch are apart. Sums of two cannot overflow.
const FAR: i128 = 1 << 60;

/// Each step's times and users' rows in one stretch.
pub(super) struct Lanes<'m> {
    stretch: usize,
    /// None for a step that has no events in the stretch; behind the steps, of what is excluded.
    rows: Vec<Option<UserRows<'m>>>,
    lanes: Vec<Lane<'m>>,
    exclude: Option<ExcludedLane<'m>>,
    bounds: LaneBounds,
    origin: i64,
    unit_micros: u64,
}

impl<'m> Lanes<'m> {
    /// The lanes of the first `steps` steps; `None` where the times do not lie so, or the last of
    /// the steps has none.
    pub(super) fn open<'a: 'm>(
        of: &StepRows<'m, 'a>,
        stretch: usize,
        steps: usize,
        bounds: &Bounds,
    ) -> Option<Self> {
        let last = of.only_source(steps - 1, stretch).ok()??.times;
        let clock = Clock {
            origin: last.base,
            unit_micros: last.unit_micros,
        };
        let mut rows = Vec::with_capacity(steps + 1);
        let mut lanes = Vec::with_capacity(steps + 1);
        let excluded = bounds.exclude.map(|exclude| exclude.step);
        for step in (0..steps).chain(excluded) {
            let source = of.only_source(step, stretch).ok()?;
            rows.push(source.map(|source| source.rows));
            lanes.push(source.map_or(Some(NO_EVENTS), |source| clock.lane(source))?);
        }
        let before = of.latest_before(steps, stretch);
        let exclude = bounds.exclude.zip(lanes.get(steps).copied());
        lanes.truncate(steps);
        Some(Self {
            stretch,
            rows,
            lanes,
            exclude: exclude.map(|(exclude, lane)| ExcludedLane {
                lane,
                number: steps,
                after: exclude.after,
            }),
            bounds: clock.bounds(bounds, before),
            origin: clock.origin,
            unit_micros: clock.unit_micros,
        })
    }

    /// Searches the chains of users, by the lower halves of their ordinals. `emit` is given a user
    /// and whether there is a chain, which then is in `chain`; `None` where that is not known. Users
    /// without a chain may be left out.
    pub(super) fn search(
        &self,
        lows: &[u16],
        scratch: &mut LaneScratch,
        chain: &mut [Link],
        mut emit: impl FnMut(u16, Option<&[Link]>),
    ) {
        let rows = |step: usize, user: usize| -> Range<u32> {
            let rows = self.rows[step].as_ref();
            rows.map_or(0..0, |rows| rows.of(lows[user]))
        };
        search(
            &self.lanes,
            self.exclude.as_ref(),
            &self.bounds,
            lows.len(),
            rows,
            scratch,
            |user, events| {
                let Some(events) = events else {
                    return emit(lows[user], None);
                };
                for (step, (link, lane)) in chain.iter_mut().zip(&self.lanes).enumerate() {
                    let event = events.event(step);
                    let micros = lane.units(event).wrapping_mul(self.unit_micros as i64);
                    *link = Link {
                        stretch: self.stretch,
                        event: event as usize,
                        time: self.origin.wrapping_add(micros),
                    };
                }
                emit(lows[user], Some(chain));
            },
        );
    }
}

const NO_EVENTS: Lane<'static> = Lane {
    offsets: &[],
    shift: 0,
    held: &[],
};

/// What the lanes' units are.
struct Clock {
    origin: i64,
    unit_micros: u64,
}

impl Clock {
    fn lane<'m, 'a: 'm>(&self, source: &Source<'m, 'a>) -> Option<Lane<'m>> {
        let times = source.times;
        let Offsets::U32(offsets) = times.offsets else {
            return None;
        };
        let apart = i128::from(times.base) - i128::from(self.origin);
        let unit = i128::from(self.unit_micros);
        let most = times.offset_from(source.of.run.max_time());
        let fits = times.unit_micros == self.unit_micros
            && most < u64::from(u32::MAX)
            && apart % unit == 0
            && (apart / unit).abs() < FAR;
        fits.then(|| Lane {
            offsets,
            shift: (apart / unit) as i64,
            held: source.held,
        })
    }

    fn bounds(&self, bounds: &Bounds, before: Option<i64>) -> LaneBounds {
        let unit = i128::from(self.unit_micros);
        let cut = |units: i128| units.clamp(-FAR, FAR) as i64;
        let within = |micros| (i128::from(micros) / unit).min(2 * FAR) as i64;
        let since = |time: i64| i128::from(time) - i128::from(self.origin);
        // All times are whole units, so these say the same of them.
        let up = |time: i64| cut((since(time) + unit - 1).div_euclid(unit));
        let down = |time: i64| cut(since(time).div_euclid(unit));
        LaneBounds {
            first: up(bounds.first),
            last: down(bounds.last),
            within: bounds.within.map_or(2 * FAR as i64, within),
            before: before.map_or(-FAR as i64, up),
        }
    }
}
