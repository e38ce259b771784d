//! One call of the Segment tracking API as what it stores: events, and traits of its user.

use std::borrow::Cow;

use pugmark_engine::Value;
use pugmark_engine::time::MICROS_PER_DAY;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::import::Problem;
use crate::import::TimeUnit;
use crate::import::building::{NewRow, check_properties, keep_first};
use crate::import::flatten::{self, Flat, Listing, RawObject, parse_listing, parse_object};
use crate::import::naming::{check_length, check_name};
use crate::import::time::{epoch_magnitude, parse_calendar, parse_epoch};

/// The event of an `identify` that names an anonymous id besides, with that id as `anonymous_id`.
pub const IDENTIFY_EVENT: &str = "$identify";
/// The event of an `alias`, with the earlier id as `previous_id`.
pub const ALIAS_EVENT: &str = "$alias";

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody did something.
    Track,
    /// Who somebody is.
    Identify,
    /// Somebody looked at a page.
    Page,
    /// Somebody looked at a screen of an app.
    Screen,
    /// Somebody belongs to a group.
    Group,
    /// Somebody has another id.
    Alias,
}

/// Why a call is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageProblem {
    /// It is no JSON object.
    #[error("it is no JSON object: {0}")]
    NotAnObject(String),
    /// It is no JSON object with an array of calls.
    #[error("it is no JSON object with an array `batch`: {0}")]
    NoBatch(String),
    /// Its `type` is none of those that there are.
    #[error("`type` must be track, identify, page, screen, group or alias")]
    Type,
    /// There is nobody whom it is about.
    #[error("`userId` or `anonymousId` must be a text or a number")]
    NoUser,
    /// A field that its type needs is missing.
    #[error("`{0}` must be a text")]
    Missing(&'static str),
    /// A field that must be an object is something else.
    #[error("`{0}` must be an object")]
    NoObject(&'static str),
    /// A time that is none.
    #[error("`{field}` is no time: `{text}`; send ISO 8601, as 2026-01-31T12:00:00.000Z")]
    Time {
        /// The field.
        field: &'static str,
        /// Its text, shortened.
        text: String,
    },
    /// A time that no clock is off by.
    #[error(
        "the time is before 1970, or more than a year from now; check `timestamp` and `sentAt`"
    )]
    FarTime,
    /// All calls together take more memory than there is for them.
    #[error("the calls take too much memory at once; send fewer of them at a time")]
    NoRoom,
    /// Something is beyond the limits of the store.
    #[error(transparent)]
    Limit(#[from] Problem),
}

/// An event to be stored, or an update of traits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Whose it is.
    pub user: String,
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// The event's name; empty for traits.
    pub name: String,
    /// What it is known by when it comes again; empty for nothing.
    pub message_id: String,
    /// Properties, or traits.
    pub properties: Vec<(String, Value)>,
}

/// What a call stores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// Events.
    pub events: Vec<Row>,
    /// Updates of traits.
    pub traits: Vec<Row>,
}

/// What the calls of one request share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared<'a> {
    /// When the request came, in microseconds since 1970-01-01 UTC.
    pub received: i64,
    /// `sentAt` of the request.
    pub sent_at: Option<i64>,
    /// `context` of the request, which calls inherit.
    pub context: Option<&'a RawValue>,
}

impl Kind {
    /// The kind that a `type` names.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "track" => Self::Track,
            "identify" => Self::Identify,
            "page" => Self::Page,
            "screen" => Self::Screen,
            "group" => Self::Group,
            "alias" => Self::Alias,
            _ => return None,
        })
    }
}

/// The calls of a request, in order; a call that cannot be read stands alone.
pub type Calls = Vec<Result<Call, MessageProblem>>;

/// `writeKey`, where a body names one.
///
/// # Errors
/// Where it is no JSON object.
pub fn write_key(json: &str) -> Result<Option<String>, MessageProblem> {
    Ok(text(&parse(json)?, "writeKey").map(Cow::into_owned))
}

