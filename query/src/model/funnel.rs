//! Funnels, by enumerating every chain of every user.

use std::collections::{BTreeMap, BTreeSet};

use super::chains::{Allowed, Chain, UserEvents};
use super::{ModelEvent, ModelStore};
use crate::behaviour::{
    Attribute, ByKey, DEFAULT_TOP, Entries, Funnel, FunnelMode, FunnelResult, FunnelRow,
    FunnelTimesRow, FunnelUser, FunnelUsersResult, Notices, Operand, operand_value,
};
use crate::error::Invalid;

/// Bucket and value of the breakdown; `None` where not asked for.
type Group = (Option<i64>, Option<ByKey>);

/// What one group is made of.
#[derive(Clone, Default)]
struct Counts {
    /// For each step of the funnel, the microseconds from the first event of each counted chain
    /// to that step.
    times: Vec<Vec<i64>>,
    /// True where a possible start has a window that is still open.
    open: bool,
}

/// A chain that counts for a step.
struct Counted {
    group: Group,
    step: usize,
    micros: i64,
}

impl ModelStore {
    /// The table of `funnel`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Funnel::validate`].
    pub fn funnel(&self, funnel: &Funnel, as_of: i64) -> Result<FunnelResult, Invalid> {
        funnel.validate()?;
        let mut groups = self.counts(funnel, as_of)?;
        fold_into_top(funnel, &mut groups);
        if groups.is_empty() && funnel.by.is_none() && funnel.bucket.is_none() {
            groups.insert((None, None), Counts::empty(funnel));
        }
        let rows = groups
            .iter()
            .flat_map(|(group, counts)| rows(funnel, group, counts));
        Ok(FunnelResult {
            rows: rows.collect(),
            notices: Notices::default(),
        })
    }

    /// The users of `funnel` with their reported chains, and the values of `values` along them.
    ///
    /// With [`Entries::Every`] the chain is each user's best.
    ///
    /// # Errors
    /// As [`Funnel::validate`].
    pub fn funnel_users(
        &self,
        funnel: &Funnel,
        values: &[&str],
        as_of: i64,
    ) -> Result<FunnelUsersResult, Invalid> {
        funnel.validate()?;
        let kept = top_values(funnel, &self.counts(funnel, as_of)?);
        let mut rows = Vec::new();
        for user in self.funnel_population(funnel, as_of)? {
            let events = UserEvents::gather(self, funnel, user, as_of);
            for (bucket, chain) in events.reported() {
                let by = events.by(&chain).map(|key| kept_key(&kept, key));
                let along = || chain.events.iter().map(|&(_, index)| events.events[index]);
                let value = |event: &ModelEvent, name: &str| event.properties.get(name).cloned();
                rows.push(FunnelUser {
                    user,
                    bucket,
                    by,
                    level: events.level(&chain),
                    steps: events.positions(&chain),
                    times: along().map(|event| event.time).collect(),
                    values: values
                        .iter()
                        .map(|name| along().map(|event| value(event, name)).collect())
                        .collect(),
                });
            }
        }
        Ok(FunnelUsersResult {
            rows,
            notices: Notices::default(),
        })
    }

    /// The histogram of the times from one step to another (from 1), in `bins` equal bins from 0
    /// to the longest.
    ///
    /// # Errors
    /// As [`Funnel::validate_times`].
    pub fn funnel_times(
        &self,
        funnel: &Funnel,
        from_step: usize,
        to_step: usize,
        bins: usize,
        as_of: i64,
    ) -> Result<Vec<FunnelTimesRow>, Invalid> {
        funnel.validate_times(from_step, to_step, bins)?;
        let mut times = Vec::new();
        for user in self.funnel_population(funnel, as_of)? {
            let events = UserEvents::gather(self, funnel, user, as_of);
            let chains: Vec<_> = if funnel.entries == Entries::Every {
                let chains = events.every(to_step - 1).into_iter();
                chains.map(|(_, chain)| chain).collect()
            } else {
                let chains = events.reported().into_iter();
                chains.map(|(_, chain)| chain).collect()
            };
            for chain in chains {
                let at = |step| {
                    let steps = events.positions(&chain);
                    let position = steps.iter().position(|&at| at == step)?;
                    Some(events.event(&chain, position)?.time)
                };
                if let (Some(from), Some(to)) = (at(from_step), at(to_step)) {
                    times.push(to.saturating_sub(from));
                }
            }
        }
        Ok(histogram(&times, bins))
    }

