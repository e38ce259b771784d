//! JSON objects as flat lists of properties.
//!
//! Objects inside objects are joined with dots; an array of scalars is multi-valued; an array of
//! objects gives one multi-valued property for each of their keys, `products[].sku`. Numbers keep
//! their digits: an integer beyond 64 bits becomes text rather than another number.

use std::borrow::Cow;

use hashbrown::HashMap;
use pugmark_engine::ids::canonical_integer;
use pugmark_engine::{Value, limits};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as _, Deserializer as _};
use serde_json::value::RawValue;

/// Objects and arrays inside each other: more are refused, so that reading them takes little stack
/// and each byte is looked at a bounded number of times.
const MAX_DEPTH: usize = 64;
/// Properties for which room is made at once: as many as most events have.
const RESERVED: usize = 16;

/// Keys and raw values of one object, in the order given.
pub(crate) struct RawObject<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// A text, which is borrowed where it has no escapes.
pub(crate) fn text(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    let Key(text) = serde_json::from_str(json)?;
    Ok(text)
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = RawObject<'de>;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(RawObject(entries))
    }
}

/// Elements of an array.
struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> serde::Deserialize<'de> for Elements<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ElementsVisitor)
    }
}

struct ElementsVisitor;

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Elements<'de>;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            elements.push(element);
        }
        Ok(Elements(elements))
    }
}

/// Reads an object; what follows it on the line is an error.
pub(crate) fn parse_object(json: &str) -> Result<RawObject<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let object = deserializer.deserialize_map(ObjectVisitor)?;
    deserializer.end()?;
    Ok(object)
}

/// An object with a list in one of its fields, in one pass.
pub(crate) struct Listing<'a> {
    /// The fields beside it.
    pub(crate) object: RawObject<'a>,
    pub(crate) elements: Vec<&'a RawValue>,
}

/// Reads an object whose field `list` must be an array.
pub(crate) fn parse_listing<'a>(
    json: &'a str,
    list: &'static str,
) -> Result<Listing<'a>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let listing = deserializer.deserialize_map(ListingVisitor(list))?;
    deserializer.end()?;
    Ok(listing)
}

struct ListingVisitor(&'static str);

impl<'de> Visitor<'de> for ListingVisitor {
    type Value = Listing<'de>;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listing<'de>, A::Error> {
        let (mut entries, mut elements) = (Vec::new(), None);
        while let Some(Key(key)) = map.next_key()? {
            if key == self.0 && elements.is_none() {
                let Elements(found) = map.next_value()?;
                elements = Some(found);
            } else {
                entries.push((key, map.next_value()?));
            }
        }
        let missing = || serde::de::Error::missing_field(self.0);
        Ok(Listing {
            object: RawObject(entries),
            elements: elements.ok_or_else(missing)?,
        })
    }
}

/// Reads an array.
pub(crate) fn parse_array(json: &str) -> Result<Vec<&RawValue>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let Elements(elements) = Elements::deserialize(&mut deserializer)?;
    Ok(elements)
}

/// A scalar's value, or `None` for null. Objects and arrays are the caller's.
pub(crate) fn scalar(json: &str) -> Result<Option<Value>, serde_json::Error> {
    Ok(match json.as_bytes().first() {
        Some(b'n') | None => None,
        Some(b't') => Some(Value::Bool(true)),
        Some(b'f') => Some(Value::Bool(false)),
        Some(b'"') => Some(Value::Text(serde_json::from_str(json)?)),
        Some(_) => Some(number(json)),
    })
}

fn number(json: &str) -> Value {
    if let Some(integer) = canonical_integer(json) {
        return Value::I64(integer);
    }
    let is_float = json.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) || json == "-0";
    match json.parse::<f64>() {
        Ok(value) if is_float && value.is_finite() => Value::F64(value),
        _ => Value::Text(json.to_owned()),
    }
}

/// Properties under construction: paths with their values.
#[derive(Debug, Default)]
pub(crate) struct Flat {
    pub(crate) entries: Vec<(String, Value)>,
}