/// Reads a body: a call of a kind, or, without one, a batch of them. `take` is told of the bytes that
/// calls hold, and may refuse them.
///
/// # Errors
/// Where it is no JSON object, a batch has no `batch`, or there is no room.
pub fn read_body(
    json: &str,
    kind: Option<Kind>,
    received: i64,
    take: &mut dyn FnMut(usize) -> bool,
) -> Result<Calls, MessageProblem> {
    let mut shared = Shared {
        received,
        ..Shared::default()
    };
    if kind.is_some() {
        return Ok(vec![read_call(&parse(json)?, kind, &shared)]);
    }
    let Listing { object, elements } =
        parse_listing(json, "batch").map_err(|error| MessageProblem::NoBatch(told(&error)))?;
    shared.sent_at = time(&object, "sentAt")?;
    shared.context = field(&object, "context");
    let mut calls = Vec::with_capacity(elements.len());
    for raw in elements {
        let call = parse(raw.get()).and_then(|object| read_call(&object, None, &shared));
        // A context that all inherit may be most of each.
        if !take(call.as_ref().map_or(REFUSED_BYTES, Call::byte_len)) {
            return Err(MessageProblem::NoRoom);
        }
        calls.push(call);
    }
    Ok(calls)
}

impl Call {
    /// About how many bytes it holds.
    fn byte_len(&self) -> usize {
        let rows = self.events.iter().chain(&self.traits);
        let bytes = rows.map(|row| {
            let properties = row.properties.iter();
            let properties = properties.map(|(name, value)| name.len() + value_bytes(value));
            size_of::<Row>() + row.user.len() + row.name.len() + properties.sum::<usize>()
        });
        bytes.sum()
    }
}

fn value_bytes(value: &Value) -> usize {
    let own = size_of::<(String, Value)>();
    match value {
        Value::Text(text) => own + text.len(),
        Value::List(values) => own + values.iter().map(value_bytes).sum::<usize>(),
        _ => own,
    }
}

/// What a call that is refused is about: what it is, and why.
const REFUSED_BYTES: usize = 2 * size_of::<Result<Call, MessageProblem>>();

/// What is wrong, without all of a long text that stands where it should not.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(MOST_TOLD) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Characters of an error that are told.
const MOST_TOLD: usize = 200;

fn parse(json: &str) -> Result<RawObject<'_>, MessageProblem> {
    parse_object(json).map_err(|error| MessageProblem::NotAnObject(told(&error)))
}

/// Reads one call, and checks it against the limits of the store.
fn read_call(
    object: &RawObject<'_>,
    kind: Option<Kind>,
    shared: &Shared<'_>,
) -> Result<Call, MessageProblem> {
    let kind = match kind {
        Some(kind) => kind,
        None => text(object, "type")
            .and_then(|name| Kind::named(&name))
            .ok_or(MessageProblem::Type)?,
    };
    let reading = Reading::new(object, shared)?;
    let call = match kind {
        Kind::Track => {
            let name = text(object, "event").filter(|name| !name.is_empty());
            let name = name.ok_or(MessageProblem::Missing("event"))?;
            reading.event(&name, &[])?
        }
        Kind::Page => reading.event("page", &["name", "category"])?,
        Kind::Screen => reading.event("screen", &["name", "category"])?,
        Kind::Identify => reading.identify()?,
        Kind::Group => reading.group()?,
        Kind::Alias => reading.alias()?,
    };
    check(&call)?;
    Ok(call)
}

/// No client's clock is so far ahead; and partitions of time are not for anybody to use up.
const MICROS_PER_YEAR: i64 = 366 * MICROS_PER_DAY;

/// A call being read.
struct Reading<'o, 'a> {
    object: &'o RawObject<'a>,
    context: Option<&'o RawValue>,
    user: String,
    anonymous: Option<String>,
    message_id: String,
    time: i64,
    /// `timestamp` and `sentAt` as they were, where the time is not the first of them.
    originals: Option<(i64, i64)>,
}

