//! What one log record holds: a batch and its place in the arrival sequence. How records are
//! framed and synced is the log's own affair.

use crate::batch::{
    BatchColumns, Column, EventBatch, IdColumn, ListColumn, Part, Presence, Property, StringTable,
    TextColumn, Values,
};
use crate::format::{Reader, WireError, Writer};
use crate::limits;

/// What the rows of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// Events.
    Events,
    /// Trait updates: one row an update, the event name empty.
    Traits,
}

/// Progress of a bulk load or import: what makes repeating it harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Hash of the input and of the options that matter.
    pub key: u128,
    /// Rows of the input that are dealt with, refused ones included.
    pub rows_done: u64,
    /// True when the whole input is.
    pub complete: bool,
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) kind: BatchKind,
    /// The batch's number in the store's arrival sequence.
    pub(crate) arrival: u64,
    /// When it arrived, in microseconds since 1970-01-01 UTC.
    pub(crate) arrived_at: i64,
    pub(crate) progress: Option<Progress>,
    pub(crate) batch: EventBatch,
}

// Kinds 3 and 4 are kept for identity merges and erasures.
const KIND_EVENTS: u8 = 1;
const KIND_TRAITS: u8 = 2;

impl Progress {
    /// Appends the progress, 25 bytes.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.raw(&self.key.to_le_bytes());
        out.u64(self.rows_done);
        out.u8(u8::from(self.complete));
    }

    /// Reads a progress.
    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut key = [0; 16];
        key.copy_from_slice(bytes.raw(16)?);
        let (rows_done, complete) = (bytes.u64()?, bytes.u8()? != 0);
        Ok(Self {
            key: u128::from_le_bytes(key),
            rows_done,
            complete,
        })
    }
}

impl Record {
    /// The bytes of the record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self {
            kind,
            arrival,
            arrived_at,
            progress,
            batch,
        } = self;
        encode(*kind, *arrival, *arrived_at, progress.as_ref(), batch)
    }
}

/// The bytes of a record.
pub(crate) fn encode(
    kind: BatchKind,
    arrival: u64,
    arrived_at: i64,
    progress: Option<&Progress>,
    batch: &EventBatch,
) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(match kind {
        BatchKind::Events => KIND_EVENTS,
        BatchKind::Traits => KIND_TRAITS,
    });
    out.u64(arrival);
    out.i64(arrived_at);
    out.u8(u8::from(progress.is_some()));
    if let Some(progress) = progress {
        progress.encode(&mut out);
    }
    out.u32(batch.len() as u32);
    match &batch.users {
        IdColumn::Int(ids) => {
            out.u8(0);
            out.raw(bytemuck::cast_slice(ids));
        }
        IdColumn::Text(ids) => {
            out.u8(1);
            encode_text(&mut out, ids);
        }
    }
    out.raw(bytemuck::cast_slice(&batch.times));
    encode_text(&mut out, &batch.events);
    out.u8(u8::from(batch.message_ids.is_some()));
    if let Some(ids) = &batch.message_ids {
        encode_text(&mut out, ids);
    }
    out.u32(batch.properties.len() as u32);
    for property in &batch.properties {
        out.text(&property.name);
        encode_column(&mut out, &property.column);
    }
    out.finish()
}

fn encode_text(out: &mut Writer, column: &TextColumn) {
    let (ends, bytes) = column.values.parts();
    encode_array(out, ends);
    out.bytes(bytes);
    encode_array(out, &column.codes);
}

fn encode_array<T: bytemuck::NoUninit>(out: &mut Writer, items: &[T]) {
    out.u32(items.len() as u32);
    out.raw(bytemuck::cast_slice(items));
}

fn encode_column(out: &mut Writer, column: &Column) {
    out.u8(column.parts.len() as u8);
    for part in &column.parts {
        match &part.presence {
            Presence::All => out.u8(0),
            Presence::Rows(rows) => {
                out.u8(1);
                encode_array(out, rows);
            }
        }
        encode_values(out, &part.values);
    }
}

fn encode_values(out: &mut Writer, values: &Values) {
    match values {
        Values::Null(count) => {
            out.u8(0);
            out.u32(*count);
        }
        Values::Bool(values) => {
            out.u8(1);
            let bytes: Vec<u8> = values.iter().map(|&value| u8::from(value)).collect();
            encode_array(out, &bytes);
        }
        Values::I64(values) => {
            out.u8(2);
            encode_array(out, values);
        }
        Values::F64(values) => {
            out.u8(3);
            encode_array(out, values);
        }
        Values::Timestamp(values) => {
            out.u8(4);
            encode_array(out, values);
        }
        Values::Text(text) => {
            out.u8(5);
            encode_text(out, text);
        }
        Values::List(list) => {
            out.u8(6);
            encode_array(out, &list.ends);
            out.u32(list.elements.rows);
            encode_column(out, &list.elements);
        }
    }
}