impl Flat {
    /// Adds everything in `object`, below `prefix` unless that is empty, but the path `except`.
    pub(crate) fn add_object(
        &mut self,
        object: &RawObject<'_>,
        prefix: &str,
        except: Option<&str>,
    ) -> Result<(), serde_json::Error> {
        self.add_below(object, prefix, except, 1)
    }

    fn add_below(
        &mut self,
        object: &RawObject<'_>,
        prefix: &str,
        except: Option<&str>,
        depth: usize,
    ) -> Result<(), serde_json::Error> {
        check_depth(depth)?;
        self.entries.reserve(object.0.len().min(RESERVED));
        for (key, raw) in &object.0 {
            check_count(self.entries.len())?;
            let path = join(prefix, key);
            if except == Some(path.as_str()) {
                continue;
            }
            let json = raw.get();
            match json.as_bytes().first() {
                Some(b'{') => self.add_below(&parse_object(json)?, &path, except, depth + 1)?,
                Some(b'[') => self.add_array(json, &path, depth + 1)?,
                _ => {
                    if let Some(value) = scalar(json)? {
                        self.entries.push((path, value));
                    }
                }
            }
        }
        Ok(())
    }

    fn add_array(&mut self, json: &str, path: &str, depth: usize) -> Result<(), serde_json::Error> {
        let mut lists = Lists::default();
        lists.add(json, path, path, depth)?;
        let lists = lists
            .entries
            .into_iter()
            .map(|(path, values)| (path, Value::List(values)));
        self.entries.extend(lists);
        Ok(())
    }
}

/// The multi-valued properties that one array gives.
#[derive(Default)]
struct Lists {
    entries: Vec<(String, Vec<Value>)>,
    index: HashMap<String, usize>,
}

