//! Parquet files: only the columns wanted, decoded in batches of rows.
//!
//! Text columns that the file holds as dictionaries stay dictionaries, so their codes become the
//! batch's codes. A batch with a row that cannot be taken is filtered and converted again.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use pugmark_engine::batch::{IdColumn, Presence, Property, TextColumn, Values};
use pugmark_engine::ids::canonical_integer;
use pugmark_engine::{BatchColumns, EventBatch, limits};

use super::arrow_columns::{
    Unread, flatten, instants, integers, plain, properties, text_at, texts,
};
use super::columns::TextBuilder;
use super::error::{ImportError, Place, Problem};
use super::naming::{Namer, check_length, check_name};
use super::options::{ImportOptions, TimeUnit};
use super::rejects::Rejects;
use super::source::{BATCH_ROWS, RowSource, SourceBatch};
use super::time::{TimeReader, epoch_magnitude};

/// What a first look at a file finds.
#[derive(Debug)]
pub(crate) struct Survey {
    times: TimeReader,
    /// Rows of the file.
    pub(crate) rows: u64,
}

/// Finds the columns that are asked for.
pub(crate) fn check(path: &Path, file: &File, options: &ImportOptions) -> Result<(), ImportError> {
    let fail = |source| ImportError::Parquet {
        path: path.to_owned(),
        source,
    };
    let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).map_err(fail)?;
    Layout::new(path, metadata.schema(), options).map(|_| ())
}

/// Looks at a file: its number of rows, and, where times are numbers without a unit, all of them.
pub(crate) fn survey(
    path: &Path,
    file: &File,
    options: &ImportOptions,
) -> Result<Survey, ImportError> {
    let fail = |source| ImportError::Parquet {
        path: path.to_owned(),
        source,
    };
    let copy = || {
        file.try_clone()
            .map_err(|error| ImportError::io("read", path, error))
    };
    let metadata = ArrowReaderMetadata::load(&copy()?, ArrowReaderOptions::new()).map_err(fail)?;
    let rows = metadata.metadata().file_metadata().num_rows();
    let rows = u64::try_from(rows).unwrap_or(0);
    let mut unit = options.time_unit;
    if unit.is_none() && options.time_format.is_none() {
        let root = options.time.split('.').next().unwrap_or_default();
        let index = metadata.schema().index_of(root).ok();
        // Instants have a unit of their own.
        let index = index.filter(|&index| !is_instant(metadata.schema().field(index).data_type()));
        let mut largest = 0;
        if let Some(index) = index {
            let mask = ProjectionMask::roots(metadata.parquet_schema(), [index]);
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(copy()?, metadata);
            let reader = builder
                .with_projection(mask)
                .with_batch_size(BATCH_ROWS)
                .build();
            for batch in reader.map_err(fail)? {
                let batch = batch.map_err(|error| fail(ParquetError::from(error)))?;
                largest = largest.max(largest_time(&flat(&batch), &options.time));
            }
        }
        unit = Some(TimeUnit::of_magnitude(largest));
    }
    let times = TimeReader {
        unit: unit.unwrap_or(TimeUnit::Micros),
        format: options.time_format.clone(),
    };
    Ok(Survey { times, rows })
}

/// The largest number of the time column, 0 where it holds none.
fn largest_time(columns: &[(String, ArrayRef)], time: &str) -> u64 {
    let Some((_, array)) = columns.iter().find(|(name, _)| name == time) else {
        return 0;
    };
    if is_instant(array.data_type()) {
        return 0;
    }
    let present = present_rows(array);
    if let Some(integers) = integers(array, &present) {
        return integers
            .into_iter()
            .map(i64::unsigned_abs)
            .max()
            .unwrap_or(0);
    }
    let Ok(array) = plain(array) else { return 0 };
    let texts = present
        .iter()
        .filter_map(|&row| text_at(&array, row as usize).ok());
    texts
        .filter_map(|text| epoch_magnitude(&text))
        .max()
        .unwrap_or(0)
}

fn present_rows(array: &ArrayRef) -> Vec<u32> {
    match array.logical_nulls() {
        Some(nulls) => nulls.valid_indices().map(|row| row as u32).collect(),
        None => (0..array.len() as u32).collect(),
    }
}

fn is_instant(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
    )
}

/// The columns of a batch, structs flattened.
fn flat(batch: &RecordBatch) -> Vec<(String, ArrayRef)> {
    let mut columns = Vec::new();
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        flatten(field.name(), array, &mut columns);
    }
    columns
}

/// A Parquet file being loaded.
pub(crate) struct ParquetSource {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    options: ImportOptions,
    layout: Layout,
    times: TimeReader,
    rows_done: u64,
}

/// Which of the flattened columns is what.
#[derive(Debug)]
struct Layout {
    user: usize,
    time: usize,
    namer: Namer<usize>,
    message_id: Option<usize>,
}