/// Reads a record; its batch is checked like one that a caller hands in.
pub(crate) fn decode(payload: &[u8]) -> Result<Record, WireError> {
    let mut bytes = Reader::new(payload);
    let kind = match bytes.u8()? {
        KIND_EVENTS => BatchKind::Events,
        KIND_TRAITS => BatchKind::Traits,
        _ => {
            return Err(WireError {
                at: 0,
                what: "a log record of an unknown kind",
            });
        }
    };
    let (arrival, arrived_at) = (bytes.u64()?, bytes.i64()?);
    let progress = match bytes.u8()? {
        0 => None,
        _ => Some(Progress::decode(&mut bytes)?),
    };
    let rows = bytes.u32()? as usize;
    if rows > limits::MAX_BATCH_ROWS {
        return Err(bytes.error("a batch of too many rows"));
    }
    let users = match bytes.u8()? {
        0 => IdColumn::Int(items(&mut bytes, rows)?),
        _ => IdColumn::Text(decode_text(&mut bytes)?),
    };
    let times = items(&mut bytes, rows)?;
    let events = decode_text(&mut bytes)?;
    let message_ids = match bytes.u8()? {
        0 => None,
        _ => Some(decode_text(&mut bytes)?),
    };
    let count = bytes.count(5)?;
    let mut properties = Vec::with_capacity(count);
    for _ in 0..count {
        let name = bytes.text()?.to_owned();
        let column = decode_column(&mut bytes, rows as u32, 0)?;
        properties.push(Property { name, column });
    }
    let at = bytes.at();
    bytes.finish()?;
    let columns = BatchColumns {
        users,
        times,
        events,
        message_ids,
        properties,
    };
    let batch = match kind {
        BatchKind::Events => columns.finish(),
        BatchKind::Traits => columns.finish_traits(),
    };
    let batch = batch.map_err(|_| WireError {
        at,
        what: "a log record holds an invalid batch",
    })?;
    Ok(Record {
        kind,
        arrival,
        arrived_at,
        progress,
        batch,
    })
}

fn items<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
    bytes: &mut Reader<'_>,
    count: usize,
) -> Result<Vec<T>, WireError> {
    let len = count.saturating_mul(size_of::<T>());
    Ok(bytemuck::pod_collect_to_vec(bytes.raw(len)?))
}

fn array<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
    bytes: &mut Reader<'_>,
) -> Result<Vec<T>, WireError> {
    let count = bytes.count(size_of::<T>())?;
    items(bytes, count)
}

fn decode_text(bytes: &mut Reader<'_>) -> Result<TextColumn, WireError> {
    let ends = array(bytes)?;
    let at = bytes.at();
    let values = StringTable::from_parts(ends, bytes.bytes()?.to_vec()).ok_or(WireError {
        at,
        what: "a string table is not UTF-8 or its ends disagree",
    })?;
    Ok(TextColumn {
        codes: array(bytes)?,
        values,
    })
}

fn decode_column(bytes: &mut Reader<'_>, rows: u32, depth: u8) -> Result<Column, WireError> {
    let count = bytes.u8()?;
    let mut parts = Vec::with_capacity(usize::from(count.min(8)));
    for _ in 0..count {
        let presence = match bytes.u8()? {
            0 => Presence::All,
            _ => Presence::Rows(array(bytes)?),
        };
        parts.push(Part {
            presence,
            values: decode_values(bytes, depth)?,
        });
    }
    Ok(Column { rows, parts })
}

fn decode_values(bytes: &mut Reader<'_>, depth: u8) -> Result<Values, WireError> {
    Ok(match bytes.u8()? {
        0 => Values::Null(bytes.u32()?),
        1 => Values::Bool(array::<u8>(bytes)?.iter().map(|&byte| byte != 0).collect()),
        2 => Values::I64(array(bytes)?),
        3 => Values::F64(array(bytes)?),
        4 => Values::Timestamp(array(bytes)?),
        5 => Values::Text(decode_text(bytes)?),
        6 if depth == 0 => {
            let ends = array(bytes)?;
            let rows = bytes.u32()?;
            let elements = Box::new(decode_column(bytes, rows, depth + 1)?);
            Values::List(ListColumn { ends, elements })
        }
        _ => return Err(bytes.error("a value type is unknown")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchBuilder;
    use crate::value::Value;

    fn sample(text_ids: bool) -> EventBatch {
        let mut batch = BatchBuilder::new();
        batch
            .event(if text_ids { "ann" } else { "7" }, 5, "view")
            .property("price", 1.5);
        batch
            .event("12", -5, "cart")
            .property("price", "n/a")
            .property(
                "items",
                Value::List(vec![Value::I64(1), Value::Text("x".into())]),
            )
            .property("new", true)
            .message_id("m-1");
        batch.finish().unwrap()
    }

    #[test]
    fn records_round_trip() {
        for text_ids in [false, true] {
            let batch = sample(text_ids);
            let progress = Progress {
                key: 1 << 100,
                rows_done: 9,
                complete: true,
            };
            let bytes = encode(BatchKind::Events, 3, 4, Some(&progress), &batch);
            let record = decode(&bytes).unwrap();
            assert_eq!(record.batch, batch);
            assert_eq!((record.arrival, record.arrived_at), (3, 4));
            assert_eq!(record.progress, Some(progress));
        }
    }

    #[test]
    fn damaged_records_never_panic() {
        let bytes = encode(BatchKind::Events, 3, 4, None, &sample(true));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&damaged);
        }
    }
}