impl<'o, 'a> Reading<'o, 'a> {
    fn new(object: &'o RawObject<'a>, shared: &Shared<'o>) -> Result<Self, MessageProblem> {
        let id = |name| text(object, name).filter(|id| !id.is_empty());
        let anonymous = id("anonymousId").map(Cow::into_owned);
        let user = id("userId").map(Cow::into_owned).or(anonymous.clone());
        let user = user.ok_or(MessageProblem::NoUser)?;
        let original = match time(object, "originalTimestamp")? {
            Some(original) => Some(original),
            None => time(object, "timestamp")?,
        };
        let sent_at = time(object, "sentAt")?.or(shared.sent_at);
        // The client's clock may be wrong, but not by how long it waited.
        let (time, originals) = match (original, sent_at) {
            (Some(original), Some(sent_at)) => {
                let waited = sent_at.saturating_sub(original);
                let time = shared.received.saturating_sub(waited);
                (time, (time != original).then_some((original, sent_at)))
            }
            (Some(original), None) => (original, None),
            (None, _) => (shared.received, None),
        };
        if !(0..=shared.received.saturating_add(MICROS_PER_YEAR)).contains(&time) {
            return Err(MessageProblem::FarTime);
        }
        Ok(Self {
            object,
            context: field(object, "context"),
            user,
            anonymous,
            message_id: id("messageId").map_or_else(String::new, Cow::into_owned),
            time,
            originals,
        }
        .inheriting(shared))
    }

    /// What the request says of the context holds where the call says nothing.
    fn inheriting(mut self, shared: &Shared<'o>) -> Self {
        self.context = self.context.or(shared.context);
        self
    }

    fn row(self, name: String, properties: Vec<(String, Value)>) -> Row {
        Row {
            user: self.user,
            time: self.time,
            name,
            message_id: self.message_id,
            properties,
        }
    }

    /// Traits have no message id: set again they are the same, and the event of the same call needs it.
    fn traits(&self, properties: Vec<(String, Value)>) -> Row {
        Row {
            user: self.user.clone(),
            time: self.time,
            properties,
            ..Row::default()
        }
    }

    /// An event with its properties, the named fields of the call among them, and its context.
    fn event(self, name: &str, fields: &[&str]) -> Result<Call, MessageProblem> {
        let mut properties = Properties::default();
        properties.add_object(self.object, "properties", "")?;
        for field in fields {
            if let Some(text) = text(self.object, field) {
                properties.add(field, Value::Text(text.into_owned()));
            }
        }
        if let Some(context) = self.context {
            properties.add_raw(context, "context", "context")?;
        }
        if let Some((original, sent_at)) = self.originals {
            properties.add("original_timestamp", Value::Timestamp(original));
            properties.add("sent_at", Value::Timestamp(sent_at));
        }
        Ok(Call {
            events: vec![self.row(name.to_owned(), properties.finish())],
            traits: Vec::new(),
        })
    }

    fn identify(self) -> Result<Call, MessageProblem> {
        let mut traits = Properties::default();
        traits.add_object(self.object, "traits", "")?;
        traits.add_nulls(self.object, "");
        // RudderStack's SDKs put them there.
        if let Some(context) = self.context {
            let context = parse(context.get())?;
            traits.add_object(&context, "traits", "")?;
        }
        let traits = traits.finish();
        let mut call = Call::default();
        if !traits.is_empty() {
            call.traits.push(self.traits(traits));
        }
        let anonymous = self.anonymous.clone();
        if let Some(anonymous) = anonymous.filter(|anonymous| *anonymous != self.user) {
            let other = ("anonymous_id".to_owned(), Value::Text(anonymous));
            let name = IDENTIFY_EVENT.to_owned();
            call.events.push(self.row(name, vec![other]));
        }
        Ok(call)
    }

    fn group(&self) -> Result<Call, MessageProblem> {
        let group = text(self.object, "groupId").filter(|id| !id.is_empty());
        let group = group.ok_or(MessageProblem::Missing("groupId"))?;
        let mut traits = Properties::default();
        traits.add("group_id", Value::Text(group.into_owned()));
        traits.add_object(self.object, "traits", "group")?;
        traits.add_nulls(self.object, "group.");
        Ok(Call {
            events: Vec::new(),
            traits: vec![self.traits(traits.finish())],
        })
    }

