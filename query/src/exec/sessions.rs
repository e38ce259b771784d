//! Sessions: every user's events cut at their gaps.

use std::ops::Range;

use crate::behaviour::{SessionRow, Sessions, SessionsResult, Span};

use super::Executor;
use super::control::{Control, QueryError};
use super::each_user::{Fold, Reads, UserHistory};
use super::memory::Reservation;

impl Executor {
    /// The sessions of users, ordered by user and number.
    ///
    /// Holds all rows at once; the memory budget says how many that can be.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn sessions(&self, sessions: &Sessions) -> Result<SessionsResult, QueryError> {
        sessions.validate()?;
        let control = Control::start(self.options());
        let rows = Rows {
            gap: sessions.longest_gap(),
            control: &control,
        };
        let (parts, notices) = self.each_user_under(&control, &self.reads(sessions), &rows)?;
        let mut whole = control.reservation();
        let count: usize = parts.iter().map(|(rows, _)| rows.len()).sum();
        // Once in order, and half as much while they are brought into it.
        whole.grow(count * size_of::<SessionRow>() * 3 / 2)?;
        let mut rows = Vec::with_capacity(count);
        // Each part is given up as soon as it is copied.
        parts.into_iter().for_each(|(part, _)| rows.extend(part));
        // A user's sessions lie together and in order, and so do the users of a morsel: what is in order
        // already costs this way of sorting next to nothing.
        rows.sort_by_key(|row: &SessionRow| row.user);
        Ok(SessionsResult { rows, notices })
    }

    /// How many sessions there are: the rows of [`Executor::sessions`], none of which is made.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn session_count(&self, sessions: &Sessions) -> Result<u64, QueryError> {
        sessions.validate()?;
        let count = Count {
            gap: sessions.longest_gap(),
        };
        let (counts, _) = self.each_user(&self.reads(sessions), &count)?;
        Ok(counts.into_iter().sum())
    }

    fn reads<'q>(&self, sessions: &'q Sessions) -> Reads<'q> {
        Reads {
            conditions: vec![&sessions.events],
            range: sessions.range.resolve(self.as_of()),
            users: sessions.users.as_ref(),
            operands: Vec::new(),
        }
    }
}

/// Where the sessions of events at these times lie: the longest runs of which no neighbours are
/// more than `gap` apart.
pub(super) fn cut(times: &[i64], gap: Span) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    times
        .chunk_by(move |&earlier, &later| {
            // Times are in order, so that their difference is not negative; as a number without a
            // sign it cannot overflow.
            later.wrapping_sub(earlier) as u64 <= gap.micros as u64
        })
        .map(move |session| {
            let from = start;
            start += session.len();
            from..start
        })
}

/// Makes a row of each session.
struct Rows<'c> {
    gap: Span,
    control: &'c Control,
}

impl<'c> Fold for Rows<'c> {
    type Sum = (Vec<SessionRow>, Reservation<'c>);

    const ONLY_TIMES: bool = true;

    fn begin(&self) -> Self::Sum {
        (Vec::new(), self.control.reservation())
    }

    fn user(
        &self,
        user: &UserHistory<'_>,
        (rows, memory): &mut Self::Sum,
    ) -> Result<(), QueryError> {
        let sessions = (1..).zip(cut(user.times, self.gap));
        rows.extend(sessions.map(|(session, events)| SessionRow {
            user: user.ordinal,
            session,
            started: user.times[events.start],
            ended: user.times[events.end - 1],
            events: events.len() as u64,
        }));
        memory.at_least(rows.capacity() * size_of::<SessionRow>())
    }

    fn byte_len(&self, _: &Self::Sum) -> usize {
        // Reserved as rows come.
        0
    }
}

/// Counts sessions.
struct Count {
    gap: Span,
}

impl Fold for Count {
    type Sum = u64;

    const ONLY_TIMES: bool = true;

    fn begin(&self) -> u64 {
        0
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut u64) -> Result<(), QueryError> {
        *sum += cut(user.times, self.gap).count() as u64;
        Ok(())
    }

    fn byte_len(&self, _: &u64) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::micros;

    #[test]
    fn a_gap_is_inclusive_and_spans_all_times() {
        let sessions = |times: &[i64], gap| cut(times, micros(gap)).collect::<Vec<_>>();
        assert!(sessions(&[], 5).is_empty());
        assert_eq!(sessions(&[0, 5, 10, 16, 16], 5), [0..3, 3..5]);
        assert_eq!(sessions(&[3, 3, 4], 0), [0..2, 2..3]);
        assert_eq!(sessions(&[i64::MIN, i64::MAX], i64::MAX), [0..1, 1..2]);
    }
}
