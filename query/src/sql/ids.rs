//! External ids of ordinals, as a column.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::StringViewBuilder;
use pugmark_engine::UserKey;
use pugmark_engine::dictionary::DictionarySnapshot;

use crate::exec::QueryError;

/// The ids of `ordinals`, in their order; NULL where one was erased. Neighbours that are the same
/// are looked up once.
pub(super) fn id_array(
    dictionary: &DictionarySnapshot,
    ordinals: &[u32],
) -> Result<ArrayRef, QueryError> {
    let mut ids = StringViewBuilder::with_capacity(ordinals.len());
    let mut stretches = ordinals.chunk_by(|left, right| left == right).peekable();
    let mut digits = itoa::Buffer::new();
    let different = ordinals.chunk_by(|left, right| left == right);
    dictionary.with_ids(different.map(|same| same[0]), |ordinal, key| {
        // Erased ids are passed over.
        while let Some(erased) = stretches.next_if(|same| same[0] != ordinal) {
            erased.iter().for_each(|_| ids.append_null());
        }
        let text = match key {
            UserKey::Int(number) => digits.format(number),
            UserKey::Text(text) => text,
        };
        for _ in stretches.next().unwrap_or_default() {
            ids.append_value(text);
        }
    })?;
    for erased in stretches {
        erased.iter().for_each(|_| ids.append_null());
    }
    Ok(Arc::new(ids.finish()))
}
