//! The questions, as the query crate's plans. Each has its twin in `benches/harness/questions.py`;
//! the harness refuses to report where the answers differ.

use pugmark_engine::Snapshot;
use pugmark_query::behaviour::{ByKey, FunnelResult};
use pugmark_query::{
    Condition, Did, Executor, Funnel, QueryError, QueryOptions, Segment, days, did, event, not,
    property,
};
use serde_json::{Value, json};

/// Platforms of the generated population.
const PLATFORMS: [&str; 5] = ["android", "ios", "mobile_web", "tv", "web"];

/// Steps of the long funnels.
const STEPS: [&str; 5] = ["visit", "search", "view", "cart", "purchase"];

/// One question of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Viewed and put in the cart, but did not buy, in 30 days.
    AbandonedCart,
    /// Viewed five times on one platform, and put something expensive in the cart, in 30 days.
    CountsAndProperties,
    /// Opened no e-mail in 90 days.
    Sleepers,
    /// View, cart, purchase within a day, over everything.
    Funnel3,
    /// Five steps within a day, over 30 days, by the platform of the first event.
    Funnel5ByPlatform,
    /// The same five steps, all on one platform, for each platform.
    Funnel5OnOnePlatform,
}

impl Question {
    const ALL: [(&'static str, Self); 6] = [
        ("abandoned_cart", Self::AbandonedCart),
        ("counts_and_properties", Self::CountsAndProperties),
        ("sleepers", Self::Sleepers),
        ("funnel_3", Self::Funnel3),
        ("funnel_5_by_platform", Self::Funnel5ByPlatform),
        ("funnel_5_on_one_platform", Self::Funnel5OnOnePlatform),
    ];

    /// The question of this name.
    ///
    /// # Errors
    /// Says which names there are.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|&(_, question)| question).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("no question `{name}`; there are {names}")
        })
    }

    /// The answer: a number of users, users by step, or users by platform and step.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(crate) fn ask(
        self,
        snapshot: &Snapshot,
        options: &QueryOptions,
    ) -> Result<Value, QueryError> {
        let mut options = options.clone();
        if self == Self::Funnel3 {
            // Everything: the snapshot's own present is later than all events.
            options.as_of = None;
        }
        let executor = &Executor::new(snapshot.clone()).with_options(options);
        match self {
            Self::AbandonedCart => Ok(executor.count(abandoned_cart())?.into()),
            Self::CountsAndProperties => Ok(executor.count(counts_and_properties())?.into()),
            Self::Sleepers => Ok(executor.count(sleepers())?.into()),
            Self::Funnel3 => {
                let funnel = Funnel::new(["view", "cart", "purchase"]).within(days(1));
                let funnel = funnel.without_times();
                Ok(by_step(&executor.funnel(&funnel)?))
            }
            Self::Funnel5ByPlatform => {
                let funnel = Funnel::new(STEPS).within(days(1)).last(days(30));
                let result = executor.funnel(&funnel.by(property("platform")).without_times())?;
                Ok(by_platform(&result))
            }
            Self::Funnel5OnOnePlatform => on_one_platform(executor),
        }
    }
}

fn in_30_days(condition: impl Into<Condition>) -> Did {
    did(condition).last(days(30))
}

fn abandoned_cart() -> Segment {
    in_30_days("view")
        .and(in_30_days("cart"))
        .and(not(in_30_days("purchase")))
}

fn counts_and_properties() -> Segment {
    let views = event("view").and(property("platform").eq("ios"));
    let carts = event("cart").and(property("price").ge(100));
    in_30_days(views).at_least(5).and(in_30_days(carts))
}

fn sleepers() -> Segment {
    not(did("email_open").last(days(90)))
}

fn on_one_platform(executor: &Executor) -> Result<Value, QueryError> {
    let mut platforms = serde_json::Map::new();
    for platform in PLATFORMS {
        let steps = STEPS.map(|name| event(name).and(property("platform").eq(platform)));
        let funnel = Funnel::new(steps)
            .within(days(1))
            .last(days(30))
            .without_times();
        let users = by_step(&executor.funnel(&funnel)?);
        platforms.insert(platform.to_owned(), users);
    }
    Ok(Value::Object(platforms))
}

fn by_step(result: &FunnelResult) -> Value {
    result.rows.iter().map(|row| row.users).collect()
}

fn by_platform(result: &FunnelResult) -> Value {
    let mut platforms = serde_json::Map::new();
    for row in &result.rows {
        let platform = row.by.as_ref().map_or("", ByKey::label);
        let users = platforms.entry(platform).or_insert_with(|| json!([]));
        if let Value::Array(users) = users {
            users.push(row.users.into());
        }
    }
    Value::Object(platforms)
}
