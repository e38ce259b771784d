//! Sessions as columns, made as they are cut.

use crate::behaviour::{Notices, Sessions};
use crate::exec::control::Control;
use crate::exec::{Executor, QueryError};
use crate::kernel::Session;

/// Sessions, a column each; those that nobody reads stay empty, but for the users.
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
        // Once as they are, and as much again while columns grow or are brought into order.
        let mut whole = control.reservation();
        whole.grow(2 * parts.iter().map(Self::byte_len).sum::<usize>())?;
        parts.into_iter().for_each(|part| self.append(part));
        self.sort();
        for column in self.of_numbers() {
            column.shrink_to_fit();
        }
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
        let numbers = [&self.numbers, &self.started, &self.ended, &self.events];
        let numbers: usize = numbers.iter().map(|column| column.capacity()).sum();
        self.users.capacity() * size_of::<u32>() + numbers * size_of::<i64>()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_out_of_order_come_into_order() {
        let part = |users: &[u32]| SessionColumns {
            users: users.to_vec(),
            numbers: Vec::new(),
            started: users.iter().map(|&user| 10 * i64::from(user)).collect(),
            ended: Vec::new(),
            events: (0..users.len() as i64).collect(),
        };
        let mut columns = SessionColumns::default();
        for users in [&[7, 7, 9][..], &[], &[1, 1, 1, 8], &[2]] {
            columns.append(part(users));
        }
        columns.sort();
        assert_eq!(columns.users, [1, 1, 1, 2, 7, 7, 8, 9]);
        assert_eq!(columns.started, [10, 10, 10, 20, 70, 70, 80, 90]);
        assert_eq!(columns.events, [0, 1, 2, 0, 0, 1, 3, 2]);
        assert!(columns.numbers.is_empty() && columns.ended.is_empty());
    }
}
