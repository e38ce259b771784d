//! Rows of fields between delimiters: CSV, TSV, columns separated by blanks.
//!
//! A file is read twice: a survey finds each column's narrowest type and the unit of numeric
//! times, then the load builds batches with them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::{ByteRecord, StringRecord};
use pugmark_engine::batch::Property;
use pugmark_engine::{BatchColumns, EventBatch};

use super::columns::{ColumnBuilder, TextBuilder, UserBuilder};
use super::error::{ImportError, Place, Problem};
use super::infer::Inference;
use super::input::{Line, MAX_ROW_BYTES, Stream, read_line};
use super::naming::{Namer, check_length, check_name, check_text};
use super::options::{ColumnType, Delimiter, ImportOptions, TimeUnit};
use super::rejects::Rejects;
use super::source::{BATCH_ROWS, BATCH_TEXT_BYTES, RowSource, SourceBatch};
use super::time::{TimeReader, epoch_magnitude};

/// Rows of a stream, with the places they come from.
struct Records {
    file: std::path::PathBuf,
    reader: Reader,
    columns: Vec<String>,
}

enum Reader {
    Separated {
        reader: Box<csv::Reader<RowGuard>>,
        guard: Arc<AtomicU64>,
    },
    Blanks {
        stream: Stream,
        line: Vec<u8>,
        number: u64,
    },
}

/// Stops a row that never ends: an unclosed quote would otherwise be read up to the file's end.
struct RowGuard {
    stream: Stream,
    row_bytes: Arc<AtomicU64>,
}

impl Read for RowGuard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        if self.row_bytes.fetch_add(count as u64, Ordering::Relaxed) > MAX_ROW_BYTES {
            let message = "a row is longer than 64 MiB; is a quote not closed? (see --no-quotes)";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(count)
    }
}

impl Records {
    /// Opens a stream and reads the names of its columns.
    fn open(
        file: &Path,
        stream: Stream,
        delimiter: Delimiter,
        options: &ImportOptions,
    ) -> Result<Self, ImportError> {
        let reader = match delimiter {
            Delimiter::Blanks => Reader::Blanks {
                stream,
                line: Vec::new(),
                number: 0,
            },
            Delimiter::Byte(byte) => {
                let guard = Arc::new(AtomicU64::new(0));
                let row_bytes = Arc::clone(&guard);
                let reader = csv::ReaderBuilder::new()
                    .delimiter(byte)
                    .quoting(options.quotes)
                    .has_headers(false)
                    .flexible(true)
                    .buffer_capacity(256 << 10)
                    .from_reader(RowGuard { stream, row_bytes });
                Reader::Separated {
                    reader: Box::new(reader),
                    guard,
                }
            }
        };
        let mut records = Self {
            file: file.to_owned(),
            reader,
            columns: Vec::new(),
        };
        records.columns = match &options.columns {
            Some(columns) => columns.clone(),
            None => records.read_names()?,
        };
        records.check_names()?;
        Ok(records)
    }

    fn read_names(&mut self) -> Result<Vec<String>, ImportError> {
        let mut names = ByteRecord::new();
        self.read(&mut names)?;
        let problem = "the row of column names is not UTF-8";
        let path = self.file.clone();
        let names = StringRecord::from_byte_record(names)
            .map_err(|_| ImportError::Contents { path, problem })?;
        // A column without a name (the index that data frames write) gets its number.
        let name = |(at, name): (usize, &str)| match name.trim() {
            "" => format!("column_{}", at + 1),
            name => name.to_owned(),
        };
        Ok(names.iter().enumerate().map(name).collect())
    }

