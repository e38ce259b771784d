//! Answers of questions as tables: which columns they have, and their rows in Arrow.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::take;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use pugmark_engine::{Snapshot, UserKey, Value};
use roaring::RoaringBitmap;

use super::catalog::time_type;
use super::ids::id_array;
use super::session_columns::SessionColumns;
use crate::behaviour::{
    Affinity, Attribution, ByKey, Experiment, Funnel, FunnelResult, Lifecycle, Notices, Paths,
    Retention, Rfm, Segment, Sessions, Stickiness, Trail, users,
};
use crate::error::Invalid;
use crate::exec::{Executor, QueryError, UserSet};

/// A call in FROM.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) ask: Ask,
    /// The present of this question.
    pub(super) as_of: i64,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    Funnel(Funnel),
    /// With the properties told of each event of the chain.
    FunnelUsers(Funnel, Vec<String>),
    FunnelTimes {
        funnel: Funnel,
        from_step: usize,
        to_step: usize,
        bins: usize,
    },
    Retention(Retention),
    /// With the cohort's start and the period.
    RetentionUsers(Retention, i64, u64),
    Sessions(Sessions),
    Paths(Paths),
    Attribution(Attribution),
    AttributionUsers(Attribution),
    Experiment(Experiment),
    ExperimentUsers(Experiment),
    Affinity(Affinity),
    Lifecycle(Lifecycle),
    Stickiness(Stickiness),
    Rfm(Rfm),
    /// Of the user, if the user is one of these.
    Trail(Trail, Option<Segment>),
}

/// Rows and remarks.
pub(super) struct Answer {
    pub(super) rows: RecordBatch,
    pub(super) notices: Notices,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AnswerError {
    Query(QueryError),
    Arrow(ArrowError),
}

impl From<QueryError> for AnswerError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<ArrowError> for AnswerError {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Funnel(funnel) => write!(out, "funnel of {} steps", funnel.steps.len()),
            Self::FunnelUsers(funnel, _) => {
                write!(out, "users of a funnel of {} steps", funnel.steps.len())
            }
            Self::FunnelTimes {
                from_step, to_step, ..
            } => {
                write!(out, "times of a funnel from step {from_step} to {to_step}")
            }
            Self::Retention(_) => out.write_str("retention"),
            Self::RetentionUsers(..) => out.write_str("users of a cell of retention"),
            Self::Sessions(_) => out.write_str("sessions"),
            Self::Paths(_) => out.write_str("paths"),
            Self::Attribution(_) => out.write_str("attribution"),
            Self::AttributionUsers(_) => out.write_str("users of attribution"),
            Self::Experiment(_) => out.write_str("experiment"),
            Self::ExperimentUsers(_) => out.write_str("users of an experiment"),
            Self::Affinity(_) => out.write_str("affinity"),
            Self::Lifecycle(_) => out.write_str("lifecycle"),
            Self::Stickiness(_) => out.write_str("stickiness"),
            Self::Rfm(_) => out.write_str("rfm"),
            Self::Trail(..) => out.write_str("trail"),
        }
    }
}

/// What a column tells.
#[derive(Clone, Copy)]
enum Shown {
    Text,
    Texts,
    Count,
    Number,
    Flag,
    Time,
}

impl Shown {
    fn field(self, name: &str, zone: &Arc<str>) -> Field {
        let data_type = match self {
            Self::Text => DataType::Utf8View,
            Self::Texts => list_of(DataType::Utf8),
            Self::Count => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Flag => DataType::Boolean,
            Self::Time => time_type(zone),
        };
        Field::new(name, data_type, true)
    }
}

fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

