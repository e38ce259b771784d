//! Paths: from each anchor outward, value by value.

use std::ops::Range;

use hashbrown::HashMap;

use crate::behaviour::{
    Condition, Notices, PathDirection, PathPer, PathRow, Paths, PathsResult, any,
};

use super::Executor;
use super::control::{Control, QueryError};
use super::each_user::{Fold, Reads, UserHistory};
use super::intern::Interner;
use super::memory::Reservation;
use super::sessions::cut;

/// The condition that anchors satisfy, among those that are read; the other is any event.
const ANCHOR: usize = 1;
/// The number of a value that has not been read yet, and that of one that is missing.
const UNREAD: u32 = u32::MAX;
const MISSING: u32 = u32::MAX - 1;

impl Executor {
    /// The paths that users take from an anchor event, the most frequent first.
    ///
    /// ```
    /// use pugmark_engine::{BatchBuilder, Store};
    /// use pugmark_query::{Executor, Paths};
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).open()?;
    /// let mut batch = BatchBuilder::new();
    /// for (user, time, name) in [("ann", 1, "view"), ("ann", 2, "cart"), ("bob", 3, "view")] {
    ///     batch.event(user, time, name);
    /// }
    /// store.append(batch.finish()?)?;
    /// let paths = Executor::new(store.snapshot()?).paths(&Paths::new("view", 2))?;
    /// assert_eq!(paths.rows[1].path, [Some("view".to_owned()), Some("cart".to_owned())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Every event of the wanted users in the range is read. Holds each different path once a
    /// thread; the memory budget says how many that can be.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn paths(&self, paths: &Paths) -> Result<PathsResult, QueryError> {
        paths.validate()?;
        let control = Control::start(self.options());
        let (parts, notices) = self.walks(paths, &control)?;
        let rows = rows(parts, &control)?;
        Ok(PathsResult { rows, notices })
    }

    /// What each thread finds; its threads have different users.
    pub(super) fn walks<'c>(
        &self,
        paths: &Paths,
        control: &'c Control,
    ) -> Result<(Vec<Tally<'c>>, Notices), QueryError> {
        let every: Condition = any();
        let reads = Reads {
            conditions: vec![&every, &paths.anchor],
            range: paths.range.resolve(self.as_of()),
            only_with: None,
            users: paths.users.as_ref(),
            operands: vec![&paths.value],
        };
        let walks = Walks { paths, control };
        self.each_user_under(control, &reads, &walks)
    }
}

/// The rows of all that was found.
pub(super) fn rows(parts: Vec<Tally<'_>>, control: &Control) -> Result<Vec<PathRow>, QueryError> {
    let mut whole = Tally::new(control);
    for part in parts {
        control.check()?;
        whole.merge(part)?;
    }
    whole.into_rows()
}

/// How often a path was taken.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    users: u64,
    occurrences: u64,
    /// The last user who took it: users come one after the other.
    last: Option<u32>,
}

/// Paths by the numbers of their values.
pub(super) struct Tally<'c> {
    values: Interner,
    paths: HashMap<Box<[u32]>, Taken>,
    path_bytes: usize,
    /// Numbers of the values of the present user's events.
    read: Vec<u32>,
    /// The path on its way.
    path: Vec<u32>,
    memory: Reservation<'c>,
}

impl<'c> Tally<'c> {
    fn new(control: &'c Control) -> Self {
        Self {
            values: Interner::default(),
            paths: HashMap::new(),
            path_bytes: 0,
            read: Vec::new(),
            path: Vec::new(),
            memory: control.reservation(),
        }
    }

    /// Counts the path at hand for a user.
    fn take(&mut self, user: u32) -> Result<(), QueryError> {
        if let Some(taken) = self.paths.get_mut(self.path.as_slice()) {
            taken.occurrences += 1;
            taken.users += u64::from(taken.last != Some(user));
            taken.last = Some(user);
            return Ok(());
        }
        let taken = Taken {
            users: 1,
            occurrences: 1,
            last: Some(user),
        };
        self.insert(self.path.as_slice().into(), taken)
    }

    fn insert(&mut self, path: Box<[u32]>, taken: Taken) -> Result<(), QueryError> {
        self.path_bytes += size_of_val(&*path);
        self.paths.insert(path, taken);
        self.memory.at_least(self.byte_len())
    }

    /// Adds the paths of other users.
    fn merge(&mut self, other: Self) -> Result<(), QueryError> {
        let numbers: Vec<u32> = {
            let texts = other.values.into_texts();
            let number = |text: &String| self.values.number(text);
            texts.iter().map(number).collect()
        };
        for (mut path, taken) in other.paths {
            for value in &mut path {
                if *value != MISSING {
                    *value = numbers[*value as usize];
                }
            }
            match self.paths.get_mut(&path) {
                Some(known) => {
                    known.users += taken.users;
                    known.occurrences += taken.occurrences;
                }
                None => self.insert(path, taken)?,
            }
        }
        Ok(())
    }

