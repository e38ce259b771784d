//! Segments against the model.

use proptest::prelude::*;

use super::model::{self, Row};
use super::{BuildOptions, Partition, build};

fn options() -> impl Strategy<Value = BuildOptions> {
    let bytes = prop_oneof![Just(1), Just(1_000), Just(1 << 20)];
    let runs = prop_oneof![Just(1), Just(3), Just(10_000)];
    (bytes, runs, 1u32..5_000).prop_map(|(target_bytes, max_name_runs, max_rows)| BuildOptions {
        target_bytes,
        max_rows,
        max_name_runs,
    })
}

/// Builds the rows in batches of the given sizes.
fn build_rows(rows: &[Row], batch_rows: usize, options: &BuildOptions) -> Vec<super::SegmentImage> {
    let batches: Vec<_> = rows.chunks(batch_rows).map(model::batch).collect();
    let numbers: Vec<Vec<u32>> = batches
        .iter()
        .map(|batch| (0..batch.times.len() as u32).collect())
        .collect();
    let inputs: Vec<_> = batches
        .iter()
        .zip(&numbers)
        .map(|(batch, numbers)| (batch, numbers.as_slice()))
        .collect();
    build(Partition::Events(0), (3, 9), &inputs, options)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn built_segments_hold_their_rows(
        rows in model::rows(3_000), batch_rows in 1usize..2_000, options in options(),
    ) {
        let images = build_rows(&rows, batch_rows, &options);
        let segments: Vec<_> = images.into_iter().map(model::open).collect();
        model::check(&segments, &rows, options.max_name_runs);
    }
}
