//! One JSON object a line: an event each, or an array of events to explode.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pugmark_engine::Value;

use super::building::{Building, NewRow};
use super::error::{ImportError, Place, Problem};
use super::flatten::{Flat, RawObject, find_path, parse_array, parse_object};
use super::input::{Line, Stream, read_line};
use super::naming::{Namer, check_length, check_name};
use super::options::{ColumnType, ImportOptions, TimeUnit};
use super::rejects::Rejects;
use super::source::{RowSource, SourceBatch};
use super::time::{TimeReader, epoch_magnitude};

/// What a first reading of a file finds.
#[derive(Debug)]
pub(crate) struct Survey {
    times: TimeReader,
    /// Lines that are not empty.
    pub(crate) rows: u64,
}

/// Reads a whole stream for the unit of its numeric times; not needed where that is given.
pub(crate) fn survey(
    file: &Path,
    mut stream: Stream,
    options: &ImportOptions,
) -> Result<Survey, ImportError> {
    let known = options.time_format.is_some() || options.time_unit.is_some();
    let (mut rows, mut largest) = (0, 0);
    let mut line = Vec::new();
    loop {
        let read = read_line(stream.as_mut(), &mut line);
        match read.map_err(|error| ImportError::io("read", file, error))? {
            Line::End => break,
            Line::TooLong => rows += 1,
            Line::Read if line.trim_ascii().is_empty() => {}
            Line::Read => {
                rows += 1;
                if rows == 1 && line.trim_ascii_start().starts_with(b"[") {
                    let problem = "is one JSON array; give one object a line, as `jq -c .[]` does";
                    return Err(ImportError::Contents {
                        path: file.to_owned(),
                        problem,
                    });
                }
                if !known {
                    largest = largest.max(largest_time(&line, options));
                }
            }
        }
    }
    let unit = options.time_unit.unwrap_or(TimeUnit::of_magnitude(largest));
    let times = TimeReader {
        unit,
        format: options.time_format.clone(),
    };
    Ok(Survey { times, rows })
}

/// The largest numeric time of a line, 0 where there is none.
fn largest_time(line: &[u8], options: &ImportOptions) -> u64 {
    let Some(object) = std::str::from_utf8(line)
        .ok()
        .and_then(|line| parse_object(line).ok())
    else {
        return 0;
    };
    let magnitude = |object: &RawObject<'_>| {
        let raw = find_path(object, &options.time)?;
        epoch_magnitude(raw.get().trim_matches('"'))
    };
    let own = magnitude(&object).unwrap_or(0);
    let elements = options
        .explode
        .as_ref()
        .and_then(|path| find_path(&object, path));
    let elements = elements
        .and_then(|raw| parse_array(raw.get()).ok())
        .unwrap_or_default();
    let inner = elements
        .iter()
        .filter_map(|raw| magnitude(&parse_object(raw.get()).ok()?));
    inner.max().unwrap_or(0).max(own)
}

/// A file of JSON lines being loaded.
pub(crate) struct Ndjson {
    file: PathBuf,
    stream: Stream,
    options: ImportOptions,
    namer: Namer<String>,
    times: TimeReader,
    line_number: u64,
    rows_done: u64,
    kept_as_text: BTreeMap<String, u64>,
}

impl Ndjson {
    /// Loads a stream from its line `skip` (empty ones not counted) on.
    pub(crate) fn open(
        file: &Path,
        mut stream: Stream,
        options: &ImportOptions,
        survey: Survey,
        skip: u64,
    ) -> Result<Self, ImportError> {
        let (mut line_number, mut rows_done) = (0, 0);
        let mut line = Vec::new();
        while rows_done < skip {
            let read = read_line(stream.as_mut(), &mut line);
            match read.map_err(|error| ImportError::io("read", file, error))? {
                Line::End => break,
                Line::Read if line.trim_ascii().is_empty() => {}
                Line::Read | Line::TooLong => rows_done += 1,
            }
            line_number += 1;
        }
        let find = |column: &str| Ok::<String, ImportError>(column.to_owned());
        Ok(Self {
            file: file.to_owned(),
            stream,
            namer: Namer::new(&options.naming, find)?,
            options: options.clone(),
            times: survey.times,
            line_number,
            rows_done,
            kept_as_text: BTreeMap::new(),
        })
    }

    /// Adds the event or events of a line; events of one line stand and fall alone.
    fn take_line(
        &mut self,
        line: &[u8],
        building: &mut Building,
        rejects: &mut Rejects,
    ) -> Result<(), ImportError> {
        let place = Place::Line(self.line_number);
        let events = match self.events_of(line) {
            Ok(events) => events,
            Err(problem) => return rejects.reject(place, &problem, line),
        };
        for event in events {
            if let Err(problem) = event.and_then(|event| self.take_event(event, building)) {
                rejects.reject(place, &problem, line)?;
            }
        }
        Ok(())
    }