    fn alias(self) -> Result<Call, MessageProblem> {
        let previous = text(self.object, "previousId").filter(|id| !id.is_empty());
        let previous = previous.ok_or(MessageProblem::Missing("previousId"))?;
        check_length(&previous, "previousId")?;
        let previous = ("previous_id".to_owned(), Value::Text(previous.into_owned()));
        Ok(Call {
            events: vec![self.row(ALIAS_EVENT.to_owned(), vec![previous])],
            traits: Vec::new(),
        })
    }
}

/// Properties by name. Of two values of one name the first counts.
#[derive(Default)]
struct Properties(Flat);

impl Properties {
    fn add(&mut self, name: &str, value: Value) {
        self.0.entries.push((name.to_owned(), value));
    }

    /// Each name once.
    fn finish(mut self) -> Vec<(String, Value)> {
        keep_first(&mut self.0.entries);
        self.0.entries
    }

    /// Traits that are null are taken away.
    fn add_nulls(&mut self, object: &RawObject<'_>, prefix: &str) {
        let traits = field(object, "traits").and_then(|raw| parse_object(raw.get()).ok());
        for (name, raw) in traits.iter().flat_map(|traits| &traits.0) {
            if raw.get() == "null" {
                self.add(&format!("{prefix}{name}"), Value::Null);
            }
        }
    }

    /// Adds what the object in a field holds, below `prefix`.
    fn add_object(
        &mut self,
        object: &RawObject<'_>,
        name: &'static str,
        prefix: &str,
    ) -> Result<(), MessageProblem> {
        match field(object, name) {
            Some(raw) => self.add_raw(raw, name, prefix),
            None => Ok(()),
        }
    }

    fn add_raw(
        &mut self,
        raw: &RawValue,
        name: &'static str,
        prefix: &str,
    ) -> Result<(), MessageProblem> {
        let object = parse_object(raw.get()).map_err(|_| MessageProblem::NoObject(name))?;
        let added = self.0.add_object(&object, prefix, None);
        added.map_err(|error| MessageProblem::NotAnObject(told(&error)))
    }
}

/// A field that is there and not null.
fn field<'a>(object: &RawObject<'a>, name: &str) -> Option<&'a RawValue> {
    let found = object.0.iter().find(|(key, _)| key == name);
    found.map(|(_, raw)| *raw).filter(|raw| raw.get() != "null")
}

/// A field that is a text, or a number as its digits.
fn text<'a>(object: &RawObject<'a>, name: &str) -> Option<Cow<'a, str>> {
    let json = field(object, name)?.get();
    match json.as_bytes().first()? {
        b'"' => flatten::text(json).ok(),
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(json)),
        _ => None,
    }
}

/// A field that is a time: ISO 8601, or a number of seconds, milliseconds …, by its size.
fn time(object: &RawObject<'_>, name: &'static str) -> Result<Option<i64>, MessageProblem> {
    let Some(raw) = field(object, name) else {
        return Ok(None);
    };
    let text = text(object, name).unwrap_or(Cow::Borrowed(raw.get()));
    let number = || {
        let unit = TimeUnit::of_magnitude(epoch_magnitude(&text)?);
        parse_epoch(&text, unit)
    };
    match parse_calendar(&text).or_else(number) {
        Some(time) => Ok(Some(time)),
        None => Err(MessageProblem::Time {
            field: name,
            text: text.chars().take(40).collect(),
        }),
    }
}

/// Checks a call alone, so that it cannot spoil a batch with others.
fn check(call: &Call) -> Result<(), MessageProblem> {
    for row in call.events.iter().chain(&call.traits) {
        check_name(&row.user, "the user id", Problem::NoUser)?;
        check_length(&row.name, "the event name")?;
        check_length(&row.message_id, "the message id")?;
        check_properties(&row.properties)?;
    }
    Ok(())
}