impl Ask {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Funnel(funnel) | Self::FunnelUsers(funnel, _) => funnel.validate(),
            Self::FunnelTimes {
                funnel,
                from_step,
                to_step,
                bins,
            } => {
                funnel.validate()?;
                funnel.validate_times(*from_step, *to_step, *bins)
            }
            Self::Retention(retention) => retention.validate(),
            Self::RetentionUsers(retention, _, k) => {
                retention.validate()?;
                retention.validate_cell(*k)
            }
            Self::Sessions(sessions) => sessions.validate(),
            Self::Paths(paths) => paths.validate(),
            Self::Attribution(attribution) | Self::AttributionUsers(attribution) => {
                attribution.validate()
            }
            Self::Experiment(experiment) | Self::ExperimentUsers(experiment) => {
                experiment.validate()
            }
            Self::Affinity(affinity) => affinity.validate(),
            Self::Lifecycle(lifecycle) => lifecycle.validate(),
            Self::Stickiness(stickiness) => stickiness.validate(),
            Self::Rfm(rfm) => rfm.validate(),
            Self::Trail(trail, _) => trail.validate(),
        }
    }

    /// The columns of the answer; times are told in `zone`.
    pub(super) fn schema(&self, zone: &Arc<str>) -> SchemaRef {
        let own = self.columns().iter();
        let own = own.map(|(name, shown)| shown.field(name, zone));
        let fields: Vec<Field> = match self {
            Self::Funnel(funnel) => groups(funnel, zone).into_iter().chain(own).collect(),
            Self::FunnelUsers(funnel, values) => {
                let mut fields = vec![Shown::Text.field("user_id", zone)];
                fields.extend(groups(funnel, zone));
                fields.extend(own);
                fields.push(Field::new("times", list_of(time_type(zone)), true));
                fields.extend(values.iter().map(|name| Shown::Texts.field(name, zone)));
                fields
            }
            _ => own.collect(),
        };
        Arc::new(Schema::new(fields))
    }

    /// The columns that do not depend on the options.
    fn columns(&self) -> &'static [(&'static str, Shown)] {
        use Shown::{Count, Flag, Number, Text, Texts, Time};
        match self {
            Self::Funnel(_) => &[
                ("step", Count),
                ("name", Text),
                ("users", Count),
                ("from_start", Number),
                ("from_previous", Number),
                ("median_seconds", Number),
                ("mean_seconds", Number),
                ("p90_seconds", Number),
                ("incomplete", Flag),
            ],
            Self::FunnelUsers(..) => &[("level", Count)],
            Self::FunnelTimes { .. } => &[
                ("low_seconds", Number),
                ("high_seconds", Number),
                ("users", Count),
            ],
            Self::Retention(_) => &[
                ("cohort", Time),
                ("size", Count),
                ("k", Count),
                ("users", Count),
                ("rate", Number),
                ("incomplete", Flag),
            ],
            Self::RetentionUsers(..) => &[("user_id", Text)],
            Self::Sessions(_) => &[
                ("user_id", Text),
                ("session", Count),
                ("started", Time),
                ("ended", Time),
                ("events", Count),
            ],
            Self::Paths(_) => &[("path", Texts), ("users", Count), ("occurrences", Count)],
            Self::Attribution(_) => ATTRIBUTION,
            Self::AttributionUsers(_) => &[("touch", Text), ("user_id", Text)],
            Self::Experiment(_) => EXPERIMENT,
            Self::ExperimentUsers(_) => {
                &[("variant", Text), ("user_id", Text), ("converted", Flag)]
            }
            Self::Affinity(_) => AFFINITY,
            Self::Lifecycle(_) => &[("period", Time), ("status", Text), ("users", Count)],
            Self::Stickiness(_) => &[("period", Time), ("units", Count), ("users", Count)],
            Self::Rfm(_) => RFM,
            Self::Trail(..) => &[("time", Time), ("event", Text), ("properties", Text)],
        }
    }
}

const ATTRIBUTION: &[(&str, Shown)] = &[
    ("touch", Shown::Text),
    ("touches", Shown::Count),
    ("users", Shown::Count),
    ("conversions", Shown::Number),
    ("value", Shown::Number),
];

const EXPERIMENT: &[(&str, Shown)] = &[
    ("variant", Shown::Text),
    ("users", Shown::Count),
    ("pending", Shown::Count),
    ("converted", Shown::Count),
    ("rate", Shown::Number),
    ("rate_low", Shown::Number),
    ("rate_high", Shown::Number),
    ("lift", Shown::Number),
    ("p_value", Shown::Number),
    ("value_sum", Shown::Number),
    ("value_mean", Shown::Number),
    ("value_p", Shown::Number),
];

const AFFINITY: &[(&str, Shown)] = &[
    ("x", Shown::Text),
    ("y", Shown::Text),
    ("users", Shown::Count),
    ("support", Shown::Number),
    ("confidence", Shown::Number),
    ("lift", Shown::Number),
    ("jaccard", Shown::Number),
];