    /// The flattened events of a line.
    fn events_of(&self, line: &[u8]) -> Result<Vec<Result<Flat, Problem>>, Problem> {
        let line = std::str::from_utf8(line).map_err(|_| Problem::NotUtf8)?;
        let object = parse_object(line).map_err(|error| json_problem(&error))?;
        let mut parent = Flat::default();
        let Some(path) = &self.options.explode else {
            parent
                .add_object(&object, "", None)
                .map_err(|error| json_problem(&error))?;
            return Ok(vec![Ok(parent)]);
        };
        parent
            .add_object(&object, "", Some(path))
            .map_err(|error| json_problem(&error))?;
        let not_exploded = || Problem::NotExploded { path: path.clone() };
        let array = find_path(&object, path).ok_or_else(not_exploded)?;
        let elements = parse_array(array.get()).map_err(|_| not_exploded())?;
        let event = |raw: &serde_json::value::RawValue| {
            let inner = parse_object(raw.get()).map_err(|_| not_exploded())?;
            let mut event = Flat::default();
            event
                .add_object(&inner, "", None)
                .map_err(|error| json_problem(&error))?;
            inherit(&mut event, &parent);
            Ok(event)
        };
        Ok(elements.into_iter().map(event).collect())
    }

    /// Checks everything before it adds anything.
    fn take_event(&mut self, mut event: Flat, building: &mut Building) -> Result<(), Problem> {
        let options = &self.options;
        let text_of = |path: &str| match event.entries.iter().find(|(name, _)| name == path) {
            Some((_, Value::Text(text))) => Cow::Borrowed(text.as_str()),
            Some((_, value)) => match value.as_scalar() {
                Some(scalar) => Cow::Owned(scalar.canonical_text().into_owned()),
                None => Cow::Borrowed(""),
            },
            None => Cow::Borrowed(""),
        };
        let user = text_of(&options.user).into_owned();
        check_name(&user, "the user id", Problem::NoUser)?;
        let time = text_of(&options.time);
        if time.is_empty() {
            return Err(Problem::NoTime);
        }
        let time = self
            .times
            .read(&time)
            .ok_or_else(|| Problem::bad_time(&time))?;
        let name = self
            .namer
            .name(|path| Cow::Owned(text_of(path).into_owned()))?
            .into_owned();
        let message_id = options
            .message_id
            .as_ref()
            .map_or_else(String::new, |path| text_of(path).into_owned());
        check_length(&message_id, "the message id")?;
        event.entries.retain(|(path, _)| options.is_property(path));
        self.convert(&mut event);
        building.add(&NewRow {
            user: &user,
            time,
            name: &name,
            message_id: &message_id,
            properties: &event.entries,
        })
    }

    /// Gives values the types asked for, where their text allows it.
    fn convert(&mut self, event: &mut Flat) {
        for (path, kind) in &self.options.types {
            let Some((_, value)) = event.entries.iter_mut().find(|(name, _)| name == path) else {
                continue;
            };
            let values = match value {
                Value::List(values) => values.as_mut_slice(),
                single => std::slice::from_mut(single),
            };
            for value in values {
                let Some(scalar) = value.as_scalar() else {
                    continue;
                };
                let text = scalar.canonical_text();
                match typed(&text, *kind, &self.times) {
                    Some(converted) => *value = converted,
                    None => *self.kept_as_text.entry(path.clone()).or_default() += 1,
                }
            }
        }
    }
}

fn typed(text: &str, kind: ColumnType, times: &TimeReader) -> Option<Value> {
    match kind {
        ColumnType::Text => Some(Value::from(text)),
        ColumnType::I64 => text.parse().ok().map(Value::I64),
        ColumnType::F64 => text.parse().ok().map(Value::F64),
        ColumnType::Bool => text.parse().ok().map(Value::Bool),
        ColumnType::Timestamp => times.read(text).map(Value::Timestamp),
    }
}

fn json_problem(error: &serde_json::Error) -> Problem {
    Problem::Json {
        problem: error.to_string(),
    }
}

/// Gives an event what its parent has and it has not.
fn inherit(event: &mut Flat, parent: &Flat) {
    let own = event.entries.len();
    for (path, value) in &parent.entries {
        if !event.entries[..own].iter().any(|(name, _)| name == path) {
            event.entries.push((path.clone(), value.clone()));
        }
    }
}

impl RowSource for Ndjson {
    fn next_batch(&mut self, rejects: &mut Rejects) -> Result<Option<SourceBatch>, ImportError> {
        let mut building = Building::new();
        let before = self.rows_done;
        let mut line = Vec::new();
        while !building.is_full() {
            let read = read_line(self.stream.as_mut(), &mut line);
            let read = read.map_err(|error| ImportError::io("read", &self.file, error))?;
            if read == Line::End {
                break;
            }
            self.line_number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            self.rows_done += 1;
            if read == Line::TooLong {
                rejects.reject(Place::Line(self.line_number), &Problem::RowTooLong, &line)?;
                continue;
            }
            self.take_line(&line, &mut building, rejects)?;
        }
        if self.rows_done == before {
            return Ok(None);
        }
        let batch = building.into_builder().finish()?;
        Ok(Some(SourceBatch {
            batch,
            rows_done: self.rows_done,
        }))
    }

    fn kept_as_text(&self) -> BTreeMap<String, u64> {
        self.kept_as_text.clone()
    }
}
