//! From matched users to the rows of a funnel: partial sums that merge, then rates and medians.
//!
//! Each thread (each machine) keeps a [`FunnelTally`] of the users it matched; tallies merge in
//! any order and give the same rows. Times are kept one by one, 8 bytes for each user and step
//! beyond the first, because medians are exact; [`FunnelTally::byte_len`] says what that costs.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::behaviour::{ByKey, DEFAULT_TOP, Funnel, FunnelRow, FunnelTimesRow};
use crate::kernel::{Counted, Outcome};

/// Bucket and value of the breakdown; `None` where not asked for.
type Key = (Option<i64>, Option<ByKey>);

/// A group of a tally: one bucket and one value of the breakdown. Valid for its tally only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupId(u32);

/// What some users come to in a funnel.
#[derive(Clone, Debug)]
pub struct FunnelTally {
    steps: usize,
    /// Whether times to convert are kept.
    times: bool,
    groups: Vec<Group>,
    index: HashMap<Key, GroupId>,
}

#[derive(Clone, Debug)]
struct Group {
    steps: Vec<StepTally>,
    /// True where a possible start has a window that is still open.
    open: bool,
}

#[derive(Clone, Debug, Default)]
struct StepTally {
    users: u64,
    /// Microseconds from the first event, one for each user; those left out are 0.
    micros: Vec<i64>,
}

impl FunnelTally {
    /// The tally of nobody.
    pub fn new(funnel: &Funnel) -> Self {
        Self {
            steps: funnel.steps.len(),
            times: funnel.times,
            groups: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// The group of a bucket and a value of the breakdown.
    pub fn group(&mut self, bucket: Option<i64>, by: Option<ByKey>) -> GroupId {
        match self.index.entry((bucket, by)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let id = GroupId(self.groups.len() as u32);
                self.groups.push(Group {
                    steps: vec![StepTally::default(); self.steps],
                    open: false,
                });
                *new.insert(id)
            }
        }
    }

    /// Adds a user's reported chain. `times` are those of the matched events; `open` tells whether
    /// the last possible start's window is still open.
    pub fn add(&mut self, group: GroupId, outcome: &Outcome<'_>, times: &[i64], open: bool) {
        let keep = self.times;
        let group = &mut self.groups[group.0 as usize];
        group.open |= open;
        let mut start = None;
        for (step, event) in outcome.events() {
            let time = times[event];
            let start = *start.get_or_insert(time);
            group.steps[step].push(time.saturating_sub(start), keep);
        }
    }

    /// Adds a chain that counts for one row. `open` matters for chains of one event.
    pub fn add_counted(
        &mut self,
        group: GroupId,
        counted: &Counted<'_>,
        times: &[i64],
        open: bool,
    ) {
        let keep = self.times;
        let group = &mut self.groups[group.0 as usize];
        group.open |= open && counted.step == 0;
        let ends = |event: Option<(usize, usize)>| event.map_or(0, |(_, event)| times[event]);
        let start = ends(counted.events().next());
        let end = ends(counted.events().last());
        group.steps[counted.step].push(end.saturating_sub(start), keep);
    }

    /// Adds users who came to the first step and no further, such as a bitmap counts them.
    pub fn add_entered(&mut self, group: GroupId, users: u64, open: bool) {
        let group = &mut self.groups[group.0 as usize];
        group.open |= open;
        group.steps[0].users += users;
    }

    /// Adds one user who came to the step numbered `micros.len()`, `micros` being the time from the
    /// first event to each step: the way of the fast path.
    pub fn add_times(&mut self, group: GroupId, micros: &[i64], open: bool) {
        let group = &mut self.groups[group.0 as usize];
        group.open |= open;
        for (step, &micros) in group.steps.iter_mut().zip(micros) {
            step.push(micros, true);
        }
    }

    /// Adds one user who came to step `level` (counted from 1), where times do not matter.
    pub fn add_level(&mut self, group: GroupId, level: usize, open: bool) {
        let group = &mut self.groups[group.0 as usize];
        group.open |= open;
        let steps = group.steps.iter_mut().take(level);
        steps.for_each(|step| step.users += 1);
    }

    /// Adds `users[k]` users who came to step `k` (counted from 1) and no further, where times do
    /// not matter.
    pub fn add_levels(&mut self, group: GroupId, users: &[u64]) {
        let steps = &mut self.groups[group.0 as usize].steps;
        for (level, count) in users.iter().enumerate() {
            let reached = steps.iter_mut().take(level);
            reached.for_each(|step| step.users += count);
        }
    }

    /// True where a start of the group is known to have a window that is still open.
    pub fn is_open(&self, group: GroupId) -> bool {
        self.groups[group.0 as usize].open
    }

    /// Adds what others come to.
    pub fn merge(&mut self, other: Self) {
        let mut groups: Vec<_> = other.groups.into_iter().map(Some).collect();
        for ((bucket, by), id) in other.index {
            let Some(from) = groups[id.0 as usize].take() else {
                continue;
            };
            let into = self.group(bucket, by);
            self.groups[into.0 as usize].merge(from);
        }
    }

    /// About how many bytes this holds.
    pub fn byte_len(&self) -> usize {
        let key = |(_, by): &Key| match by {
            Some(ByKey::Value(value)) => value.capacity(),
            _ => 0,
        };
        let keys: usize = self.index.keys().map(key).sum();
        let groups = self.groups.iter().flat_map(|group| &group.steps);
        let micros: usize = groups.map(|step| step.micros.capacity() * 8).sum();
        let group_bytes = self.steps * size_of::<StepTally>() + 2 * size_of::<(Key, GroupId)>();
        keys + micros + self.groups.len() * group_bytes
    }

    /// The values of the breakdown that are told apart: by chains of step 1 over all buckets, ties
    /// by bytes.
    pub fn top_values(&self, funnel: &Funnel) -> BTreeSet<String> {
        let mut totals: HashMap<&str, u64> = HashMap::new();
        for ((_, by), id) in &self.index {
            if let Some(ByKey::Value(value)) = by {
                let users = self.groups[id.0 as usize].steps[0].users;
                *totals.entry(value).or_default() += users;
            }
        }
        let mut values: Vec<_> = totals.into_iter().collect();
        let top = funnel.top.unwrap_or(DEFAULT_TOP);
        values.sort_unstable_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
        values.truncate(top);
        values
            .into_iter()
            .map(|(value, _)| value.to_owned())
            .collect()
    }

    /// The rows, ordered by bucket and value; for one group, also where nobody entered.
    pub fn finish(mut self, funnel: &Funnel) -> Vec<FunnelRow> {
        if funnel.by.is_none() && funnel.bucket.is_none() {
            self.group(None, None);
        }
        let top = self.top_values(funnel);
        let mut groups: Vec<_> = self.groups.into_iter().map(Some).collect();
        let mut folded: BTreeMap<Key, Group> = BTreeMap::new();
        for ((bucket, by), id) in self.index {
            let Some(group) = groups[id.0 as usize].take() else {
                continue;
            };
            let by = by.map(|key| key.within(&top));
            match folded.entry((bucket, by)) {
                std::collections::btree_map::Entry::Vacant(new) => {
                    new.insert(group);
                }
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.get_mut().merge(group);
                }
            }
        }
        let groups = folded.into_iter();
        groups
            .flat_map(|(key, group)| rows(funnel, &key, group))
            .collect()
    }
}

