//! How busy each hour is: a share of all events for each hour of the population's days.

use super::queue::HOUR_MILLIS;

/// How busy the hours of a day are (UTC), as weights.
const HOUR_WEIGHTS: [u64; 24] = [
    18, 10, 6, 5, 5, 8, 16, 28, 40, 48, 52, 54, 54, 52, 50, 50, 52, 56, 62, 70, 74, 68, 50, 30,
];
/// How busy the days of a week are, from the population's first day on.
const DAY_WEIGHTS: [u64; 7] = [10, 10, 11, 12, 12, 10, 9];

/// Shares of a number of things by hour, exact in total.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    days: u64,
}

impl Calendar {
    pub(super) fn new(days: u32) -> Self {
        Self {
            days: u64::from(days),
        }
    }

    pub(super) fn hours(&self) -> u64 {
        self.days * 24
    }

    pub(super) fn end_millis(&self) -> u64 {
        self.hours() * HOUR_MILLIS
    }

    /// How many of `total` fall before hour `hour`: all of them at the end.
    pub(super) fn share_until(&self, hour: u64, total: u64) -> u64 {
        let weight = u128::from(weight_until(hour.min(self.hours())));
        let all = u128::from(weight_until(self.hours()));
        (u128::from(total) * weight / all) as u64
    }

    /// How many of `total` fall on day `day`.
    pub(super) fn share_of_day(&self, day: u64, total: u64) -> u64 {
        self.share_until((day + 1) * 24, total) - self.share_until(day * 24, total)
    }
}

/// The weights of all hours before `hour` together.
fn weight_until(hour: u64) -> u64 {
    let (day, hour_of_day) = (hour / 24, (hour % 24) as usize);
    let (week, day_of_week) = (day / 7, (day % 7) as usize);
    let day_total: u64 = HOUR_WEIGHTS.iter().sum();
    let week_total: u64 = DAY_WEIGHTS.iter().sum();
    let days: u64 = week * week_total + DAY_WEIGHTS[..day_of_week].iter().sum::<u64>();
    let hours: u64 = HOUR_WEIGHTS[..hour_of_day].iter().sum();
    days * day_total + DAY_WEIGHTS[day_of_week] * hours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_to_the_whole() {
        let calendar = Calendar::new(10);
        let mut last = 0;
        for hour in 1..=calendar.hours() {
            let share = calendar.share_until(hour, 1_000_000);
            assert!(share > last);
            last = share;
        }
        assert_eq!(last, 1_000_000);
        let days: u64 = (0..10).map(|day| calendar.share_of_day(day, 999)).sum();
        assert_eq!(days, 999);
    }
}
