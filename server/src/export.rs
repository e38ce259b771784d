//! Events as a Parquet file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use pugmark_engine::EventBatch;
use pugmark_engine::batch::{Column, IdColumn, Presence, TextColumn, Values};

/// Rows of a row group: readers hold the dictionaries of one at a time.
const ROW_GROUP_ROWS: usize = 1 << 20;

/// Writes batches of generated events, all of integer users and the same properties.
pub struct ParquetEvents<W: Write + Send = File> {
    writer: ArrowWriter<W>,
    schema: SchemaRef,
}

impl<W: Write + Send> ParquetEvents<W> {
    /// Begins a file with columns `user_id`, `time`, `event` and the properties given, in order.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn new(out: W, properties: &[(&str, DataType)]) -> Result<Self, ParquetError> {
        let dictionary = |kind: &DataType| match kind {
            DataType::Utf8 => {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
            other => other.clone(),
        };
        let mut fields = vec![
            Field::new("user_id", DataType::Int64, false),
            Field::new(
                "time",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                false,
            ),
            Field::new("event", dictionary(&DataType::Utf8), false),
        ];
        let optional = properties.iter();
        fields.extend(optional.map(|(name, kind)| Field::new(*name, dictionary(kind), true)));
        let schema = Arc::new(Schema::new(fields));
        let settings = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(settings))?;
        Ok(Self { writer, schema })
    }

    /// Adds a batch.
    ///
    /// # Errors
    /// Where writing fails, user ids are text, or a property is not one of those of the file.
    pub fn write(&mut self, batch: &EventBatch) -> Result<(), ParquetError> {
        let IdColumn::Int(users) = batch.users() else {
            return Err(ParquetError::General(
                "user ids are not integers".to_owned(),
            ));
        };
        let mut given: BTreeMap<&str, &Column> = BTreeMap::new();
        for property in batch.properties() {
            given.insert(&property.name, &property.column);
        }
        let times = TimestampMicrosecondArray::from(batch.times().to_vec()).with_timezone("UTC");
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(users.clone())),
            Arc::new(times),
            Arc::new(text_array(batch.events(), None, batch.len())?),
        ];
        for field in &self.schema.fields()[3..] {
            columns.push(match given.remove(field.name().as_str()) {
                Some(column) => array(column, batch.len())?,
                None => arrow_array::new_null_array(field.data_type(), batch.len()),
            });
        }
        if let Some(name) = given.keys().next() {
            return Err(ParquetError::General(format!(
                "no column for property {name}"
            )));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.writer.write(&batch)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn finish(self) -> Result<(), ParquetError> {
        self.writer.close().map(|_| ())
    }
}

/// A column of one part as an array with nulls.
fn array(column: &Column, rows: usize) -> Result<ArrayRef, ParquetError> {
    let [part] = column.parts.as_slice() else {
        return Err(ParquetError::General(
            "a property of several types".to_owned(),
        ));
    };
    let present = match &part.presence {
        Presence::All => None,
        Presence::Rows(present) => Some(present.as_slice()),
    };
    Ok(match &part.values {
        Values::I64(values) => Arc::new(Int64Array::from(spread(values, present, rows))),
        Values::F64(values) => Arc::new(Float64Array::from(spread(values, present, rows))),
        Values::Text(values) => Arc::new(text_array(values, present, rows)?),
        _ => {
            return Err(ParquetError::General(
                "a property of another type".to_owned(),
            ));
        }
    })
}

fn text_array(
    column: &TextColumn,
    present: Option<&[u32]>,
    rows: usize,
) -> Result<DictionaryArray<Int32Type>, ArrowError> {
    let codes: Vec<i32> = column.codes.iter().map(|&code| code as i32).collect();
    let keys = Int32Array::from(spread(&codes, present, rows));
    let values: StringArray = column.values.iter().map(Some).collect();
    DictionaryArray::try_new(keys, Arc::new(values))
}

fn spread<T: Copy>(values: &[T], present: Option<&[u32]>, rows: usize) -> Vec<Option<T>> {
    let Some(present) = present else {
        return values.iter().copied().map(Some).collect();
    };
    let mut spread = vec![None; rows];
    for (&row, &value) in present.iter().zip(values) {
        spread[row as usize] = Some(value);
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::generate::PROPERTIES;
    use crate::import::{Collector, ImportOptions, Meter, import_files};
    use pugmark_query::population::{Population, PopulationConfig};

    #[test]
    fn what_is_written_is_imported_alike() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.parquet");
        let population = Population::new(PopulationConfig::of_events(150_000));
        let mut writer = ParquetEvents::new(File::create(&path).unwrap(), &PROPERTIES).unwrap();
        population
            .batches()
            .for_each(|batch| writer.write(&batch).unwrap());
        writer.finish().unwrap();
        let mut collector = Collector::default();
        let options = ImportOptions::new("user_id", "time", "event");
        import_files(&[path], &options, &mut collector, &Meter::default()).unwrap();
        let wanted: Vec<EventBatch> = population.batches().collect();
        assert_eq!(wanted.len(), collector.batches.len());
        for (wanted, found) in wanted.iter().zip(&collector.batches) {
            assert_eq!(
                (wanted.users(), wanted.times()),
                (found.users(), found.times())
            );
            for row in (0..wanted.len()).step_by(101) {
                assert_eq!(wanted.events().get(row), found.events().get(row));
                let values =
                    |batch: &EventBatch| -> BTreeMap<String, Option<pugmark_engine::Value>> {
                        let properties = batch.properties().iter();
                        properties
                            .map(|property| {
                                (property.name.clone(), property.column.value(row as u32))
                            })
                            .filter(|(_, value)| value.is_some())
                            .collect()
                    };
                assert_eq!(values(wanted), values(found), "row {row}");
            }
        }
    }
}