impl ByKey {
    /// This, or [`ByKey::Other`] for a value that is not among `top`.
    pub fn within(self, top: &BTreeSet<String>) -> Self {
        match self {
            Self::Value(value) if !top.contains(&value) => Self::Other,
            other => other,
        }
    }
}

impl Group {
    fn merge(&mut self, other: Self) {
        self.open |= other.open;
        for (step, mut more) in self.steps.iter_mut().zip(other.steps) {
            step.users += more.users;
            step.micros.append(&mut more.micros);
        }
    }
}

impl StepTally {
    fn push(&mut self, micros: i64, keep: bool) {
        self.users += 1;
        // Of step 1 there are many, all of them 0.
        if keep && micros != 0 {
            self.micros.push(micros);
        }
    }

    /// The value of a rank from 0, zeros first: no time is negative.
    fn nth(&mut self, rank: u64) -> i64 {
        let zeros = self.users - self.micros.len() as u64;
        match rank.checked_sub(zeros) {
            Some(rank) => *self.micros.select_nth_unstable(rank as usize).1,
            None => 0,
        }
    }

    fn median_seconds(&mut self) -> Option<f64> {
        let last = self.users.checked_sub(1)?;
        let (low, high) = (self.nth(last / 2), self.nth(self.users / 2));
        Some((i128::from(low) + i128::from(high)) as f64 / 2e6)
    }

    fn mean_seconds(&self) -> Option<f64> {
        let sum: i128 = self.micros.iter().map(|&micros| i128::from(micros)).sum();
        (self.users > 0).then(|| sum as f64 / self.users as f64 / 1e6)
    }

    /// Nearest rank: the least value that at least 90 % of the values do not exceed.
    fn p90_seconds(&mut self) -> Option<f64> {
        let rank = (self.users * 9).div_ceil(10).checked_sub(1)?;
        Some(self.nth(rank) as f64 / 1e6)
    }
}

fn rows(funnel: &Funnel, key: &Key, group: Group) -> Vec<FunnelRow> {
    let rate = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let (start, times) = (group.steps[0].users, funnel.times);
    let mut previous = None;
    let mut rows = Vec::with_capacity(group.steps.len());
    for (index, mut step) in group.steps.into_iter().enumerate() {
        let users = step.users;
        rows.push(FunnelRow {
            bucket: key.0,
            by: key.1.clone(),
            step: index + 1,
            name: funnel.step_name(index),
            users,
            from_start: rate(users, start),
            from_previous: previous.and_then(|previous| rate(users, previous)),
            median_seconds: times.then(|| step.median_seconds()).flatten(),
            mean_seconds: times.then(|| step.mean_seconds()).flatten(),
            p90_seconds: times.then(|| step.p90_seconds()).flatten(),
            incomplete: funnel.within.map(|_| group.open),
        });
        if !funnel.steps[index].optional {
            previous = Some(users);
        }
    }
    rows
}

/// The histogram of times in microseconds, none negative: `bins` equal bins from 0 to the
/// longest; one where all are 0, none where there is none.
pub fn histogram(micros: &[i64], bins: usize) -> Vec<FunnelTimesRow> {
    let Some(&longest) = micros.iter().max() else {
        return Vec::new();
    };
    let bins = if longest == 0 { 1 } else { bins };
    let edge = |bin: usize| longest as f64 / 1e6 * bin as f64 / bins as f64;
    let mut users = vec![0; bins];
    for &time in micros {
        // Exact in integers, so that a time on an edge is in the bin that it begins.
        let bin = i128::from(time) * bins as i128 / i128::from(longest.max(1));
        users[(bin as usize).min(bins - 1)] += 1;
    }
    let rows = users.into_iter().enumerate();
    rows.map(|(bin, users)| FunnelTimesRow {
        low_seconds: edge(bin),
        high_seconds: edge(bin + 1),
        users,
    })
    .collect()
}