    fn funnel_population(&self, funnel: &Funnel, as_of: i64) -> Result<BTreeSet<u32>, Invalid> {
        match &funnel.users {
            Some(segment) => self.segment(segment, as_of),
            None => Ok(self.known_users(as_of)),
        }
    }

    fn counts(&self, funnel: &Funnel, as_of: i64) -> Result<BTreeMap<Group, Counts>, Invalid> {
        let mut groups: BTreeMap<Group, Counts> = BTreeMap::new();
        for user in self.funnel_population(funnel, as_of)? {
            let events = UserEvents::gather(self, funnel, user, as_of);
            let (counted, open) = events.counted(as_of);
            for Counted {
                group,
                step,
                micros,
            } in counted
            {
                let counts = groups.entry(group).or_insert_with(|| Counts::empty(funnel));
                counts.times[step].push(micros);
            }
            for group in open {
                if let Some(counts) = groups.get_mut(&group) {
                    counts.open = true;
                }
            }
        }
        Ok(groups)
    }
}

impl Counts {
    fn empty(funnel: &Funnel) -> Self {
        Self {
            times: vec![Vec::new(); funnel.steps.len()],
            open: false,
        }
    }
}

impl UserEvents<'_> {
    /// The chains that count for each step, and the groups with an entry whose window is open.
    fn counted(&self, as_of: i64) -> (Vec<Counted>, Vec<Group>) {
        let (mut counted, mut open) = (Vec::new(), Vec::new());
        if self.funnel.entries == Entries::Every {
            for step in 0..self.funnel.steps.len() {
                for (bucket, chain) in self.every(step) {
                    let group = (bucket, self.by(&chain));
                    if step == 0 && self.window_is_open(&chain, as_of) {
                        open.push(group.clone());
                    }
                    counted.push(Counted {
                        group,
                        step,
                        micros: self.micros(&chain, chain.events.len() - 1),
                    });
                }
            }
            return (counted, open);
        }
        for (bucket, chain) in self.reported() {
            let group = (bucket, self.by(&chain));
            for (position, step) in self.positions(&chain).into_iter().enumerate() {
                counted.push(Counted {
                    group: group.clone(),
                    step: step - 1,
                    micros: self.micros(&chain, position),
                });
            }
            let entries = self
                .candidates()
                .into_iter()
                .filter(|entry| entry.events.len() == 1 && self.bucket(entry) == bucket);
            if entries
                .into_iter()
                .any(|entry| self.window_is_open(&entry, as_of))
            {
                open.push(group);
            }
        }
        (counted, open)
    }

    /// The reported chain; in each bucket, where buckets were asked for.
    fn reported(&self) -> BTreeMap<Option<i64>, Chain> {
        let mut reported: BTreeMap<Option<i64>, Chain> = BTreeMap::new();
        for chain in self.candidates() {
            let bucket = self.bucket(&chain);
            match reported.get(&bucket) {
                Some(best) if self.compare(best, &chain).is_le() => {}
                _ => {
                    reported.insert(bucket, chain);
                }
            }
        }
        reported
    }

    /// Every chain that `entries` lets count.
    fn candidates(&self) -> Vec<Chain> {
        let allowed = Allowed::all(self.funnel);
        let values = self.held_values();
        let mut chains: Vec<Chain> = values
            .iter()
            .flat_map(|held| self.chains(&allowed, held))
            .collect();
        if self.funnel.entries == Entries::First {
            let starts = chains.iter().map(|chain| chain.events[0].1);
            let first = starts.min();
            chains.retain(|chain| Some(chain.events[0].1) == first);
        }
        chains
    }

    /// For [`Entries::Every`]: as many chains as possible that end with `step`, none overlapping
    /// another of the same bucket and held value.
    fn every(&self, step: usize) -> Vec<(Option<i64>, Chain)> {
        let allowed = Allowed::up_to(self.funnel, step);
        let mut counted = Vec::new();
        for held in self.held_values() {
            let mut chains = self.chains(&allowed, &held);
            chains.retain(|chain| chain.events.len() == allowed.required());
            let buckets: BTreeSet<_> = chains.iter().map(|chain| self.bucket(chain)).collect();
            for bucket in buckets {
                let mut free = 0;
                // The one that ends first leaves the most room for others.
                while let Some(chain) = chains
                    .iter()
                    .filter(|chain| self.bucket(chain) == bucket && chain.events[0].1 >= free)
                    .min_by(|left, right| self.compare(left, right))
                {
                    free = chain.events[chain.events.len() - 1].1 + 1;
                    counted.push((bucket, chain.clone()));
                }
            }
        }
        counted
    }

    fn bucket(&self, chain: &Chain) -> Option<i64> {
        let unit = self.funnel.bucket?;
        let start = self.event(chain, 0)?.time;
        Some(self.funnel.zone.bucket(unit, start).start)
    }

    /// The steps of a chain's events, from 1; in any order, their positions.
    fn positions(&self, chain: &Chain) -> Vec<usize> {
        if self.funnel.mode == FunnelMode::AnyOrder {
            return (1..=chain.events.len()).collect();
        }
        chain.events.iter().map(|&(step, _)| step + 1).collect()
    }

    fn micros(&self, chain: &Chain, position: usize) -> i64 {
        match (self.event(chain, 0), self.event(chain, position)) {
            (Some(first), Some(event)) => event.time.saturating_sub(first.time),
            _ => 0,
        }
    }

    fn window_is_open(&self, chain: &Chain, as_of: i64) -> bool {
        match (self.funnel.within, self.event(chain, 0)) {
            (Some(within), Some(first)) => {
                i128::from(as_of) - i128::from(first.time) < i128::from(within.micros)
            }
            _ => false,
        }
    }

    fn by(&self, chain: &Chain) -> Option<ByKey> {
        let operand = self.funnel.by.as_ref()?;
        if let Operand::Property(name) = operand
            && let Some(index) = self.funnel.holding.iter().position(|held| held == name)
        {
            return Some(ByKey::Value(chain.held[index].clone()));
        }
        let position = match self.funnel.attribute.unwrap_or_default() {
            Attribute::First => 0,
            Attribute::Last => chain.events.len() - 1,
        };
        let row = super::Row {
            event: self.event(chain, position)?,
            traits: &self.traits,
        };
        let (value, _) = operand_value(operand, &row);
        let scalars = value.iter().flat_map(|value| value.scalars());
        let texts = scalars.map(|scalar| scalar.canonical_text().into_owned());
        Some(texts.min().map_or(ByKey::None, ByKey::Value))
    }
}