    fn check_names(&self) -> Result<(), ImportError> {
        let mut seen = hashbrown::HashSet::new();
        match self.columns.iter().find(|&column| !seen.insert(column)) {
            Some(column) => Err(ImportError::ColumnTwice {
                path: self.file.clone(),
                column: column.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The next row; false at the end.
    fn read(&mut self, record: &mut ByteRecord) -> Result<bool, ImportError> {
        match &mut self.reader {
            Reader::Separated { reader, guard } => {
                guard.store(0, Ordering::Relaxed);
                reader
                    .read_byte_record(record)
                    .map_err(|error| ImportError::io("read", &self.file, error.into()))
            }
            Reader::Blanks {
                stream,
                line,
                number,
            } => loop {
                *number += 1;
                let read = read_line(stream.as_mut(), line);
                match read.map_err(|error| ImportError::io("read", &self.file, error))? {
                    Line::End => return Ok(false),
                    Line::TooLong => {
                        let problem = "a line is longer than 64 MiB";
                        return Err(ImportError::Contents {
                            path: self.file.clone(),
                            problem,
                        });
                    }
                    Line::Read if line.trim_ascii().is_empty() => {}
                    Line::Read => {
                        record.clear();
                        let fields = line.split(u8::is_ascii_whitespace);
                        fields.filter(|field| !field.is_empty()).for_each(|field| {
                            record.push_field(field);
                        });
                        let mut position = csv::Position::new();
                        position.set_line(*number);
                        record.set_position(Some(position));
                        return Ok(true);
                    }
                }
            },
        }
    }

    fn find(&self, column: &str) -> Result<usize, ImportError> {
        let found = self.columns.iter().position(|name| name == column);
        found.ok_or_else(|| ImportError::NoColumn {
            path: self.file.clone(),
            column: column.to_owned(),
            columns: self.columns.clone(),
        })
    }
}

/// Which column is what.
#[derive(Debug)]
struct Layout {
    user: usize,
    time: usize,
    namer: Namer<usize>,
    message_id: Option<usize>,
    /// Columns that become properties.
    properties: Vec<usize>,
}

impl Layout {
    fn new(records: &Records, options: &ImportOptions) -> Result<Self, ImportError> {
        for (column, _) in &options.types {
            records.find(column)?;
        }
        let properties = records.columns.iter().enumerate();
        Ok(Self {
            user: records.find(&options.user)?,
            time: records.find(&options.time)?,
            namer: Namer::new(&options.naming, |column| records.find(column))?,
            message_id: match &options.message_id {
                Some(column) => Some(records.find(column)?),
                None => None,
            },
            properties: properties
                .filter(|(_, name)| options.is_property(name))
                .map(|(at, _)| at)
                .collect(),
        })
    }
}

/// The fields of a row as text, if there are as many as columns and all are UTF-8.
fn text_fields(record: &mut ByteRecord, columns: usize) -> Result<StringRecord, Problem> {
    let found = record.len();
    if found != columns {
        return Err(Problem::Fields {
            found,
            expected: columns,
        });
    }
    StringRecord::from_byte_record(std::mem::take(record)).map_err(|error| {
        *record = error.into_byte_record();
        Problem::NotUtf8
    })
}

/// What a first reading of a file finds.
#[derive(Debug)]
pub(crate) struct Survey {
    kinds: Vec<ColumnType>,
    times: TimeReader,
    /// Rows, refused ones included.
    pub(crate) rows: u64,
}

/// Reads the names of the columns and finds those that are asked for.
pub(crate) fn check(
    file: &Path,
    stream: Stream,
    delimiter: Delimiter,
    options: &ImportOptions,
) -> Result<(), ImportError> {
    Layout::new(&Records::open(file, stream, delimiter, options)?, options).map(|_| ())
}

/// Reads a whole stream for its types.
pub(crate) fn survey(
    file: &Path,
    stream: Stream,
    delimiter: Delimiter,
    options: &ImportOptions,
) -> Result<Survey, ImportError> {
    let mut records = Records::open(file, stream, delimiter, options)?;
    let layout = Layout::new(&records, options)?;
    let wanted: Vec<usize> = layout
        .properties
        .iter()
        .copied()
        .filter(|&at| options.type_of(&records.columns[at]).is_none())
        .collect();
    let mut inferences = vec![Inference::new(); records.columns.len()];
    let (mut rows, mut largest) = (0, 0);
    let mut bytes = ByteRecord::new();
    while records.read(&mut bytes)? {
        rows += 1;
        let Ok(record) = text_fields(&mut bytes, records.columns.len()) else {
            continue;
        };
        // Rows without a user are refused later, so their values decide nothing.
        if !record[layout.user].is_empty() {
            for &at in &wanted {
                if !record[at].is_empty() {
                    inferences[at].see(&record[at]);
                }
            }
            largest = largest.max(epoch_magnitude(&record[layout.time]).unwrap_or(0));
        }
        bytes = record.into_byte_record();
    }
    let kind = |(at, column): (usize, &String)| {
        options
            .type_of(column)
            .unwrap_or_else(|| inferences[at].column_type())
    };
    let kinds = records.columns.iter().enumerate().map(kind).collect();
    let unit = options.time_unit.unwrap_or(TimeUnit::of_magnitude(largest));
    let times = TimeReader {
        unit,
        format: options.time_format.clone(),
    };
    Ok(Survey { kinds, times, rows })
}

/// A file of delimited rows being loaded.
pub(crate) struct Delimited {
    records: Records,
    layout: Layout,
    survey: Survey,
    delimiter: u8,
    rows_done: u64,
    kept_as_text: BTreeMap<String, u64>,
    bytes: ByteRecord,
    raw: Vec<u8>,
}

/// The columns of the batch under construction.
struct Building {
    users: UserBuilder,
    times: Vec<i64>,
    events: TextBuilder,
    message_ids: Option<TextBuilder>,
    properties: Vec<ColumnBuilder>,
}

impl Delimited {
    /// Loads a stream from row `skip` on.
    pub(crate) fn open(
        file: &Path,
        stream: Stream,
        delimiter: Delimiter,
        options: &ImportOptions,
        survey: Survey,
        skip: u64,
    ) -> Result<Self, ImportError> {
        let mut records = Records::open(file, stream, delimiter, options)?;
        let layout = Layout::new(&records, options)?;
        let mut bytes = ByteRecord::new();
        let mut rows_done = 0;
        while rows_done < skip && records.read(&mut bytes)? {
            rows_done += 1;
        }
        let delimiter = match delimiter {
            Delimiter::Byte(byte) => byte,
            Delimiter::Blanks => b' ',
        };
        let kept_as_text = BTreeMap::new();
        Ok(Self {
            records,
            layout,
            survey,
            delimiter,
            rows_done,
            kept_as_text,
            bytes,
            raw: Vec::new(),
        })
    }

    fn building(&self) -> Building {
        let kinds = self
            .layout
            .properties
            .iter()
            .map(|&at| self.survey.kinds[at]);
        Building {
            users: UserBuilder::new(BATCH_ROWS),
            times: Vec::with_capacity(BATCH_ROWS),
            events: TextBuilder::default(),
            message_ids: self.layout.message_id.map(|_| TextBuilder::default()),
            properties: kinds.map(ColumnBuilder::new).collect(),
        }
    }

    /// Adds the row in `self.bytes`.
    fn take_row(&mut self, building: &mut Building) -> Result<(), Problem> {
        let record = text_fields(&mut self.bytes, self.records.columns.len())?;
        let taken = self.take_fields(&record, building);
        self.bytes = record.into_byte_record();
        taken
    }

    /// Checks everything before it adds anything.
    fn take_fields(
        &mut self,
        record: &StringRecord,
        building: &mut Building,
    ) -> Result<(), Problem> {
        let (layout, columns) = (&self.layout, &self.records.columns);
        let (user, time) = (&record[layout.user], &record[layout.time]);
        check_name(user, "the user id", Problem::NoUser)?;
        if time.is_empty() {
            return Err(Problem::NoTime);
        }
        let times = &self.survey.times;
        let time = times.read(time).ok_or_else(|| Problem::bad_time(time))?;
        let name = layout.namer.name(|&at| Cow::Borrowed(&record[at]))?;
        let message_id = layout.message_id.map_or("", |at| &record[at]);
        check_length(message_id, "the message id")?;
        for &at in &layout.properties {
            check_text(&record[at], &columns[at])?;
        }
        let row = building.times.len() as u32;
        building.users.push(user);
        building.times.push(time);
        building.events.push(&name);
        if let Some(ids) = &mut building.message_ids {
            ids.push(message_id);
        }
        for (&at, column) in layout.properties.iter().zip(&mut building.properties) {
            let field = &record[at];
            if !field.is_empty() && !column.push(row, field, times) {
                *self.kept_as_text.entry(columns[at].clone()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn reject(&mut self, problem: &Problem, rejects: &mut Rejects) -> Result<(), ImportError> {
        self.raw.clear();
        let mut writer = csv::WriterBuilder::new()
            .delimiter(self.delimiter)
            .terminator(csv::Terminator::Any(b'\n'))
            .from_writer(&mut self.raw);
        let written = writer
            .write_byte_record(&self.bytes)
            .and_then(|()| Ok(writer.flush()?));
        drop(writer);
        written.map_err(|error| ImportError::io("write", &self.records.file, error.into()))?;
        let line = self.bytes.position().map_or(0, csv::Position::line);
        let row = self.raw.strip_suffix(b"\n").unwrap_or(&self.raw);
        rejects.reject(Place::Line(line), problem, row)
    }
}

impl Building {
    fn is_full(&self) -> bool {
        // Adding up the bytes of every column on every row would cost more than it saves.
        let rows = self.times.len();
        rows >= BATCH_ROWS
            || (rows % 256 == 255
                && self
                    .properties
                    .iter()
                    .map(ColumnBuilder::byte_len)
                    .sum::<usize>()
                    >= BATCH_TEXT_BYTES)
    }

    fn finish(self, layout: &Layout, columns: &[String]) -> Result<EventBatch, ImportError> {
        let rows = self.times.len() as u32;
        let built = layout.properties.iter().zip(self.properties);
        let property = |(&at, builder): (&usize, ColumnBuilder)| {
            let column = builder.finish(rows)?;
            Some(Property {
                name: columns[at].clone(),
                column,
            })
        };
        let batch = BatchColumns {
            users: self.users.finish(),
            times: self.times,
            events: self.events.finish(),
            message_ids: self.message_ids.map(TextBuilder::finish),
            properties: built.filter_map(property).collect(),
        };
        Ok(batch.finish()?)
    }
}

impl RowSource for Delimited {
    fn next_batch(&mut self, rejects: &mut Rejects) -> Result<Option<SourceBatch>, ImportError> {
        let mut building = self.building();
        let before = self.rows_done;
        while !building.is_full() {
            let mut bytes = std::mem::take(&mut self.bytes);
            let more = self.records.read(&mut bytes)?;
            self.bytes = bytes;
            if !more {
                break;
            }
            self.rows_done += 1;
            if let Err(problem) = self.take_row(&mut building) {
                self.reject(&problem, rejects)?;
            }
        }
        if self.rows_done == before {
            return Ok(None);
        }
        let batch = building.finish(&self.layout, &self.records.columns)?;
        Ok(Some(SourceBatch {
            batch,
            rows_done: self.rows_done,
        }))
    }

    fn kept_as_text(&self) -> BTreeMap<String, u64> {
        self.kept_as_text.clone()
    }
}

/// The delimiter of a file of format `default` where none was given.
pub(crate) fn delimiter_of(options: &ImportOptions, default: u8) -> Delimiter {
    options.delimiter.unwrap_or(Delimiter::Byte(default))
}