    /// The rows; their texts are reserved before they are made.
    fn into_rows(mut self) -> Result<Vec<PathRow>, QueryError> {
        let texts = self.values.into_texts();
        let text = |&value: &u32| texts.get(value as usize).cloned();
        let mut rows = Vec::with_capacity(self.paths.len());
        for (path, taken) in self.paths {
            let path: Vec<_> = path.iter().map(text).collect();
            let texts = path.iter().flatten().map(String::len).sum::<usize>();
            let bytes = size_of::<PathRow>() + path.len() * size_of::<Option<String>>() + texts;
            self.memory.grow(bytes)?;
            rows.push(PathRow {
                path,
                users: taken.users,
                occurrences: taken.occurrences,
            });
        }
        rows.sort_unstable_by(|left, right| {
            let fewer = left.occurrences.cmp(&right.occurrences);
            fewer.reverse().then_with(|| left.path.cmp(&right.path))
        });
        Ok(rows)
    }

    /// About how many bytes this holds.
    fn byte_len(&self) -> usize {
        let entry = 2 * (size_of::<(Box<[u32]>, Taken)>() + 1);
        self.values.byte_len() + self.path_bytes + self.paths.capacity() * entry
    }
}

/// Walks the paths of one user after the other.
struct Walks<'c, 'q> {
    paths: &'q Paths,
    control: &'c Control,
}

impl<'c> Fold for Walks<'c, '_> {
    type Sum = Tally<'c>;

    fn begin(&self) -> Tally<'c> {
        Tally::new(self.control)
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut Tally<'c>) -> Result<(), QueryError> {
        sum.read.clear();
        sum.read.resize(user.len(), UNREAD);
        if self.paths.per == PathPer::Session {
            for session in cut(user.times, self.paths.longest_gap()) {
                self.walk(user, session, sum)?;
            }
            return Ok(());
        }
        self.walk(user, 0..user.len(), sum)
    }

    fn byte_len(&self, _: &Tally<'c>) -> usize {
        // Reserved as paths come.
        0
    }
}

impl Walks<'_, '_> {
    /// Walks from the anchors among `events`, without leaving them.
    fn walk(
        &self,
        user: &UserHistory<'_>,
        events: Range<usize>,
        sum: &mut Tally<'_>,
    ) -> Result<(), QueryError> {
        let anchors = events
            .clone()
            .filter(|&event| user.satisfies(event, ANCHOR));
        if self.paths.per != PathPer::Event {
            return match { anchors }.next() {
                Some(anchor) => self.path(user, anchor, &events, sum),
                None => Ok(()),
            };
        }
        let mut before: Option<usize> = None;
        for anchor in anchors {
            let again = match before.replace(anchor) {
                Some(before) if self.paths.collapse => {
                    self.is_repeat(user, before..anchor + 1, sum)?
                }
                _ => false,
            };
            if !again {
                self.path(user, anchor, &events, sum)?;
            }
        }
        Ok(())
    }

    /// True where all of these events have one value, so that they count as one event.
    fn is_repeat(
        &self,
        user: &UserHistory<'_>,
        events: Range<usize>,
        sum: &mut Tally<'_>,
    ) -> Result<bool, QueryError> {
        let first = self.value(user, events.start, sum)?;
        for event in events {
            if self.value(user, event, sum)? != first {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Walks from one anchor.
    fn path(
        &self,
        user: &UserHistory<'_>,
        anchor: usize,
        events: &Range<usize>,
        sum: &mut Tally<'_>,
    ) -> Result<(), QueryError> {
        sum.path.clear();
        let mut next = Some(anchor);
        while let Some(event) = next {
            let value = self.value(user, event, sum)?;
            if !(self.paths.collapse && sum.path.last() == Some(&value)) {
                sum.path.push(value);
            }
            if sum.path.len() > self.paths.steps {
                break;
            }
            next = match self.paths.direction {
                PathDirection::After => Some(event + 1),
                PathDirection::Before => event.checked_sub(1),
            };
            next = next.filter(|event| events.contains(event));
        }
        sum.take(user.ordinal)
    }

    /// The number of an event's value.
    fn value(
        &self,
        user: &UserHistory<'_>,
        event: usize,
        sum: &mut Tally<'_>,
    ) -> Result<u32, QueryError> {
        let known = sum.read[event];
        if known != UNREAD {
            return Ok(known);
        }
        let number = user.text_number(0, event, &mut sum.values)?;
        let number = number.unwrap_or(MISSING);
        sum.read[event] = number;
        sum.memory.at_least(sum.byte_len())?;
        Ok(number)
    }
}
