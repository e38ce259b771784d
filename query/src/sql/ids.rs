//! External ids of ordinals, as a column.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::StringViewBuilder;
use pugmark_engine::dictionary::DictionarySnapshot;

use crate::exec::QueryError;

/// The ids of `ordinals`, in their order; NULL where one was erased.
pub(super) fn id_array(
    dictionary: &DictionarySnapshot,
    ordinals: &[u32],
) -> Result<ArrayRef, QueryError> {
    let mut ids = StringViewBuilder::with_capacity(ordinals.len());
    let mut next = 0;
    dictionary.with_ids(ordinals.iter().copied(), |ordinal, key| {
        // Erased ids are passed over.
        while ordinals
            .get(next)
            .is_some_and(|&expected| expected != ordinal)
        {
            ids.append_null();
            next += 1;
        }
        ids.append_value(key.text());
        next += 1;
    })?;
    while next < ordinals.len() {
        ids.append_null();
        next += 1;
    }
    Ok(Arc::new(ids.finish()))
}
