//! Sessions: every user's events cut at their gaps.

use std::ops::Range;

use crate::behaviour::{Notices, SessionRow, Sessions, SessionsResult, Span};

use super::Executor;
use super::control::{Control, QueryError};
use super::each_user::Reads;
use super::memory::Reservation;
use super::user_times::Own;
use crate::kernel::{Session, SessionCutter};

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
        let (mut parts, notices) = self.collect_sessions(
            sessions,
            &control,
            |rows: &mut Vec<SessionRow>, user, number, session| {
                rows.push(SessionRow {
                    user,
                    session: number,
                    started: session.started,
                    ended: session.ended,
                    events: session.events,
                });
            },
            |rows| rows.capacity() * size_of::<SessionRow>(),
        )?;
        let mut whole = control.reservation();
        let count: usize = parts.iter().map(Vec::len).sum();
        // Once in order, and half as much while they are brought into it.
        whole.grow(count * size_of::<SessionRow>() * 3 / 2)?;
        let mut rows = parts.pop().unwrap_or_default();
        // Each part is given up as soon as it is copied.
        parts.into_iter().for_each(|part| rows.extend(part));
        // A user's sessions lie together and in order, and so do the users of a morsel: what is in order
        // already costs this way of sorting next to nothing.
        rows.sort_by_key(|row: &SessionRow| row.user);
        Ok(SessionsResult { rows, notices })
    }

    /// Calls `push` with each session, its user and its number, on any thread: a user's sessions come
    /// together and in order. Gives what the threads hold, which takes `byte_len` bytes.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(crate) fn collect_sessions<S: Default + Send>(
        &self,
        sessions: &Sessions,
        control: &Control,
        push: impl Fn(&mut S, u32, u64, Session) + Sync,
        byte_len: impl Fn(&S) -> usize + Sync,
    ) -> Result<(Vec<S>, Notices), QueryError> {
        let span = self.span_of(sessions);
        let begin = || (S::default(), Cutting::new(sessions, span, control));
        let (states, notices) = self.times_of_users(
            control,
            &self.reads(sessions),
            begin,
            |user, times, (held, cutting): &mut (S, Cutting<'_>)| {
                let mut number = 0;
                cutting.cut(times, |session| {
                    number += 1;
                    push(held, user, number, session);
                });
                cutting.reserve(byte_len(held))
            },
        )?;
        Ok((states.into_iter().map(|(held, _)| held).collect(), notices))
    }

    /// How many sessions there are: the rows of [`Executor::sessions`], none of which is made.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn session_count(&self, sessions: &Sessions) -> Result<u64, QueryError> {
        Ok(self.counted_sessions(sessions)?.0)
    }

    /// How many there are, and what could not be compared.
    pub(crate) fn counted_sessions(
        &self,
        sessions: &Sessions,
    ) -> Result<(u64, Notices), QueryError> {
        sessions.validate()?;
        let control = Control::start(self.options());
        let span = self.span_of(sessions);
        let begin = || (0, Cutting::new(sessions, span, &control));
        let (counts, notices) = self.times_of_users(
            &control,
            &self.reads(sessions),
            begin,
            |_, times, (count, cutting): &mut (u64, Cutting<'_>)| {
                cutting.cut(times, |_| *count += 1);
                cutting.reserve(0)
            },
        )?;
        Ok((counts.into_iter().map(|(count, _)| count).sum(), notices))
    }

    /// No event that may make sessions lies outside.
    fn span_of(&self, sessions: &Sessions) -> (i64, i64) {
        let range = sessions.range.resolve(self.as_of());
        let segments = self.snapshot().event_segments().iter();
        let spans = segments.map(|segment| (segment.meta().min_time, segment.meta().max_time));
        let (first, last) = spans.fold((i64::MAX, i64::MIN), |(first, last), span| {
            (first.min(span.0), last.max(span.1))
        });
        (first.max(range.first), last.min(range.last))
    }

    fn reads<'q>(&self, sessions: &'q Sessions) -> Reads<'q> {
        Reads {
            conditions: vec![&sessions.events],
            range: sessions.range.resolve(self.as_of()),
            only_with: None,
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

/// How a thread cuts sessions.
struct Cutting<'c> {
    cutter: SessionCutter,
    /// Of the cutter, and of rows.
    memory: Reservation<'c>,
}

impl<'c> Cutting<'c> {
    fn new(sessions: &Sessions, span: (i64, i64), control: &'c Control) -> Self {
        Self {
            cutter: SessionCutter::new(sessions.longest_gap().micros, span),
            memory: control.reservation(),
        }
    }

    #[inline]
    fn cut(&mut self, times: Own<'_>, each: impl FnMut(Session)) {
        match times {
            Own::Ordered(times) => self.cutter.cut_ordered(times, each),
            Own::Unordered(times) => {
                self.cutter.add(times);
                self.cutter.finish(each);
            }
        }
    }

    /// Reserves what the cutter holds, and `more`.
    #[inline]
    fn reserve(&mut self, more: usize) -> Result<(), QueryError> {
        self.memory.at_least(self.cutter.byte_len() + more)
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
