//! Sessions and trails, event by event.

use super::{ModelEvent, ModelStore, Row};
use crate::behaviour::{
    Condition, Segment, SessionRow, Sessions, SessionsResult, Skipped, TimeSpec, Trail, TrailRow,
};
use crate::error::Invalid;

impl ModelStore {
    /// The sessions, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Sessions::validate`].
    pub fn sessions(&self, sessions: &Sessions, as_of: i64) -> Result<SessionsResult, Invalid> {
        sessions.validate()?;
        let mut result = SessionsResult::default();
        let gap = i128::from(sessions.longest_gap().micros);
        for user in self.users_of(sessions.users.as_ref(), as_of)? {
            let events = self.such(user, &sessions.events, &sessions.range, as_of);
            let mut open: Option<SessionRow> = None;
            for event in events {
                let next = open.as_ref().map_or(1, |session| session.session + 1);
                match &mut open {
                    Some(session) if i128::from(event.time) - i128::from(session.ended) <= gap => {
                        session.ended = event.time;
                        session.events += 1;
                    }
                    _ => {
                        result.rows.extend(open.replace(SessionRow {
                            user,
                            session: next,
                            started: event.time,
                            ended: event.time,
                            events: 1,
                        }));
                    }
                }
            }
            result.rows.extend(open);
        }
        Ok(result)
    }

    /// The trail of the user with this ordinal, whatever id the question names.
    ///
    /// # Errors
    /// As [`Trail::validate`].
    pub fn trail(&self, user: u32, trail: &Trail, as_of: i64) -> Result<Vec<TrailRow>, Invalid> {
        trail.validate()?;
        let range = trail.range.resolve(as_of);
        let mut rows = Vec::new();
        for event in self.history(user, as_of) {
            if range.contains(event.time) {
                rows.push(TrailRow {
                    time: event.time,
                    event: event.event.clone(),
                    properties: event.properties.clone(),
                });
            }
        }
        Ok(rows)
    }

    /// The users who are asked about, in order.
    pub(super) fn users_of(
        &self,
        users: Option<&Segment>,
        as_of: i64,
    ) -> Result<Vec<u32>, Invalid> {
        let users = match users {
            Some(segment) => self.segment(segment, as_of)?,
            None => self.known_users(as_of),
        };
        Ok(users.into_iter().collect())
    }

    /// One user's events in the range that satisfy the condition, in total order.
    pub(super) fn such(
        &self,
        user: u32,
        condition: &Condition,
        range: &TimeSpec,
        as_of: i64,
    ) -> Vec<&ModelEvent> {
        let traits = self.traits(user, as_of);
        let range = range.resolve(as_of);
        let mut events = self.history(user, as_of);
        events.retain(|event| {
            let row = Row {
                event,
                traits: &traits,
            };
            range.contains(event.time) && condition.evaluate(&row, &mut Skipped::default()).holds()
        });
        events
    }
}