impl Row {
    pub(super) fn as_new(&self) -> NewRow<'_> {
        NewRow {
            user: &self.user,
            time: self.time,
            name: &self.name,
            message_id: &self.message_id,
            properties: &self.properties,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000_000;

    fn one(kind: Kind, json: &str) -> Result<Call, MessageProblem> {
        read_body(json, Some(kind), NOW, &mut |_| true)?
            .pop()
            .unwrap()
    }

    fn entry(name: &str, value: impl Into<Value>) -> (String, Value) {
        (name.to_owned(), value.into())
    }

    #[test]
    fn a_track_is_an_event_with_its_properties_and_context() {
        let call = one(
            Kind::Track,
            r#"{"userId": 7, "event": "Order Completed", "messageId": "m1", "properties":
                {"revenue": 12.5, "products": [{"sku": "a"}, {"sku": "b"}]},
                "context": {"ip": "1.2.3.4", "page": {"path": "/x"}}, "integrations": {}}"#,
        );
        let skus = Value::List(vec!["a".into(), "b".into()]);
        let expected = Row {
            user: "7".to_owned(),
            time: NOW,
            name: "Order Completed".to_owned(),
            message_id: "m1".to_owned(),
            properties: vec![
                entry("revenue", 12.5),
                entry("products[].sku", skus),
                entry("context.ip", "1.2.3.4"),
                entry("context.page.path", "/x"),
            ],
        };
        assert_eq!(call.unwrap().events, [expected]);
    }

