//! Where the rows of each event name lie in the inputs of a merge.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use hashbrown::HashMap;

use super::super::run::NameRun;
use super::super::segment::Segment;
use super::super::starts::UserStarts;
use super::super::ties::TieRanks;
use crate::bitmap::{CONTAINER_BITS, Words, join, split};
use crate::error::Corruption;

/// The runs of all inputs, and the rows of every name in them.
pub(super) struct Streams<'a> {
    pub(super) sources: Vec<Source<'a>>,
    /// The names of all inputs, sorted.
    pub(super) names: Vec<Name>,
    streams: Vec<Stream>,
    /// The user of each row of the overflow runs, by source. Thousands of names ask for a few
    /// rows each, so the run's users are unfolded once.
    row_users: HashMap<u32, Vec<u32>>,
}

/// A run of an input.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// The place of the input in arrival order.
    pub(super) input: u32,
    pub(super) run: NameRun<'a>,
}

/// An event name and its streams, in the order of the inputs.
pub(super) struct Name {
    pub(super) text: Box<str>,
    streams: Vec<u32>,
}

/// The rows of one name in one input.
struct Stream {
    source: u32,
    /// The rows of the name where the run is shared: an overflow run.
    list: Option<Vec<u32>>,
}

/// A stream's users in one container, with their rows and times.
#[derive(Default)]
pub(super) struct ContainerRows<'a> {
    pub(super) lows: Vec<u16>,
    /// First row of each user and the end of the last one's, counted from the first row here.
    starts: Vec<u32>,
    /// The rows' numbers in the source: the first, or all of them.
    first: u32,
    list: Option<Vec<u32>>,
    times: Vec<i64>,
    /// The ranks that the input gave, by row of the source.
    ties: TieRanks<'a>,
}

impl ContainerRows<'_> {
    /// Places of the rows of the user at `place`.
    pub(super) fn range(&self, place: usize) -> Range<usize> {
        self.starts[place] as usize..self.starts[place + 1] as usize
    }

    pub(super) fn times_of(&self, place: usize) -> &[i64] {
        &self.times[self.range(place)]
    }

    /// The numbers in the source of the rows of the user at `place`.
    pub(super) fn rows_of(&self, place: usize) -> impl Iterator<Item = u32> {
        let range = self.range(place);
        let (first, list) = (self.first, self.list.as_deref());
        range.map(move |at| list.map_or(first + at as u32, |list| list[at]))
    }

    /// Takes those of the rows `list` that lie in container `key`.
    fn load_listed(&mut self, key: u16, list: &[u32], users: &[u32]) {
        let key_of = |row: &u32| split(users[*row as usize]).0;
        let from = list.partition_point(|row| key_of(row) < key);
        let rest = &list[from..];
        let rows = &rest[..rest.partition_point(|row| key_of(row) == key)];
        self.first = 0;
        self.lows.clear();
        self.starts.clear();
        for (at, &row) in (0..).zip(rows) {
            let low = split(users[row as usize]).1;
            if self.lows.last() != Some(&low) {
                self.lows.push(low);
                self.starts.push(at);
            }
        }
        self.starts.push(rows.len() as u32);
        self.list = Some(rows.to_vec());
    }

    /// Number of rows.
    pub(super) fn rows_len(&self) -> usize {
        self.starts.last().map_or(0, |&end| end as usize)
    }

    /// The user of a row of the source, where the run belongs to one name.
    pub(super) fn user_of(&self, row: u32) -> Option<u16> {
        let at = row.checked_sub(self.first)?;
        let after = self.starts.partition_point(|&start| start <= at);
        self.lows.get(after.checked_sub(1)?).copied()
    }

    /// The rank that the input gave a row of the source; 0 for none.
    pub(super) fn rank(&self, row: u32) -> u32 {
        self.ties.rank(row)
    }
}

impl<'a> Streams<'a> {
    pub(super) fn open(inputs: &'a [Arc<Segment>]) -> Result<Self, Corruption> {
        let mut row_users = HashMap::new();
        let mut sources = Vec::new();
        let mut streams = Vec::new();
        let mut names: BTreeMap<Box<str>, Vec<u32>> = BTreeMap::new();
        for (input, segment) in inputs.iter().enumerate() {
            for run in segment.all_runs() {
                let source = sources.len() as u32;
                let input = input as u32;
                sources.push(Source { input, run });
                let lists = if run.is_overflow() {
                    row_users.insert(source, users_of_rows(run)?);
                    let lists = overflow_lists(run)?.into_iter();
                    lists.map(|(name, rows)| (name, Some(rows))).collect()
                } else {
                    vec![(run.name().into(), None)]
                };
                for (name, list) in lists {
                    names.entry(name).or_default().push(streams.len() as u32);
                    streams.push(Stream { source, list });
                }
            }
        }
        let names = names
            .into_iter()
            .map(|(text, streams)| Name { text, streams })
            .collect();
        Ok(Self {
            sources,
            names,
            streams,
            row_users,
        })
    }

    /// The runs of one segment as they are, each as if it were of one name.
    pub(super) fn of_runs(segment: &'a Segment) -> Self {
        let runs = segment.all_runs();
        let number = |source| Stream { source, list: None };
        let name = |source| Name {
            text: "".into(),
            streams: vec![source],
        };
        Self {
            streams: (0..runs.len() as u32).map(number).collect(),
            names: (0..runs.len() as u32).map(name).collect(),
            sources: runs.map(|run| Source { input: 0, run }).collect(),
            row_users: HashMap::new(),
        }
    }