impl Layout {
    fn new(path: &Path, schema: &SchemaRef, options: &ImportOptions) -> Result<Self, ImportError> {
        let names = flat(&RecordBatch::new_empty(Arc::clone(schema)));
        let find = |column: &str| {
            let found = names.iter().position(|(name, _)| name == column);
            found.ok_or_else(|| ImportError::NoColumn {
                path: path.to_owned(),
                column: column.to_owned(),
                columns: names.iter().map(|(name, _)| name.clone()).collect(),
            })
        };
        Ok(Self {
            user: find(&options.user)?,
            time: find(&options.time)?,
            message_id: options.message_id.as_deref().map(find).transpose()?,
            namer: Namer::new(&options.naming, find)?,
        })
    }
}

impl ParquetSource {
    /// Loads a file from row `skip` on.
    pub(crate) fn open(
        path: &Path,
        file: File,
        options: &ImportOptions,
        survey: Survey,
        skip: u64,
    ) -> Result<Self, ImportError> {
        let fail = |source| ImportError::Parquet {
            path: path.to_owned(),
            source,
        };
        let plain = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(fail)?;
        let hinted = with_dictionaries(plain.schema(), plain.metadata());
        let metadata = ArrowReaderMetadata::try_new(
            Arc::clone(plain.metadata()),
            ArrowReaderOptions::new().with_schema(hinted),
        );
        // A file that does not take the hint is read as it is.
        let metadata = metadata.unwrap_or(plain);
        let wanted = metadata.schema().fields().iter().enumerate();
        let wanted = wanted.filter(|(_, field)| !options.skip.contains(field.name()));
        let wanted: Vec<usize> = wanted.map(|(at, _)| at).collect();
        let mask = ProjectionMask::roots(metadata.parquet_schema(), wanted);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .with_offset(usize::try_from(skip).unwrap_or(usize::MAX))
            .build()
            .map_err(fail)?;
        let schema = arrow_array::RecordBatchReader::schema(&reader);
        let layout = Layout::new(path, &schema, options)?;
        Ok(Self {
            layout,
            path: path.to_owned(),
            reader,
            options: options.clone(),
            times: survey.times,
            rows_done: skip,
        })
    }

    /// Converts a batch; or says which rows it cannot take, in order.
    fn convert(
        &self,
        batch: &RecordBatch,
    ) -> Result<Result<EventBatch, Vec<Refused>>, ImportError> {
        let columns = flat(batch);
        let mut refused = Vec::new();
        let users = self.users(&columns, &mut refused)?;
        let times = self.times(&columns, &mut refused)?;
        let events = self.events(&columns, &mut refused)?;
        let message_ids = match self.layout.message_id {
            Some(at) => {
                let ids = self.name_column(&columns, at)?;
                let problem = |id: &str| check_length(id, "the message id").err();
                refuse_texts(&ids, problem, &mut refused);
                Some(ids)
            }
            None => None,
        };
        let properties = self.properties(&columns, &mut refused)?;
        if !refused.is_empty() {
            refused.sort_by_key(|refused| refused.row);
            refused.dedup_by_key(|refused| refused.row);
            return Ok(Err(refused));
        }
        let batch = BatchColumns {
            users,
            times,
            events,
            message_ids,
            properties,
        };
        Ok(Ok(batch.finish()?))
    }

    fn users(
        &self,
        columns: &[(String, ArrayRef)],
        refused: &mut Vec<Refused>,
    ) -> Result<IdColumn, ImportError> {
        let (name, array) = &columns[self.layout.user];
        let present = present_rows(array);
        if let Some(ids) = integers(array, &present) {
            let mut next = present.iter().copied().peekable();
            for row in 0..array.len() as u32 {
                if next.next_if_eq(&row).is_none() {
                    refused.push(Refused {
                        row,
                        problem: Problem::NoUser,
                    });
                }
            }
            return Ok(IdColumn::Int(ids));
        }
        if is_instant(array.data_type()) {
            return Err(self.unread(name, Unread::Kind(array.data_type().clone())));
        }
        let texts = self.name_column(columns, self.layout.user)?;
        let problem = |id: &str| check_name(id, "the user id", Problem::NoUser).err();
        refuse_texts(&texts, problem, refused);
        Ok(integers_of(&texts).map_or(IdColumn::Text(texts), IdColumn::Int))
    }

