//! Events as a shop's servers send them: small batches, seeded, cheap enough to be made between
//! two appends. Plainer than the population of `pugmark generate`, which knows no late events, no
//! message ids and only large batches.

use std::fmt::Write;

use pugmark_engine::{BatchBuilder, BatchError, EventBatch, Scalar, UserKey};

/// The first event's time: 2025-01-01, as in the population.
const START_MICROS: i64 = 1_735_689_600_000_000;

/// All events that are not late lie in so many microseconds: a week.
const SPAN_MICROS: u64 = 7 * 86_400_000_000;

/// A late event comes at most so many microseconds after it happened: 90 days.
const LATEST_MICROS: u64 = 90 * 86_400_000_000;

const PRODUCTS: u64 = 100_000;
const CATEGORIES: u64 = 400;
const PLATFORMS: [&str; 5] = ["android", "ios", "mobile_web", "tv", "web"];

/// Names, each with how many of a hundred events have it.
const NAMES: [(&str, u64); 6] = [
    ("view", 45),
    ("visit", 22),
    ("search", 12),
    ("cart", 10),
    ("email_open", 9),
    ("purchase", 2),
];

/// What the events are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// Of all writers together.
    pub(crate) events: u64,
    pub(crate) rows: u64,
    /// The share of events with an old time.
    pub(crate) late: f64,
    pub(crate) message_ids: bool,
    pub(crate) seed: u64,
}

/// One writer's source of batches.
#[derive(Debug)]
pub(crate) struct Shoppers {
    kind: Kind,
    categories: Vec<String>,
    message_id: String,
}

impl Shoppers {
    pub(crate) fn new(kind: Kind) -> Self {
        let category = |number| format!("department_{}.category_{number}", number % 20);
        Self {
            kind,
            categories: (0..CATEGORIES).map(category).collect(),
            message_id: String::new(),
        }
    }

    /// The batch of this number, the same whoever makes it, and its raw bytes: ids, names and
    /// texts as long as they are, eight bytes for a number and for a time.
    pub(crate) fn batch(&mut self, number: u64) -> Result<(EventBatch, u64), BatchError> {
        let mut random = Random::new(self.kind.seed, number);
        let mut batch = BatchBuilder::new();
        let mut bytes = 0;
        for row in 0..self.kind.rows {
            bytes += self.event(&mut batch, &mut random, number * self.kind.rows + row);
        }
        Ok((batch.finish()?, bytes))
    }

    /// Adds the event of this place in the stream; its raw bytes.
    fn event(&mut self, batch: &mut BatchBuilder, random: &mut Random, place: u64) -> u64 {
        let name = name_of(random.below(100));
        let platform = PLATFORMS[random.below(PLATFORMS.len() as u64) as usize];
        // As many users as in the population, 4.5 % of the events, a few of them far more active.
        let users = (self.kind.events * 45 / 1_000).max(1);
        let user = random.below(users).min(random.below(users)) as i64;
        let time = self.time(random, place);
        let mut row = batch.event_of(UserKey::Int(user), time, name);
        let mut bytes = 16 + name.len() + platform.len();
        row = row.scalar("platform", Scalar::Text(platform));
        if matches!(name, "view" | "cart" | "purchase") {
            let product = random.below(PRODUCTS).min(random.below(PRODUCTS));
            let category = &self.categories[(product % CATEGORIES) as usize];
            let price = (99 + product * 7_919 % 50_000) as f64 / 100.0;
            row = row.scalar("product_id", Scalar::I64(product as i64));
            row = row.scalar("category_code", Scalar::Text(category));
            row = row.scalar("price", Scalar::F64(price));
            bytes += 16 + category.len();
        }
        if self.kind.message_ids {
            self.message_id.clear();
            // Writing into a text cannot fail.
            let _ok = write!(self.message_id, "{:016x}{:016x}", random.next(), place);
            row.message_id(&self.message_id);
            bytes += self.message_id.len();
        }
        bytes as u64
    }

    /// The time of the event at this place: in order over a week, or long ago.
    fn time(&self, random: &mut Random, place: u64) -> i64 {
        let step = (SPAN_MICROS / self.kind.events.max(1)).max(1);
        let present = START_MICROS + (place * step + random.below(step)) as i64;
        let late = (random.below(1 << 20) as f64) < self.kind.late * f64::from(1 << 20);
        let age = if late { random.below(LATEST_MICROS) } else { 0 };
        present - age as i64
    }
}

fn name_of(mut percent: u64) -> &'static str {
    for (name, share) in NAMES {
        if percent < share {
            return name;
        }
        percent -= share;
    }
    NAMES[0].0
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xD134_2543_DE82_EF95));
        Self(random.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number in `0..limit`.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        events: 10_000,
        rows: 500,
        late: 0.1,
        message_ids: true,
        seed: 1,
    };

    #[test]
    fn shares_are_of_a_hundred() {
        assert_eq!(NAMES.iter().map(|(_, share)| share).sum::<u64>(), 100);
    }

    #[test]
    fn a_batch_is_the_same_whoever_makes_it() {
        let (mut one, mut other) = (Shoppers::new(KIND), Shoppers::new(KIND));
        one.batch(3).unwrap();
        let (again, bytes) = one.batch(4).unwrap();
        let (first, other_bytes) = other.batch(4).unwrap();
        assert_eq!((again.len(), bytes), (first.len(), other_bytes));
        assert_eq!(format!("{again:?}"), format!("{first:?}"));
    }

    #[test]
    fn so_many_are_late() {
        let shoppers = Shoppers::new(KIND);
        let mut random = Random::new(1, 0);
        let times = (0..KIND.events).map(|place| shoppers.time(&mut random, place));
        let late = times.filter(|&time| time < START_MICROS).count();
        // Of a tenth nearly all lie before the week in which the stream is.
        assert!((850..=1_100).contains(&late), "{late}");
    }
}