    /// Number of streams.
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// The streams of a name, in the order of the inputs.
    pub(super) fn of_name(&self, name: u32) -> impl Iterator<Item = u32> + Clone {
        self.names[name as usize].streams.iter().copied()
    }

    pub(super) fn source_number(&self, stream: u32) -> u32 {
        self.streams[stream as usize].source
    }

    pub(super) fn source(&self, stream: u32) -> Source<'a> {
        self.sources[self.source_number(stream) as usize]
    }

    /// True where the stream shares its run with others.
    pub(super) fn is_listed(&self, stream: u32) -> bool {
        self.streams[stream as usize].list.is_some()
    }

    /// The containers within `keys` where the stream has rows.
    pub(super) fn keys(
        &self,
        stream: u32,
        keys: &RangeInclusive<u16>,
    ) -> Result<Vec<u16>, Corruption> {
        let mut found: Vec<u16> = match self.listed(stream) {
            Some((list, users)) => {
                let users = list.iter().map(|&row| users[row as usize]);
                users.map(|user| split(user).0).collect()
            }
            None => {
                let users = self.source(stream).run.users()?;
                users.keys().map(|(key, _)| key).collect()
            }
        };
        found.dedup();
        found.retain(|key| keys.contains(key));
        Ok(found)
    }

    /// The rows of a stream of an overflow run, and the user of each row of the run.
    fn listed(&self, stream: u32) -> Option<(&[u32], &[u32])> {
        let list = self.streams[stream as usize].list.as_deref()?;
        let users = self.row_users.get(&self.source_number(stream))?;
        Some((list, users))
    }

    /// The rows of a source that lie in the containers `keys`.
    pub(super) fn rows_within(
        &self,
        source: u32,
        keys: &RangeInclusive<u16>,
    ) -> Result<Range<u32>, Corruption> {
        let run = self.sources[source as usize].run;
        let starts = &run.index()?.containers;
        let users = run.users()?;
        let first = users
            .keys()
            .take_while(|(key, _)| key < keys.start())
            .count();
        let end = users
            .keys()
            .take_while(|(key, _)| key <= keys.end())
            .count();
        let row = |at: usize| starts.get(at).map_or(0, |start| start.row);
        Ok(row(first)..row(end))
    }

    /// The stream's users in a container, without times and ranks.
    pub(super) fn load_users(
        &self,
        stream: u32,
        key: u16,
        rows: &mut ContainerRows<'a>,
    ) -> Result<(), Corruption> {
        rows.times.clear();
        rows.ties = TieRanks::default();
        if let Some((list, users)) = self.listed(stream) {
            rows.load_listed(key, list, users);
            return Ok(());
        }
        let mut found = UserStarts {
            users: Words::new(),
            starts: std::mem::take(&mut rows.starts),
        };
        let run = self.source(stream).run;
        run.user_starts(key, 0..CONTAINER_BITS as u32, &mut found)?;
        rows.first = found.starts.first().copied().unwrap_or_default();
        rows.list = None;
        for start in &mut found.starts {
            *start -= rows.first;
        }
        rows.lows.clear();
        found.users.for_each(|low| rows.lows.push(low));
        rows.starts = found.starts;
        Ok(())
    }

    /// The stream's users, times and ranks in a container.
    pub(super) fn load(
        &self,
        stream: u32,
        key: u16,
        rows: &mut ContainerRows<'a>,
    ) -> Result<(), Corruption> {
        self.load_users(stream, key, rows)?;
        if rows.lows.is_empty() {
            return Ok(());
        }
        let run = self.source(stream).run;
        let range = run.container_rows(key)?;
        let times = run.times(range.clone())?;
        match &rows.list {
            Some(list) => {
                let places = list.iter().map(|row| (row - range.start) as usize);
                rows.times.extend(places.map(|place| times.get(place)));
            }
            None => times.append_to(&mut rows.times),
        }
        rows.ties = run.ties(range)?;
        Ok(())
    }
}

/// The user of each row of a run.
fn users_of_rows(run: NameRun<'_>) -> Result<Vec<u32>, Corruption> {
    let mut users = Vec::with_capacity(run.rows() as usize);
    let mut found = UserStarts::default();
    for (key, _) in run.users()?.keys() {
        run.user_starts(key, 0..CONTAINER_BITS as u32, &mut found)?;
        for (low, pair) in found.users.iter().zip(found.starts.windows(2)) {
            users.resize(pair[1] as usize, join(key, low));
        }
    }
    Ok(users)
}

/// The rows of each name in an overflow run.
fn overflow_lists(run: NameRun<'_>) -> Result<BTreeMap<Box<str>, Vec<u32>>, Corruption> {
    let names = run.overflow_names(0..run.rows())?;
    let mut lists: Vec<Vec<u32>> = vec![Vec::new(); names.values.len()];
    for (row, &code) in names.codes.iter().enumerate() {
        lists[code as usize].push(row as u32);
    }
    let mut of_name: BTreeMap<Box<str>, Vec<u32>> = BTreeMap::new();
    for (text, list) in names.values.iter().zip(lists) {
        if !list.is_empty() {
            of_name.entry(text.into()).or_default().extend(list);
        }
    }
    // Equal texts under several codes leave a name's rows out of order.
    of_name.values_mut().for_each(|list| list.sort_unstable());
    Ok(of_name)
}