    fn times(
        &self,
        columns: &[(String, ArrayRef)],
        refused: &mut Vec<Refused>,
    ) -> Result<Vec<i64>, ImportError> {
        let (name, array) = &columns[self.layout.time];
        let rows = array.len() as u32;
        if is_instant(array.data_type()) {
            let all: Vec<u32> = (0..rows).collect();
            let read = instants(array, &all).map_err(|error| self.unread(name, error))?;
            let (times, late) = read;
            for row in late {
                let problem = Problem::bad_time("an instant over 292 000 years away");
                refused.push(Refused { row, problem });
            }
            for row in (0..rows).filter(|&row| array.is_null(row as usize)) {
                refused.push(Refused {
                    row,
                    problem: Problem::NoTime,
                });
            }
            return Ok(times);
        }
        let array = plain(array).map_err(|error| self.unread(name, error))?;
        let mut times = Vec::with_capacity(rows as usize);
        for row in 0..rows {
            let text = text_at(&array, row as usize).map_err(|error| self.unread(name, error))?;
            let time = match self.times.read(&text) {
                Some(time) => time,
                None => {
                    let missing = array.is_null(row as usize) || text.is_empty();
                    let problem = if missing {
                        Problem::NoTime
                    } else {
                        Problem::bad_time(&text)
                    };
                    refused.push(Refused { row, problem });
                    0
                }
            };
            times.push(time);
        }
        Ok(times)
    }

    fn events(
        &self,
        columns: &[(String, ArrayRef)],
        refused: &mut Vec<Refused>,
    ) -> Result<TextColumn, ImportError> {
        if let Some(single) = self.layout.namer.single_column() {
            let names = self.name_column(columns, *single)?;
            let problem = |name: &str| check_name(name, "the event name", Problem::NoEvent).err();
            refuse_texts(&names, problem, refused);
            return Ok(names);
        }
        let rows = columns[self.layout.user].1.len();
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; columns.len()];
        for &at in self.layout.namer.keys() {
            let (name, array) = &columns[at];
            let array = plain(array).map_err(|error| self.unread(name, error))?;
            if !array.is_empty() {
                text_at(&array, 0).map_err(|error| self.unread(name, error))?;
            }
            arrays[at] = Some(array);
        }
        let mut names = TextBuilder::default();
        for row in 0..rows {
            let field = |&at: &usize| match &arrays[at] {
                Some(array) => Cow::Owned(text_at(array, row).unwrap_or_default().into_owned()),
                None => Cow::Borrowed(""),
            };
            match self.layout.namer.name(field) {
                Ok(name) => names.push(&name),
                Err(problem) => {
                    names.push("");
                    refused.push(Refused {
                        row: row as u32,
                        problem,
                    });
                }
            }
        }
        Ok(names.finish())
    }

    /// A column of ids or names as text, one for each row; empty where it is null.
    fn name_column(
        &self,
        columns: &[(String, ArrayRef)],
        at: usize,
    ) -> Result<TextColumn, ImportError> {
        let (name, array) = &columns[at];
        let fail = |error| self.unread(name, error);
        let present = present_rows(array);
        let found = texts(array, &present).map_err(fail)?;
        if present.len() == array.len() {
            return Ok(found);
        }
        let mut values = found.values;
        let empty = values.push("");
        let mut codes = vec![empty; array.len()];
        for (&row, &code) in present.iter().zip(&found.codes) {
            codes[row as usize] = code;
        }
        Ok(TextColumn { codes, values })
    }

    fn properties(
        &self,
        columns: &[(String, ArrayRef)],
        refused: &mut Vec<Refused>,
    ) -> Result<Vec<Property>, ImportError> {
        let mut found = Vec::new();
        for (name, array) in columns
            .iter()
            .filter(|(name, _)| self.options.is_property(name))
        {
            let fail = |error| self.unread(name, error);
            for (name, column) in properties(name, array).map_err(fail)? {
                let Some(column) = column else { continue };
                for part in &column.parts {
                    if let Values::Text(texts) = &part.values {
                        let index_row = |index: usize| match &part.presence {
                            Presence::All => index as u32,
                            Presence::Rows(rows) => rows[index],
                        };
                        refuse_long(&name, texts, index_row, refused);
                    }
                }
                found.push(Property { name, column });
            }
        }
        Ok(found)
    }

    fn unread(&self, column: &str, error: Unread) -> ImportError {
        match error {
            Unread::Kind(kind) => ImportError::ColumnType {
                path: self.path.clone(),
                column: column.to_owned(),
                kind: kind.to_string(),
            },
            Unread::Arrow(error) => {
                let (path, source) = (self.path.clone(), ParquetError::from(error));
                ImportError::Parquet { path, source }
            }
        }
    }

    fn reject(
        &self,
        batch: &RecordBatch,
        refused: &[Refused],
        rejects: &mut Rejects,
    ) -> Result<(), ImportError> {
        let columns = flat(batch).into_iter();
        let columns: Vec<ArrayRef> = columns
            .map(|(name, array)| plain(&array).map_err(|error| self.unread(&name, error)))
            .collect::<Result<_, _>>()?;
        for Refused { row, problem } in refused {
            let mut raw = csv::Writer::from_writer(Vec::new());
            // Lists have no text of their own; the other columns tell the row.
            let texts = columns
                .iter()
                .map(|array| text_at(array, *row as usize).unwrap_or_default());
            let written = raw.write_record(texts.map(Cow::into_owned).map(String::into_bytes));
            written.map_err(|error| ImportError::io("write", &self.path, error.into()))?;
            let raw = raw.into_inner().unwrap_or_default();
            let place = Place::Row(self.rows_done + u64::from(*row) + 1);
            rejects.reject(place, problem, raw.strip_suffix(b"\n").unwrap_or(&raw))?;
        }
        Ok(())
    }
}