    #[test]
    fn a_wrong_clock_is_corrected_and_told() {
        let call = one(
            Kind::Page,
            r#"{"anonymousId": "a", "name": "Home", "properties": {"name": "kept"},
                "timestamp": "2020-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:05.000Z"}"#,
        );
        let event = call.unwrap().events.remove(0);
        assert_eq!((event.name.as_str(), event.user.as_str()), ("page", "a"));
        assert_eq!(event.time, NOW - 5_000_000);
        let original = Value::Timestamp(1_577_836_800_000_000);
        let sent_at = Value::Timestamp(1_577_836_805_000_000);
        assert_eq!(
            event.properties,
            [
                entry("name", "kept"),
                entry("original_timestamp", original),
                entry("sent_at", sent_at)
            ]
        );
    }

    #[test]
    fn without_sent_at_the_time_is_the_clients() {
        let json = r#"{"userId": "u", "event": "e", "timestamp": "2020-01-01T00:00:00Z"}"#;
        let event = one(Kind::Track, json).unwrap().events.remove(0);
        assert_eq!(event.time, 1_577_836_800_000_000);
        assert!(event.properties.is_empty());
    }

    #[test]
    fn identify_sets_traits_and_keeps_the_anonymous_id() {
        let json = r#"{"userId": "u", "anonymousId": "a", "messageId": "m",
            "traits": {"plan": "gold", "old": null}}"#;
        let call = one(Kind::Identify, json).unwrap();
        // One of them must not make the other one a duplicate.
        assert_eq!(
            (&*call.traits[0].message_id, &*call.events[0].message_id),
            ("", "m")
        );
        let expected = [entry("plan", "gold"), ("old".to_owned(), Value::Null)];
        assert_eq!(call.traits[0].properties, expected);
        assert_eq!(call.events[0].name, IDENTIFY_EVENT);
        assert_eq!(call.events[0].properties, [entry("anonymous_id", "a")]);
        let json = r#"{"anonymousId": "a", "context": {"traits": {"plan": "gold"}}}"#;
        let call = one(Kind::Identify, json).unwrap();
        assert_eq!(call.traits[0].properties, [entry("plan", "gold")]);
        assert!(call.events.is_empty());
    }

    #[test]
    fn groups_and_aliases() {
        let json = r#"{"userId": "u", "groupId": 5, "traits": {"size": 3}}"#;
        let call = one(Kind::Group, json).unwrap();
        let expected = [entry("group_id", "5"), entry("group.size", 3)];
        assert_eq!(call.traits[0].properties, expected);
        let json = r#"{"userId": "u", "previousId": "p"}"#;
        let call = one(Kind::Alias, json).unwrap();
        assert_eq!(call.events[0].name, ALIAS_EVENT);
        assert_eq!(call.events[0].properties, [entry("previous_id", "p")]);
    }

    #[test]
    fn a_context_that_all_inherit_is_counted_for_each() {
        let context = "x".repeat(1_000);
        let calls = vec![r#"{"type": "track", "userId": "u", "event": "e"}"#; 1_000].join(",");
        let json = format!(r#"{{"context": {{"a": "{context}"}}, "batch": [{calls}]}}"#);
        let mut room = 100_000_usize;
        let mut take = |bytes| {
            room = room.saturating_sub(bytes);
            room > 0
        };
        let read = read_body(&json, None, NOW, &mut take);
        assert_eq!(read, Err(MessageProblem::NoRoom));
    }

    #[test]
    fn calls_that_are_refused_take_room_too() {
        let json = format!(r#"{{"batch": [{}]}}"#, vec!["0"; 1_000].join(","));
        let mut room = 100_000_usize;
        let mut take = |bytes| {
            room = room.saturating_sub(bytes);
            room > 0
        };
        let read = read_body(&json, None, NOW, &mut take);
        assert_eq!(read, Err(MessageProblem::NoRoom));
    }

    #[test]
    fn of_many_properties_of_one_name_the_first_counts() {
        for count in [3, 40] {
            let properties =
                (0..count).map(|number| format!(r#""p{}": {number}"#, number % (count - 1)));
            let properties = properties.collect::<Vec<_>>().join(",");
            let json =
                format!(r#"{{"userId": "u", "event": "e", "properties": {{{properties}}}}}"#);
            let call = one(Kind::Track, &json).unwrap();
            let expected = (0..count - 1).map(|number| entry(&format!("p{number}"), number));
            assert!(call.events[0].properties.iter().cloned().eq(expected));
        }
    }

    #[test]
    fn a_bad_call_does_not_fail_its_batch() {
        let body = read_body(
            r#"{"writeKey": "k", "sentAt": "2026-01-01T00:00:00Z", "context": {"library": {"name": "x"}}, "batch": [
                {"type": "track", "userId": "u", "event": "e"},
                {"type": "track", "userId": "u"},
                {"type": "nothing", "userId": "u"},
                {"type": "track", "event": "e"},
                {"type": "track", "userId": "u", "event": "e", "timestamp": "soon"},
                {"type": "track", "userId": "u", "event": "e", "properties": 5},
                7]}"#,
            None,
            NOW,
            &mut |_| true,
        )
        .unwrap();
        let problems: Vec<_> = body[1..]
            .iter()
            .map(|call| call.as_ref().unwrap_err().to_string())
            .collect();
        assert_eq!(
            problems[..5],
            [
                "`event` must be a text",
                "`type` must be track, identify, page, screen, group or alias",
                "`userId` or `anonymousId` must be a text or a number",
                "`timestamp` is no time: `soon`; send ISO 8601, as 2026-01-31T12:00:00.000Z",
                "`properties` must be an object",
            ]
        );
        assert!(problems[5].starts_with("it is no JSON object"));
        let first = body[0].as_ref().unwrap();
        let expected = [entry("context.library.name", "x")];
        assert_eq!(first.events[0].properties, expected);
    }

    #[test]
    fn what_is_no_batch_is_told() {
        let long = format!(r#"{{"batch": "{}"}}"#, "x".repeat(10_000));
        for json in ["", "[]", "{}", r#"{"batch": {}}"#, "{\"batch\": [}", &long] {
            let problem = read_body(json, None, NOW, &mut |_| true).unwrap_err();
            assert!(matches!(&problem, MessageProblem::NoBatch(told) if told.len() < 300));
        }
        assert_eq!(write_key(r#"{"writeKey": "k"}"#), Ok(Some("k".to_owned())));
        let far = r#"{"userId": "u", "event": "e", "timestamp": "2999-01-01T00:00:00Z"}"#;
        assert_eq!(one(Kind::Track, far), Err(MessageProblem::FarTime));
        let long = format!(r#"{{"userId": "{}", "event": "e"}}"#, "u".repeat(256));
        assert!(matches!(
            one(Kind::Track, &long),
            Err(MessageProblem::Limit(_))
        ));
    }
}