/// The values of the breakdown that are told apart.
fn top_values(funnel: &Funnel, groups: &BTreeMap<Group, Counts>) -> BTreeSet<String> {
    let mut totals: BTreeMap<&String, usize> = BTreeMap::new();
    for ((_, by), counts) in groups {
        if let Some(ByKey::Value(value)) = by {
            *totals.entry(value).or_default() += counts.times[0].len();
        }
    }
    let mut values: Vec<_> = totals.into_iter().collect();
    values.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
    values.truncate(funnel.top.unwrap_or(DEFAULT_TOP));
    values.into_iter().map(|(value, _)| value.clone()).collect()
}

fn kept_key(kept: &BTreeSet<String>, key: ByKey) -> ByKey {
    match key {
        ByKey::Value(value) if !kept.contains(&value) => ByKey::Other,
        other => other,
    }
}

fn fold_into_top(funnel: &Funnel, groups: &mut BTreeMap<Group, Counts>) {
    let kept = top_values(funnel, groups);
    for ((bucket, by), counts) in std::mem::take(groups) {
        let by = by.map(|key| kept_key(&kept, key));
        let group = groups
            .entry((bucket, by))
            .or_insert_with(|| Counts::empty(funnel));
        group.open |= counts.open;
        for (times, more) in group.times.iter_mut().zip(counts.times) {
            times.extend(more);
        }
    }
}