/// A row that cannot be taken.
#[derive(Debug)]
struct Refused {
    row: u32,
    problem: Problem,
}

/// Refuses the rows whose text has a problem. Each text is judged once.
fn refuse_texts(
    column: &TextColumn,
    problem: impl Fn(&str) -> Option<Problem>,
    refused: &mut Vec<Refused>,
) {
    let problems: Vec<Option<Problem>> = column.values.iter().map(problem).collect();
    if problems.iter().all(Option::is_none) {
        return;
    }
    for (row, &code) in column.codes.iter().enumerate() {
        if let Some(problem) = &problems[code as usize] {
            refused.push(Refused {
                row: row as u32,
                problem: problem.clone(),
            });
        }
    }
}

fn refuse_long(
    property: &str,
    texts: &TextColumn,
    row_of: impl Fn(usize) -> u32,
    refused: &mut Vec<Refused>,
) {
    if texts
        .values
        .iter()
        .all(|text| text.len() <= limits::MAX_TEXT_BYTES)
    {
        return;
    }
    for index in 0..texts.codes.len() {
        let bytes = texts.get(index).len();
        if bytes > limits::MAX_TEXT_BYTES {
            let problem = Problem::TextTooLong {
                property: property.to_owned(),
                bytes,
            };
            refused.push(Refused {
                row: row_of(index),
                problem,
            });
        }
    }
}

/// The integers that all ids are, if they are.
fn integers_of(texts: &TextColumn) -> Option<Vec<i64>> {
    let mut integers = vec![None; texts.values.len()];
    texts
        .codes
        .iter()
        .map(|&code| match integers[code as usize] {
            Some(integer) => Some(integer),
            None => {
                let integer = canonical_integer(texts.values.get(code as usize))?;
                integers[code as usize] = Some(integer);
                Some(integer)
            }
        })
        .collect()
}

/// The file's schema, with text columns as dictionaries where every part of the file has one.
fn with_dictionaries(schema: &SchemaRef, metadata: &ParquetMetaData) -> SchemaRef {
    let leaves = metadata.file_metadata().schema_descr();
    let has_dictionary = |name: &str| {
        let index = (0..leaves.num_columns()).find(|&leaf| {
            let parts = leaves.column(leaf).path().parts().to_vec();
            parts.len() == 1 && parts[0] == name
        });
        index.is_some_and(|leaf| {
            let groups = metadata.row_groups().iter();
            groups
                .map(|group| group.column(leaf))
                .all(|column| column.dictionary_page_offset().is_some())
        })
    };
    let hinted = |field: &Field| {
        let kind = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
                if has_dictionary(field.name()) =>
            {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
            // Old writers do not say that their bytes are text; the reader checks it.
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Utf8,
            other => other.clone(),
        };
        field.clone().with_data_type(kind)
    };
    let fields: Vec<Field> = schema.fields().iter().map(|field| hinted(field)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

impl RowSource for ParquetSource {
    fn next_batch(&mut self, rejects: &mut Rejects) -> Result<Option<SourceBatch>, ImportError> {
        let Some(read) = self.reader.next() else {
            return Ok(None);
        };
        let read = read.map_err(|error| ImportError::Parquet {
            path: self.path.clone(),
            source: ParquetError::from(error),
        })?;
        let batch = match self.convert(&read)? {
            Ok(batch) => batch,
            Err(refused) => {
                self.reject(&read, &refused, rejects)?;
                let mut keep = vec![true; read.num_rows()];
                refused
                    .iter()
                    .for_each(|refused| keep[refused.row as usize] = false);
                let kept =
                    arrow_select::filter::filter_record_batch(&read, &BooleanArray::from(keep));
                let kept = kept.map_err(|error| self.unread("", Unread::Arrow(error)))?;
                self.convert(&kept)?.map_err(|_| ImportError::Contents {
                    path: self.path.clone(),
                    problem: "a row is refused only beside others",
                })?
            }
        };
        self.rows_done += read.num_rows() as u64;
        Ok(Some(SourceBatch {
            batch,
            rows_done: self.rows_done,
        }))
    }
}
