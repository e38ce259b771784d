//! A seeded population of shoppers: events of any number for demos, tests and benchmarks.
//!
//! The same [`PopulationConfig`] gives the same events on every machine: all draws come from one
//! SplitMix64 stream through integer arithmetic and exact float operations. Changing anything
//! here changes the events of every seed, and a golden test says so.
//!
//! # What is generated
//! * Exactly `events` events of exactly `users` users over `days` days, in order of time; no user
//!   has two events at one time. Times are whole milliseconds.
//! * Each hour has a share of the events (few by night, many in the evening, more on some days of
//!   the week). In it, first, the newly arrived have their first session; then campaigns are sent
//!   (e-mail daily, push every other day, text messages weekly) to people who have arrived; a few
//!   buy by card in a shop; the rest are sessions of users drawn by a power law of activity.
//! * A session is `visit`, then views of products (by a power law of popularity, often the same
//!   again or a neighbour) and searches, with pauses under 22 minutes.
//! * How far a user goes is a habit: 5 % never view a product, 53 % only look, 32 % also fill the
//!   cart, 4.4 % also buy in the same session, 5.6 % buy one to four days later. So a large
//!   population has 95 % viewers, 42 % with a cart and 10 % buyers.
//! * `email_sent` may lead to `email_open`, `email_click` and a session; `purchase` to `return`.
//!
//! # Properties
//! | name | type | on |
//! |---|---|---|
//! | `product_id` | i64, 100 000 products | view, cart, remove_from_cart, purchase, return, card_purchase, subscribe_… |
//! | `category_code` | text, 400, follows from the product | the same |
//! | `price` | f64 with two decimals, follows from product and day (promotions) | the same |
//! | `platform` | text, 5 values | everything but messages sent and card purchases |
//! | `campaign` | text, 24 values | messages, what follows from them, and the visit that they lead to |
//! | `order_id` | i64 | checkout (of buyers), purchase, return, card_purchase |
//! | `amount` | f64 with two decimals | purchase, return, card_purchase |

mod behaviour;
mod calendar;
mod catalog;
mod people;
mod queue;
mod random;
mod rows;

use pugmark_engine::EventBatch;

use behaviour::Shop;
use queue::Event;
use rows::{Rows, Texts};

/// Rows of every batch but the last.
pub const BATCH_ROWS: usize = 65_536;

/// Names of all events, by their number.
pub const NAMES: [&str; 18] = [
    "visit",
    "view",
    "search",
    "cart",
    "remove_from_cart",
    "checkout",
    "purchase",
    "email_sent",
    "email_open",
    "email_click",
    "push_sent",
    "push_open",
    "sms_sent",
    "sms_click",
    "card_purchase",
    "subscribe_back_in_stock",
    "subscribe_price_drop",
    "return",
];

/// What happens, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Name {
    Visit,
    View,
    Search,
    Cart,
    RemoveFromCart,
    Checkout,
    Purchase,
    EmailSent,
    EmailOpen,
    EmailClick,
    PushSent,
    PushOpen,
    SmsSent,
    SmsClick,
    CardPurchase,
    SubscribeBackInStock,
    SubscribePriceDrop,
    Return,
}

/// What to generate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PopulationConfig {
    /// Number of events.
    pub events: u64,
    /// Number of users; brought into `1..=min(events, 2^31)`.
    pub users: u64,
    /// Days that the events spread over; brought into `1..=36 500`.
    pub days: u32,
    /// Another seed gives another population of the same kind.
    pub seed: u64,
    /// Midnight of the first day, in microseconds since 1970-01-01 UTC.
    pub start_micros: i64,
}

impl PopulationConfig {
    /// `events` events of 4.5 % as many users over 90 days from 2025-01-01 on, with seed 1.
    pub fn of_events(events: u64) -> Self {
        Self {
            events,
            users: (u128::from(events) * 45 / 1_000) as u64,
            days: 90,
            seed: 1,
            start_micros: 1_735_689_600_000_000,
        }
    }
}

/// A population to be generated.
///
/// ```
/// use pugmark_query::population::{Population, PopulationConfig};
///
/// let population = Population::new(PopulationConfig::of_events(10_000));
/// let events: usize = population.batches().map(|batch| batch.len()).sum();
/// assert_eq!(events, 10_000);
/// ```
#[derive(Clone, Debug)]
pub struct Population {
    config: PopulationConfig,
}

impl Population {
    /// The population of `config`, its numbers brought into their bounds.
    pub fn new(mut config: PopulationConfig) -> Self {
        config.users = config.users.clamp(1, config.events.clamp(1, 1 << 31));
        config.days = config.days.clamp(1, 36_500);
        Self { config }
    }

    /// What is generated, after bringing numbers into their bounds.
    pub fn config(&self) -> &PopulationConfig {
        &self.config
    }

    /// The end of the last day, exclusive, in microseconds since 1970-01-01 UTC.
    pub fn end_micros(&self) -> i64 {
        self.config.start_micros + i64::from(self.config.days) * 86_400_000_000
    }

    /// All events in order of time, in batches of [`BATCH_ROWS`].
    ///
    /// Memory is bounded by the events of the busiest hour plus the purchases, returns and
    /// openings that are due later (32 bytes each).
    pub fn batches(&self) -> Batches {
        Batches {
            shop: Shop::new(&self.config),
            texts: Texts::new(),
            start_micros: self.config.start_micros,
            hour: Vec::new().into_iter(),
            left: self.config.events,
        }
    }
}

/// The batches of a population, from [`Population::batches`].
#[derive(Clone, Debug)]
pub struct Batches {
    shop: Shop,
    texts: Texts,
    start_micros: i64,
    hour: std::vec::IntoIter<Event>,
    left: u64,
}

impl Batches {
    fn next_hour(&mut self) {
        if self.shop.hour < self.shop.calendar.hours() {
            self.shop.live_an_hour();
        }
        self.shop.hour += 1;
        self.hour = self.shop.queue.pop_hour().into_iter();
    }
}

impl Iterator for Batches {
    type Item = EventBatch;

    fn next(&mut self) -> Option<EventBatch> {
        let wanted = self.left.min(BATCH_ROWS as u64) as usize;
        if wanted == 0 {
            return None;
        }
        let mut rows = Rows::new();
        while rows.len() < wanted {
            let missing = wanted - rows.len();
            if self.hour.as_slice().is_empty() {
                self.next_hour();
            }
            for event in self.hour.by_ref().take(missing) {
                rows.push(&event, self.start_micros, &self.shop.people, &self.texts);
            }
        }
        self.left -= rows.len() as u64;
        Some(rows.finish(&self.texts))
    }
}

#[cfg(test)]
mod tests;
