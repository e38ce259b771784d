//! Sessions as columns, made as they are cut.

use crate::behaviour::{Notices, Sessions};
use crate::exec::control::Control;
use crate::exec::{Executor, QueryError};
use crate::kernel::Session;

/// Sessions, a column each; those that nobody reads stay empty.
#[derive(Debug, Default)]
pub(super) struct SessionColumns {
    pub(super) users: Vec<u32>,
    pub(super) numbers: Vec<i64>,
    pub(super) started: Vec<i64>,
    pub(super) ended: Vec<i64>,
    pub(super) events: Vec<i64>,
}

impl SessionColumns {
    /// Takes in the sessions of the executor's users, ordered by user; of the columns (of the numbers that they have
    /// in SQL) those `wanted`.
    pub(super) fn fill(
        &mut self,
        sessions: &Sessions,
        wanted: &[usize],
        executor: &Executor,
    ) -> Result<Notices, QueryError> {
        sessions.validate()?;
        let control = Control::start(executor.options());
        let read = |column| wanted.contains(&column);
        let (numbers, started, ended, events) = (read(1), read(2), read(3), read(4));
        let push = |rows: &mut Self, user, number, session: Session| {
            rows.users.push(user);
            if numbers {
                rows.numbers.push(number as i64);
            }
            if started {
                rows.started.push(session.started);
            }
            if ended {
                rows.ended.push(session.ended);
            }
            if events {
                rows.events.push(session.events as i64);
            }
        };
        let (parts, notices) =
            executor.collect_sessions(sessions, &control, push, Self::byte_len)?;
        parts.into_iter().for_each(|part| self.append(part));
        self.sort();
        Ok(notices)
    }

    fn of_numbers(&mut self) -> [&mut Vec<i64>; 4] {
        [
            &mut self.numbers,
            &mut self.started,
            &mut self.ended,
            &mut self.events,
        ]
    }

    fn byte_len(&self) -> usize {
        let Self {
            users,
            numbers,
            started,
            ended,
            events,
        } = self;
        let numbers = [numbers, started, ended, events].map(Vec::capacity);
        users.capacity() * size_of::<u32>() + numbers.iter().sum::<usize>() * size_of::<i64>()
    }

    fn append(&mut self, mut more: Self) {
        if self.users.is_empty() {
            *self = more;
            return;
        }
        self.users.append(&mut more.users);
        for (column, more) in self.of_numbers().into_iter().zip(more.of_numbers()) {
            column.append(more);
        }
    }

    /// Orders them by user. A user's sessions lie together and in order, and mostly so do all.
    fn sort(&mut self) {
        if self.users.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.users.len()).collect();
        order.sort_by_key(|&row| self.users[row]);
        self.users = order.iter().map(|&row| self.users[row]).collect();
        for column in self.of_numbers() {
            if !column.is_empty() {
                *column = order.iter().map(|&row| column[row]).collect();
            }
        }
    }
}