const RFM: &[(&str, Shown)] = &[
    ("user_id", Shown::Text),
    ("recency_days", Shown::Count),
    ("frequency", Shown::Count),
    ("monetary", Shown::Number),
    ("r", Shown::Count),
    ("f", Shown::Count),
    ("m", Shown::Count),
];

fn groups(funnel: &Funnel, zone: &Arc<str>) -> Vec<Field> {
    let bucket = funnel
        .bucket
        .map(|_| Field::new("bucket", time_type(zone), true));
    let by = funnel.by.as_ref().map(|_| Shown::Text.field("by", zone));
    bucket.into_iter().chain(by).collect()
}

/// Events whose sessions are made at a time: rows of some hundred bytes each, if every event is one.
/// Few where tests are to see several pieces.
const EVENTS_AT_ONCE: u64 = if cfg!(test) { 1 } else { 1 << 20 };

/// Makes columns out of rows.
struct Columns<'c> {
    zone: &'c Arc<str>,
    snapshot: &'c Snapshot,
    arrays: Vec<ArrayRef>,
}

impl Columns<'_> {
    fn texts<'a>(&mut self, values: impl Iterator<Item = Option<&'a str>>) {
        self.arrays
            .push(Arc::new(values.collect::<StringViewArray>()));
    }

    fn counts(&mut self, values: impl Iterator<Item = u64>) {
        let values = values.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        self.arrays
            .push(Arc::new(Int64Array::from_iter_values(values)));
    }

    fn numbers(&mut self, values: impl Iterator<Item = Option<f64>>) {
        self.arrays.push(Arc::new(values.collect::<Float64Array>()));
    }

    fn flags(&mut self, values: impl Iterator<Item = Option<bool>>) {
        self.arrays.push(Arc::new(values.collect::<BooleanArray>()));
    }

    fn times(&mut self, values: impl Iterator<Item = Option<i64>>) {
        let times: TimestampMicrosecondArray = values.collect();
        self.arrays
            .push(Arc::new(times.with_timezone(Arc::clone(self.zone))));
    }

    fn ids(&mut self, ordinals: impl Iterator<Item = u32>) -> Result<(), QueryError> {
        let ordinals: Vec<u32> = ordinals.collect();
        self.arrays
            .push(id_array(self.snapshot.dictionary(), &ordinals)?);
        Ok(())
    }

    fn text_lists<'a, L, T>(&mut self, lists: impl Iterator<Item = L>)
    where
        L: IntoIterator<Item = Option<T>>,
        T: AsRef<str> + 'a,
    {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for list in lists {
            builder.append_value(list);
        }
        self.arrays.push(Arc::new(builder.finish()));
    }

    fn time_lists<'a>(&mut self, lists: impl Iterator<Item = &'a [i64]>) {
        let times = TimestampMicrosecondBuilder::new().with_data_type(time_type(self.zone));
        let mut builder = ListBuilder::new(times);
        for list in lists {
            builder.append_value(list.iter().copied().map(Some));
        }
        self.arrays.push(Arc::new(builder.finish()));
    }

    fn finish(self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(Arc::clone(schema), self.arrays)
    }
}

impl Question {
    /// The same, where only these columns are read: times that nobody reads cost the most of a funnel.
    pub(super) fn only<'c>(mut self, mut columns: impl Iterator<Item = &'c str>) -> Self {
        match &mut self.ask {
            Ask::Funnel(funnel) if !columns.any(|column| column.ends_with("_seconds")) => {
                *funnel = funnel.clone().without_times();
            }
            _ => {}
        }
        self
    }

    /// True where rows may be as many as events: they are made and handed over [piece by
    /// piece](Self::pieces).
    pub(super) fn is_long(&self) -> bool {
        matches!(self.ask, Ask::Sessions(_))
    }

    /// The executors whose answers together are the question's.
    pub(super) fn pieces(&self, executor: Executor) -> Vec<Executor> {
        match self.is_long() {
            true => executor.pieces(EVENTS_AT_ONCE),
            false => vec![executor],
        }
    }

    /// Asks for the columns of these numbers, or all; times are told in `zone`.
    pub(super) fn answer(
        &self,
        executor: &Executor,
        zone: &Arc<str>,
        wanted: Option<&[usize]>,
    ) -> Result<Answer, AnswerError> {
        let mut columns = Columns {
            zone,
            snapshot: executor.snapshot(),
            arrays: Vec::new(),
        };
        let schema = self.ask.schema(zone);
        if let (Ask::Sessions(sessions), Some(wanted)) = (&self.ask, wanted) {
            let (count, notices) = columns.sessions(sessions, wanted, executor)?;
            let schema = Arc::new(schema.project(wanted)?);
            let rows = RecordBatchOptions::new().with_row_count(Some(count));
            let rows = RecordBatch::try_new_with_options(schema, columns.arrays, &rows)?;
            return Ok(Answer { rows, notices });
        }
        let notices = columns.fill(&self.ask, executor)?;
        let mut rows = columns.finish(&schema)?;
        if let Some(wanted) = wanted {
            rows = rows.project(wanted)?;
        }
        Ok(Answer { rows, notices })
    }
}