fn rows(funnel: &Funnel, group: &Group, counts: &Counts) -> Vec<FunnelRow> {
    let rate = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
    let start = counts.times[0].len();
    let mut previous = None;
    let mut rows = Vec::new();
    let wanted = |seconds: Option<f64>| seconds.filter(|_| funnel.times);
    for (step, times) in counts.times.iter().enumerate() {
        let users = times.len();
        rows.push(FunnelRow {
            bucket: group.0,
            by: group.1.clone(),
            step: step + 1,
            name: funnel.step_name(step),
            users: users as u64,
            from_start: rate(users, start),
            from_previous: previous.and_then(|previous| rate(users, previous)),
            median_seconds: wanted(median(times)),
            mean_seconds: wanted(mean(times)),
            p90_seconds: wanted(p90(times)),
            incomplete: funnel.within.map(|_| counts.open),
        });
        if !funnel.steps[step].optional {
            previous = Some(users);
        }
    }
    rows
}

fn median(times: &[i64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let low = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    let high = sorted[sorted.len() / 2];
    Some((i128::from(low) + i128::from(high)) as f64 / 2e6)
}

fn mean(times: &[i64]) -> Option<f64> {
    let sum: i128 = times.iter().map(|&time| i128::from(time)).sum();
    (!times.is_empty()).then(|| sum as f64 / times.len() as f64 / 1e6)
}

/// Nearest rank: the least value that at least 90 % of the values do not exceed.
fn p90(times: &[i64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * 9).div_ceil(10);
    Some(*sorted.get(rank.checked_sub(1)?)? as f64 / 1e6)
}

fn histogram(times: &[i64], bins: usize) -> Vec<FunnelTimesRow> {
    let Some(&longest) = times.iter().max() else {
        return Vec::new();
    };
    let bins = if longest == 0 { 1 } else { bins };
    let edge = |bin: usize| longest as f64 / 1e6 * bin as f64 / bins as f64;
    let mut rows: Vec<_> = (0..bins)
        .map(|bin| FunnelTimesRow {
            low_seconds: edge(bin),
            high_seconds: edge(bin + 1),
            users: 0,
        })
        .collect();
    for &time in times {
        let bin = match longest {
            0 => 0,
            _ => (i128::from(time) * bins as i128 / i128::from(longest)) as usize,
        };
        rows[bin.min(bins - 1)].users += 1;
    }
    rows
}

/// A chain with everything that the kernel says about it.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JudgedChain {
    /// The row that it counts for, from 0; 0 for reported chains.
    pub(crate) row: usize,
    pub(crate) bucket: Option<i64>,
    pub(crate) held: Vec<String>,
    /// Step and index into the user's history in the range, both from 0.
    pub(crate) events: Vec<(usize, usize)>,
}

#[cfg(test)]
impl ModelStore {
    /// The reported chains of a user, or those that `entries => 'every'` counts.
    pub(crate) fn judged_chains(&self, funnel: &Funnel, user: u32, as_of: i64) -> Vec<JudgedChain> {
        let events = UserEvents::gather(self, funnel, user, as_of);
        let judged = |row, (bucket, chain): (Option<i64>, Chain)| JudgedChain {
            row,
            bucket,
            held: chain.held.clone(),
            events: match funnel.mode {
                FunnelMode::AnyOrder => {
                    let events = chain.events.iter().enumerate();
                    events
                        .map(|(position, &(_, index))| (position, index))
                        .collect()
                }
                _ => chain.events,
            },
        };
        if funnel.entries == Entries::Every {
            let rows = 0..funnel.steps.len();
            return rows
                .flat_map(|row| {
                    let chains = events.every(row).into_iter();
                    chains.map(move |chain| judged(row, chain))
                })
                .collect();
        }
        let reported = events.reported().into_iter();
        reported.map(|chain| judged(0, chain)).collect()
    }

    /// For each bucket, the time of the last event that a chain may start with.
    pub(crate) fn judged_starts(
        &self,
        funnel: &Funnel,
        user: u32,
        as_of: i64,
    ) -> BTreeMap<Option<i64>, i64> {
        let events = UserEvents::gather(self, funnel, user, as_of);
        let mut starts = BTreeMap::new();
        for chain in events.candidates() {
            let start = events.events[chain.events[0].1].time;
            let last = starts.entry(events.bucket(&chain)).or_insert(start);
            *last = start.max(*last);
        }
        starts
    }
}
