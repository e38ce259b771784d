//! RFM: each user's purchases added up, then users ranked against each other.

use pugmark_engine::time::MICROS_PER_DAY;

use crate::behaviour::{Rfm, RfmResult, RfmRow};

use super::Executor;
use super::control::QueryError;
use super::each_user::{Fold, Reads, UserHistory};

impl Executor {
    /// The users who purchased, with how recently, how often and for how much.
    ///
    /// Holds all rows at once; the memory budget says how many that can be.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn rfm(&self, rfm: &Rfm) -> Result<RfmResult, QueryError> {
        rfm.validate()?;
        let reads = Reads {
            conditions: vec![&rfm.purchase],
            range: rfm.range.resolve(self.as_of()),
            only_with: None,
            users: rfm.users.as_ref(),
            operands: vec![&rfm.value],
        };
        let purchases = Purchases {
            as_of: self.as_of(),
        };
        let (sums, notices) = self.each_user(&reads, &purchases)?;
        let mut rows: Vec<RfmRow> = sums.into_iter().flatten().collect();
        rows.sort_unstable_by_key(|row| row.user);
        rank(&mut rows);
        Ok(RfmResult { rows, notices })
    }
}

/// Adds up purchases; quintiles are left at 0.
struct Purchases {
    as_of: i64,
}

impl Fold for Purchases {
    type Sum = Vec<RfmRow>;

    fn begin(&self) -> Vec<RfmRow> {
        Vec::new()
    }

    fn user(&self, user: &UserHistory<'_>, rows: &mut Vec<RfmRow>) -> Result<(), QueryError> {
        let last = user.times[user.len() - 1];
        let mut monetary = 0.0;
        for event in 0..user.len() {
            monetary += user.number(0, event)?.unwrap_or(0.0);
        }
        rows.push(RfmRow {
            user: user.ordinal,
            // No purchase is later than the present, so the difference is not negative.
            recency_days: (self.as_of.abs_diff(last) / MICROS_PER_DAY as u64) as i64,
            frequency: user.len() as u64,
            monetary,
            r: 0,
            f: 0,
            m: 0,
        });
        Ok(())
    }

    /// Twice the rows: ranking needs as many numbers again.
    fn byte_len(&self, rows: &Vec<RfmRow>) -> usize {
        2 * rows.capacity() * size_of::<RfmRow>()
    }
}

/// Fills in the quintiles.
fn rank(rows: &mut [RfmRow]) {
    let mut places: Vec<usize> = (0..rows.len()).collect();
    by_quintile(
        rows,
        &mut places,
        |one, other| other.recency_days.cmp(&one.recency_days),
        |row, quintile| row.r = quintile,
    );
    by_quintile(
        rows,
        &mut places,
        |one, other| one.frequency.cmp(&other.frequency),
        |row, quintile| row.f = quintile,
    );
    by_quintile(
        rows,
        &mut places,
        |one, other| one.monetary.total_cmp(&other.monetary),
        |row, quintile| row.m = quintile,
    );
}

/// Gives each row its quintile in an order from the worst to the best. `places` are all rows.
fn by_quintile(
    rows: &mut [RfmRow],
    places: &mut [usize],
    compare: impl Fn(&RfmRow, &RfmRow) -> std::cmp::Ordering,
    set: impl Fn(&mut RfmRow, u8),
) {
    places.sort_unstable_by(|&one, &other| compare(&rows[one], &rows[other]));
    let users = places.len();
    let mut worse = 0;
    while worse < users {
        let least = places[worse];
        let alike = |&&place: &&usize| compare(&rows[place], &rows[least]).is_eq();
        let end = worse + places[worse..].iter().take_while(alike).count();
        let quintile = (1 + 5 * worse / users) as u8;
        for &place in &places[worse..end] {
            set(&mut rows[place], quintile);
        }
        worse = end;
    }
}