impl Lists {
    /// Adds a value at `path`, the keys of an object below `below`. Arrays inside arrays are run
    /// together.
    fn add(
        &mut self,
        json: &str,
        path: &str,
        below: &str,
        depth: usize,
    ) -> Result<(), serde_json::Error> {
        check_depth(depth)?;
        match json.as_bytes().first() {
            Some(b'{') => {
                for (key, raw) in &parse_object(json)?.0 {
                    check_count(self.entries.len())?;
                    let path = join(below, key);
                    self.add(raw.get(), &path, &path, depth + 1)?;
                }
            }
            Some(b'[') => {
                let below = format!("{path}[]");
                for element in parse_array(json)? {
                    self.add(element.get(), path, &below, depth + 1)?;
                }
            }
            _ => {
                if let Some(value) = scalar(json)? {
                    self.push(path, value);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, path: &str, value: Value) {
        let at = *self.index.entry_ref(path).or_insert_with(|| {
            self.entries.push((path.to_owned(), Vec::new()));
            self.entries.len() - 1
        });
        self.entries[at].1.push(value);
    }
}

fn check_depth(depth: usize) -> Result<(), serde_json::Error> {
    if depth > MAX_DEPTH {
        return Err(serde::de::Error::custom("nested deeper than 64"));
    }
    Ok(())
}

/// The path of a key. Of keys that are much longer than a property's name may be, a part will do to be
/// refused by: every leaf below repeats it.
fn join(prefix: &str, key: &str) -> String {
    let key = match key.len() > LONGEST_KEY {
        true => &key[..key.floor_char_boundary(LONGEST_KEY)],
        false => key,
    };
    match prefix {
        "" => key.to_owned(),
        prefix if prefix.len() > LONGEST_KEY => prefix.to_owned(),
        prefix => format!("{prefix}.{key}"),
    }
}

/// Longer than the name of any property.
const LONGEST_KEY: usize = 2 * limits::MAX_PROPERTY_NAME_BYTES;

fn check_count(count: usize) -> Result<(), serde_json::Error> {
    if count > limits::MAX_BATCH_PROPERTIES {
        return Err(serde::de::Error::custom(
            "more properties than a batch may have",
        ));
    }
    Ok(())
}

/// The raw value at a dotted path: a key with dots in it, or keys inside keys.
pub(crate) fn find_path<'a>(object: &RawObject<'a>, path: &str) -> Option<&'a RawValue> {
    find_below(object, path, 1)
}

fn find_below<'a>(object: &RawObject<'a>, path: &str, depth: usize) -> Option<&'a RawValue> {
    check_depth(depth).ok()?;
    for (key, raw) in &object.0 {
        if key == path {
            return Some(raw);
        }
        let Some(rest) = path
            .strip_prefix(key.as_ref())
            .and_then(|rest| rest.strip_prefix('.'))
        else {
            continue;
        };
        if raw.get().starts_with('{')
            && let Ok(inner) = parse_object(raw.get())
            && let Some(found) = find_below(&inner, rest, depth + 1)
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(json: &str) -> Vec<(String, Value)> {
        let mut flat = Flat::default();
        let object = parse_object(json).unwrap();
        flat.add_object(&object, "", None).unwrap();
        flat.entries
    }

    fn entry(path: &str, value: impl Into<Value>) -> (String, Value) {
        (path.to_owned(), value.into())
    }

    #[test]
    fn scalars_keep_their_digits() {
        let json = r#"{"a":1,"b":-2.50,"c":"x\u00e9\n","d":true,"e":null,"f":18446744073709551615,
            "g":1e3,"h":"","i":9007199254740993,"j":-0,"k":1e999}"#;
        assert_eq!(
            flat(json),
            [
                entry("a", 1),
                entry("b", -2.5),
                entry("c", "xé\n"),
                entry("d", true),
                entry("f", "18446744073709551615"),
                entry("g", 1000.0),
                entry("h", ""),
                entry("i", 9_007_199_254_740_993),
                entry("j", -0.0),
                entry("k", "1e999"),
            ]
        );
    }

    #[test]
    fn nesting() {
        let json = r#"{"u":{"id":5,"geo":{"c":"DE"}},"tags":["a",null,2],"none":[],"e":{},
            "p":[{"sku":"x","n":1,"t":["q","r"]},{"sku":"y","in":{"z":1}},7],"m":[[1,2],[3]]}"#;
        let list = |values: Vec<Value>| Value::List(values);
        assert_eq!(
            flat(json),
            [
                entry("u.id", 5),
                entry("u.geo.c", "DE"),
                ("tags".to_owned(), list(vec!["a".into(), 2.into()])),
                ("p[].sku".to_owned(), list(vec!["x".into(), "y".into()])),
                ("p[].n".to_owned(), list(vec![1.into()])),
                ("p[].t".to_owned(), list(vec!["q".into(), "r".into()])),
                ("p[].in.z".to_owned(), list(vec![1.into()])),
                ("p".to_owned(), list(vec![7.into()])),
                ("m".to_owned(), list(vec![1.into(), 2.into(), 3.into()])),
            ]
        );
    }

    #[test]
    fn paths() {
        let object = parse_object(r#"{"a.b":1,"c":{"d":{"e":2}},"c.d":{"f":3}}"#).unwrap();
        let find = |path| find_path(&object, path).map(RawValue::get);
        assert_eq!(find("a.b"), Some("1"));
        assert_eq!(find("c.d.e"), Some("2"));
        assert_eq!(find("c.d.f"), Some("3"));
        assert_eq!(find("c.x"), None);
    }

    #[test]
    fn bad_lines() {
        for bad in ["", "1", "[1]", "{", "{\"a\":}", "{} x", "{\"a\":1,}", "nul"] {
            assert!(parse_object(bad).is_err(), "{bad}");
        }
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let nested = |depth: usize| {
                let json = format!("{{\"a\":{}1{}}}", open.repeat(depth), close.repeat(depth));
                Flat::default().add_object(&parse_object(&json).unwrap(), "", None)
            };
            assert!(nested(30).is_ok(), "{open}");
            assert!(nested(100_000).is_err(), "{open}");
        }
        let path = "a.".repeat(100_000);
        let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        assert!(find_path(&parse_object(&deep).unwrap(), &path).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(json in "[\\[\\]{}\",:a1.\\-\\\\utrue]{0,60}") {
            if let Ok(object) = parse_object(&json) {
                Flat::default().add_object(&object, "", None).unwrap();
            }
        }
    }
}
