//! The questions about behaviour, as the query crate's plans. Each has its twins in
//! `benches/harness/sql/`; the harness refuses to report where the answers differ.

use pugmark_engine::{Snapshot, Value as Property};
use pugmark_query::behaviour::{AttributionResult, ByKey, FunnelResult, RetentionResult};
use pugmark_query::{
    Attribution, CalendarUnit, Condition, Did, Executor, Funnel, PathPer, Paths, PathsResult,
    QueryOptions, Retention, Segment, Sessions, Trail, TrailRow, UserIds, days, did, event,
    minutes, not, property,
};
use serde_json::{Map, Value, json};

use crate::BenchError;

/// Steps of the long funnels.
const STEPS: [&str; 5] = ["visit", "search", "view", "cart", "purchase"];

/// How many paths are asked for.
const TOP_PATHS: usize = 20;

/// One question of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Viewed and put in the cart, but did not buy, in 30 days.
    AbandonedCart,
    /// Viewed five times on one platform, and put something expensive in the cart, in 30 days.
    CountsAndProperties,
    /// Opened no e-mail in 90 days.
    Sleepers,
    /// The ids of the abandoned carts.
    ExportIds,
    /// View, cart, purchase within a day.
    Funnel3,
    /// Five steps within a day, over 30 days, by the platform of the first event.
    Funnel5ByPlatform,
    /// The same five steps within a week, over everything.
    Funnel5Week,
    /// View, cart, purchase of one product within a day.
    FunnelHolding,
    /// Visit, cart, purchase within a day, and no search between.
    FunnelExclusion,
    /// Visitors who buy, by week.
    WeeklyRetention,
    /// How often somebody came, with pauses of half an hour at most.
    SessionCount,
    /// What follows visits.
    Paths,
    /// Which campaign's visit was the last before a purchase.
    Attribution,
    /// All events of the user with this id.
    Trail(String),
}

/// What a question gives; rows are made of it when time has been taken.
#[derive(Debug)]
pub(crate) enum Answer {
    Count(u64),
    Ids(UserIds),
    Steps(FunnelResult),
    StepsByPlatform(FunnelResult),
    Retention(RetentionResult),
    Paths(PathsResult),
    Attribution(AttributionResult),
    Trail(Vec<TrailRow>),
}