impl Columns<'_> {
    fn fill(&mut self, ask: &Ask, executor: &Executor) -> Result<Notices, QueryError> {
        match ask {
            Ask::Funnel(funnel) => Ok(self.funnel(funnel, executor.funnel(funnel)?)),
            Ask::FunnelUsers(funnel, values) => self.funnel_users(funnel, values, executor),
            Ask::FunnelTimes {
                funnel,
                from_step,
                to_step,
                bins,
            } => {
                let rows = executor.funnel_times(funnel, *from_step, *to_step, *bins)?;
                self.numbers(rows.iter().map(|row| Some(row.low_seconds)));
                self.numbers(rows.iter().map(|row| Some(row.high_seconds)));
                self.counts(rows.iter().map(|row| row.users));
                Ok(Notices::default())
            }
            Ask::Retention(retention) => self.retention(retention, executor),
            Ask::RetentionUsers(retention, cohort, k) => {
                self.user_set(&executor.retention_users(retention, *cohort, *k)?)
            }
            Ask::Sessions(sessions) => {
                let (_, notices) = self.sessions(sessions, &[0, 1, 2, 3, 4], executor)?;
                Ok(notices)
            }
            Ask::Paths(paths) => {
                let found = executor.paths(paths)?;
                let texts = |row: &crate::behaviour::PathRow| row.path.clone();
                self.text_lists(found.rows.iter().map(texts));
                self.counts(found.rows.iter().map(|row| row.users));
                self.counts(found.rows.iter().map(|row| row.occurrences));
                Ok(found.notices)
            }
            Ask::Attribution(attribution) => self.attribution(attribution, executor),
            Ask::AttributionUsers(attribution) => {
                let found = executor.attribution_users(attribution)?;
                self.texts(found.rows.iter().map(|row| Some(row.touch.label())));
                self.ids(found.rows.iter().map(|row| row.user))?;
                Ok(found.notices)
            }
            Ask::Experiment(experiment) => self.experiment(experiment, executor),
            Ask::ExperimentUsers(experiment) => {
                let found = executor.experiment_users(experiment)?;
                self.texts(found.rows.iter().map(|row| Some(row.variant.label())));
                self.ids(found.rows.iter().map(|row| row.user))?;
                self.flags(found.rows.iter().map(|row| row.converted));
                Ok(found.notices)
            }
            Ask::Affinity(affinity) => self.affinity(affinity, executor),
            Ask::Lifecycle(lifecycle) => {
                let found = executor.lifecycle(lifecycle)?;
                self.times(found.rows.iter().map(|row| Some(row.period)));
                self.texts(found.rows.iter().map(|row| Some(row.status.label())));
                self.counts(found.rows.iter().map(|row| row.users));
                Ok(found.notices)
            }
            Ask::Stickiness(stickiness) => {
                let found = executor.stickiness(stickiness)?;
                self.times(found.rows.iter().map(|row| Some(row.period)));
                self.counts(found.rows.iter().map(|row| row.units));
                self.counts(found.rows.iter().map(|row| row.users));
                Ok(found.notices)
            }
            Ask::Rfm(rfm) => self.rfm(rfm, executor),
            Ask::Trail(trail, among) => self.trail(trail, among.as_ref(), executor),
        }
    }

    fn attribution(
        &mut self,
        attribution: &Attribution,
        executor: &Executor,
    ) -> Result<Notices, QueryError> {
        let found = executor.attribution(attribution)?;
        let rows = &found.rows;
        self.texts(rows.iter().map(|row| Some(row.touch.label())));
        self.counts(rows.iter().map(|row| row.touches));
        self.counts(rows.iter().map(|row| row.users));
        self.numbers(rows.iter().map(|row| Some(row.conversions)));
        self.numbers(rows.iter().map(|row| row.value));
        Ok(found.notices)
    }

    fn trail(
        &mut self,
        trail: &Trail,
        among: Option<&Segment>,
        executor: &Executor,
    ) -> Result<Notices, QueryError> {
        let rows = match among {
            Some(among) if !is_among(executor, trail, among)? => Vec::new(),
            _ => executor.trail(trail)?,
        };
        self.times(rows.iter().map(|row| Some(row.time)));
        self.texts(rows.iter().map(|row| Some(row.event.as_str())));
        let properties: Vec<String> = rows.iter().map(|row| json(&row.properties)).collect();
        self.texts(properties.iter().map(|text| Some(text.as_str())));
        Ok(Notices::default())
    }

    fn user_set(&mut self, users: &UserSet) -> Result<Notices, QueryError> {
        self.ids(users.ordinals().iter())?;
        Ok(users.notices().clone())
    }

    fn groups<'a>(
        &mut self,
        funnel: &Funnel,
        groups: impl Iterator<Item = (Option<i64>, Option<&'a ByKey>)> + Clone,
    ) {
        if funnel.bucket.is_some() {
            self.times(groups.clone().map(|(bucket, _)| bucket));
        }
        if funnel.by.is_some() {
            self.texts(groups.map(|(_, by)| by.map(ByKey::label)));
        }
    }

    fn funnel(&mut self, funnel: &Funnel, found: FunnelResult) -> Notices {
        let rows = &found.rows;
        self.groups(funnel, rows.iter().map(|row| (row.bucket, row.by.as_ref())));
        self.counts(rows.iter().map(|row| row.step as u64));
        self.texts(rows.iter().map(|row| Some(row.name.as_str())));
        self.counts(rows.iter().map(|row| row.users));
        self.numbers(rows.iter().map(|row| row.from_start));
        self.numbers(rows.iter().map(|row| row.from_previous));
        self.numbers(rows.iter().map(|row| row.median_seconds));
        self.numbers(rows.iter().map(|row| row.mean_seconds));
        self.numbers(rows.iter().map(|row| row.p90_seconds));
        self.flags(rows.iter().map(|row| row.incomplete));
        found.notices
    }

    fn funnel_users(
        &mut self,
        funnel: &Funnel,
        values: &[String],
        executor: &Executor,
    ) -> Result<Notices, QueryError> {
        let names: Vec<&str> = values.iter().map(String::as_str).collect();
        let found = executor.funnel_users(funnel, &names)?;
        let rows = &found.rows;
        self.ids(rows.iter().map(|row| row.user))?;
        self.groups(funnel, rows.iter().map(|row| (row.bucket, row.by.as_ref())));
        self.counts(rows.iter().map(|row| row.level as u64));
        self.time_lists(rows.iter().map(|row| row.times.as_slice()));
        for place in 0..values.len() {
            let of = |value: &Option<Value>| value.as_ref().map(value_text);
            let told = rows
                .iter()
                .map(|row| row.values[place].iter().map(of).collect::<Vec<_>>());
            self.text_lists(told);
        }
        Ok(found.notices)
    }

    fn retention(
        &mut self,
        retention: &Retention,
        executor: &Executor,
    ) -> Result<Notices, QueryError> {
        let found = executor.retention(retention)?;
        let rows = &found.rows;
        self.times(rows.iter().map(|row| Some(row.cohort)));
        self.counts(rows.iter().map(|row| row.size));
        self.counts(rows.iter().map(|row| row.k));
        self.counts(rows.iter().map(|row| row.users));
        self.numbers(rows.iter().map(|row| Some(row.rate)));
        self.flags(rows.iter().map(|row| Some(row.incomplete)));
        Ok(found.notices)
    }

    /// Columns of sessions, of which there may be many: only those that are read, and where none is, nothing but how
    /// many sessions there are.
    fn sessions(
        &mut self,
        sessions: &Sessions,
        wanted: &[usize],
        executor: &Executor,
    ) -> Result<(usize, Notices), QueryError> {
        if wanted.is_empty() {
            let (count, notices) = executor.counted_sessions(sessions)?;
            return Ok((usize::try_from(count).unwrap_or(usize::MAX), notices));
        }
        let mut rows = SessionColumns::default();
        let notices = rows.fill(sessions, wanted, executor)?;
        let count = rows.users.len();
        let zone = self.zone;
        let zoned = |times: Vec<i64>| {
            let times = TimestampMicrosecondArray::from(times);
            Arc::new(times.with_timezone(Arc::clone(zone)))
        };
        for column in wanted {
            let column: ArrayRef = match column {
                0 => id_array(self.snapshot.dictionary(), &rows.users)?,
                1 => Arc::new(Int64Array::from(take(&mut rows.numbers))),
                2 => zoned(take(&mut rows.started)),
                3 => zoned(take(&mut rows.ended)),
                _ => Arc::new(Int64Array::from(take(&mut rows.events))),
            };
            self.arrays.push(column);
        }
        Ok((count, notices))
    }

    fn experiment(
        &mut self,
        experiment: &Experiment,
        executor: &Executor,
    ) -> Result<Notices, QueryError> {
        let found = executor.experiment(experiment)?;
        let rows = &found.rows;
        self.texts(rows.iter().map(|row| Some(row.variant.label())));
        self.counts(rows.iter().map(|row| row.users));
        self.counts(rows.iter().map(|row| row.pending));
        self.counts(rows.iter().map(|row| row.converted));
        self.numbers(rows.iter().map(|row| row.rate));
        self.numbers(rows.iter().map(|row| row.rate_low));
        self.numbers(rows.iter().map(|row| row.rate_high));
        self.numbers(rows.iter().map(|row| row.lift));
        self.numbers(rows.iter().map(|row| row.p_value));
        self.numbers(rows.iter().map(|row| row.value_sum));
        self.numbers(rows.iter().map(|row| row.value_mean));
        self.numbers(rows.iter().map(|row| row.value_p));
        Ok(found.notices)
    }

    fn affinity(
        &mut self,
        affinity: &Affinity,
        executor: &Executor,
    ) -> Result<Notices, QueryError> {
        let found = executor.affinity(affinity)?;
        let rows = &found.rows;
        self.texts(rows.iter().map(|row| Some(row.x.as_str())));
        self.texts(rows.iter().map(|row| Some(row.y.as_str())));
        self.counts(rows.iter().map(|row| row.users));
        self.numbers(rows.iter().map(|row| Some(row.support)));
        self.numbers(rows.iter().map(|row| Some(row.confidence)));
        self.numbers(rows.iter().map(|row| Some(row.lift)));
        self.numbers(rows.iter().map(|row| Some(row.jaccard)));
        Ok(found.notices)
    }

    fn rfm(&mut self, rfm: &Rfm, executor: &Executor) -> Result<Notices, QueryError> {
        let found = executor.rfm(rfm)?;
        let rows = &found.rows;
        self.ids(rows.iter().map(|row| row.user))?;
        self.counts(rows.iter().map(|row| row.recency_days.max(0) as u64));
        self.counts(rows.iter().map(|row| row.frequency));
        self.numbers(rows.iter().map(|row| Some(row.monetary)));
        self.counts(rows.iter().map(|row| u64::from(row.r)));
        self.counts(rows.iter().map(|row| u64::from(row.f)));
        self.counts(rows.iter().map(|row| u64::from(row.m)));
        Ok(found.notices)
    }
}

/// True where the user of a trail is one of the segment's.
fn is_among(executor: &Executor, trail: &Trail, among: &Segment) -> Result<bool, QueryError> {
    let user = executor.snapshot().find(UserKey::from_text(&trail.user))?;
    let Some(user) = user else {
        return Ok(false);
    };
    let only = users(RoaringBitmap::from_iter([user.0]));
    Ok(executor.count(only.and(among))? > 0)
}

/// A value as text; a list as JSON.
pub(super) fn value_text(value: &Value) -> String {
    match value.as_scalar() {
        Some(scalar) => scalar.canonical_text().into_owned(),
        None => json_value(value).to_string(),
    }
}

/// Properties as a JSON object.
fn json(properties: &BTreeMap<String, Value>) -> String {
    let members = properties
        .iter()
        .map(|(name, value)| (name.clone(), json_value(value)));
    serde_json::Value::Object(members.collect()).to_string()
}

/// A value in JSON; numbers that JSON has no form for are null.
fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::F64(value) => (*value).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Timestamp(_) => value_text(value).into(),
        Value::List(elements) => elements.iter().map(json_value).collect(),
    }
}