impl Question {
    const ALL: [(&'static str, Self); 13] = [
        ("abandoned_cart", Self::AbandonedCart),
        ("counts_and_properties", Self::CountsAndProperties),
        ("sleepers", Self::Sleepers),
        ("export_ids", Self::ExportIds),
        ("funnel_3", Self::Funnel3),
        ("funnel_5_by_platform", Self::Funnel5ByPlatform),
        ("funnel_5_week", Self::Funnel5Week),
        ("funnel_holding", Self::FunnelHolding),
        ("funnel_exclusion", Self::FunnelExclusion),
        ("weekly_retention", Self::WeeklyRetention),
        ("session_count", Self::SessionCount),
        ("paths", Self::Paths),
        ("attribution", Self::Attribution),
    ];

    /// The question of this name; `trail:ID` asks for one user's events.
    ///
    /// # Errors
    /// Says which names there are.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        if let Some(user) = name.strip_prefix("trail:") {
            return Ok(Self::Trail(user.to_owned()));
        }
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, question)| question).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("no question `{name}`; there are {names}, trail:ID")
        })
    }

    /// Asks it.
    ///
    /// # Errors
    /// See [`BenchError`].
    pub(crate) fn ask(
        &self,
        snapshot: &Snapshot,
        options: &QueryOptions,
    ) -> Result<Answer, BenchError> {
        let executor = &Executor::new(snapshot.clone()).with_options(options.clone());
        let count = |segment| executor.count(segment).map(Answer::Count);
        let steps = |funnel: Funnel| executor.funnel(&funnel.without_times());
        let by_platform = |funnel: Funnel| steps(funnel.by(property("platform")));
        let bought = || Funnel::new(["view", "cart", "purchase"]).within(days(1));
        let five = || Funnel::new(STEPS);
        Ok(match self {
            Self::AbandonedCart => count(abandoned_cart())?,
            Self::CountsAndProperties => count(counts_and_properties())?,
            Self::Sleepers => count(not(did("email_open").last(days(90))))?,
            Self::ExportIds => Answer::Ids(executor.users(abandoned_cart())?.ids()?),
            Self::Funnel3 => Answer::Steps(steps(bought())?),
            Self::Funnel5ByPlatform => {
                Answer::StepsByPlatform(by_platform(five().within(days(1)).last(days(30)))?)
            }
            Self::Funnel5Week => Answer::StepsByPlatform(by_platform(five().within(days(7)))?),
            Self::FunnelHolding => Answer::Steps(steps(bought().holding("product_id"))?),
            Self::FunnelExclusion => {
                let funnel = Funnel::new(["visit", "cart", "purchase"]).within(days(1));
                Answer::Steps(steps(funnel.exclude("search"))?)
            }
            Self::WeeklyRetention => {
                let retention = Retention::new("visit", "purchase").period(CalendarUnit::Week);
                Answer::Retention(executor.retention(&retention)?)
            }
            Self::SessionCount => {
                Answer::Count(executor.session_count(&Sessions::new().gap(minutes(30)))?)
            }
            Self::Paths => {
                Answer::Paths(executor.paths(&Paths::new("visit", 2).per(PathPer::Event))?)
            }
            Self::Attribution => Answer::Attribution(executor.attribution(&attribution())?),
            Self::Trail(user) => Answer::Trail(executor.trail(&Trail::of(user))?),
        })
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

fn attribution() -> Attribution {
    let touches = event("visit").and(property("campaign").is_not_null());
    Attribution::new("purchase", touches, property("campaign"))
        .lookback(days(7))
        .value(property("amount"))
}

impl Answer {
    /// An array of rows, as SQL gives them. Times are objects of `micros`.
    pub(crate) fn rows(&self) -> Value {
        match self {
            Self::Count(users) => json!([[users]]),
            Self::Ids(ids) => ids.iter().map(|id| json!([id])).collect(),
            Self::Steps(result) => {
                let rows = result.rows.iter();
                rows.map(|row| json!([row.step, row.users])).collect()
            }
            Self::StepsByPlatform(result) => steps_by_platform(result),
            Self::Retention(result) => {
                let rows = result.rows.iter().filter(|row| row.users > 0);
                rows.map(|row| json!([time(row.cohort), row.size, row.k, row.users]))
                    .collect()
            }
            Self::Paths(result) => paths(result),
            Self::Attribution(result) => {
                let rows = result.rows.iter().map(|row| {
                    let label = row.touch.label();
                    json!([label, row.touches, row.users, row.conversions, row.value])
                });
                rows.collect()
            }
            Self::Trail(rows) => rows.iter().map(trail_row).collect(),
        }
    }
}

fn time(micros: i64) -> Value {
    json!({ "micros": micros })
}

fn steps_by_platform(result: &FunnelResult) -> Value {
    let rows = result.rows.iter().map(|row| {
        let platform = row.by.as_ref().map_or("", ByKey::label);
        json!([platform, row.step, row.users])
    });
    rows.collect()
}

fn paths(result: &PathsResult) -> Value {
    let rows = result.rows.iter().take(TOP_PATHS).map(|row| {
        let stops: Vec<&str> = row.path.iter().flatten().map(String::as_str).collect();
        json!([stops.join(" > "), row.users, row.occurrences])
    });
    rows.collect()
}

/// Its properties as JSON text, as `trail` of SQL has them.
fn trail_row(row: &TrailRow) -> Value {
    let properties = row.properties.iter();
    let properties: Map<String, Value> = properties
        .map(|(name, value)| (name.clone(), plain(value)))
        .collect();
    json!([
        time(row.time),
        row.event,
        Value::Object(properties).to_string()
    ])
}

fn plain(value: &Property) -> Value {
    match value {
        Property::Null => Value::Null,
        Property::Bool(one) => (*one).into(),
        Property::I64(number) => (*number).into(),
        Property::F64(number) => (*number).into(),
        Property::Text(text) => text.as_str().into(),
        Property::Timestamp(micros) => time(*micros),
        Property::List(elements) => elements.iter().map(plain).collect(),
    }
}
