//! Segments against the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::counts::GroupCursor;
use super::model::{self, Row};
use super::{BuildOptions, Partition, Segment, Stop, build, merge, merge_each};
use crate::error::Corruption;

fn options() -> impl Strategy<Value = BuildOptions> {
    let bytes = prop_oneof![Just(1), Just(1_000), Just(1 << 20)];
    let runs = prop_oneof![Just(0), Just(1), Just(3), Just(10_000)];
    let cut = (bytes, runs, 1u32..5_000, any::<bool>(), 0..4_usize);
    cut.prop_map(
        |(target_bytes, max_name_runs, max_rows, compressed, merge_threads)| BuildOptions {
            compressed,
            merge_threads,
            target_bytes,
            max_rows,
            max_name_runs,
        },
    )
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
    build(Partition::Events(0), (3, 9), &inputs, options, 3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn built_segments_hold_their_rows(
        rows in model::rows(3_000), batch_rows in 1usize..2_000, options in options(),
    ) {
        let images = build_rows(&rows, batch_rows, &options);
        let segments: Vec<_> = images.into_iter().map(model::open).collect();
        model::check(&segments, &rows, options.max_name_runs);
    }
}

/// A cut of the rows into consecutive pieces, each of which becomes segments of its own.
fn build_pieces(
    rows: &[Row],
    cuts: &[prop::sample::Index],
    options: &BuildOptions,
) -> Vec<Vec<Arc<Segment>>> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(rows.len() + 1)).collect();
    cuts.extend([0, rows.len()]);
    cuts.sort_unstable();
    let mut built = Vec::new();
    for (number, pair) in (0..).zip(cuts.windows(2)) {
        let batch = model::batch(&rows[pair[0]..pair[1]]);
        let all: Vec<u32> = (0..batch.times.len() as u32).collect();
        let inputs = [(&batch, all.as_slice())];
        let images = build(Partition::Events(0), (number, number), &inputs, options, 1);
        built.push(images.into_iter().map(model::open).collect());
    }
    built
}

fn merge_all(inputs: &[Arc<Segment>], options: &BuildOptions) -> Vec<Arc<Segment>> {
    let merged = merge(inputs, options, None).unwrap();
    merged.into_iter().map(model::open).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn merged_segments_hold_the_rows_of_their_inputs(
        rows in model::rows(2_000),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        inner in options(),
        outer in options(),
        split: prop::sample::Index,
    ) {
        let pieces = build_pieces(&rows, &cuts, &inner);
        let inputs: Vec<_> = pieces.iter().flatten().cloned().collect();
        let merged = merge_all(&inputs, &outer);
        model::check(&merged, &rows, outer.max_name_runs);

        // Merging some neighbours first changes nothing.
        let split = split.index(pieces.len() + 1);
        let (early, late) = pieces.split_at(split);
        let flat = |pieces: &[Vec<Arc<Segment>>]| pieces.iter().flatten().cloned().collect::<Vec<_>>();
        let mut inputs = merge_all(&flat(early), &inner);
        inputs.extend(merge_all(&flat(late), &outer));
        let again = merge_all(&inputs, &outer);
        model::check(&again, &rows, outer.max_name_runs);
    }

    #[test]
    fn refused_users_are_dropped(
        rows in model::rows(1_000),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        modulus in 1u32..5,
        outer in options(),
    ) {
        let inputs: Vec<_> = build_pieces(&rows, &cuts, &BuildOptions::default()).concat();
        let keep = |ordinal: u32| !ordinal.is_multiple_of(modulus);
        let merged = merge(&inputs, &outer, Some(&keep)).unwrap();
        let merged: Vec<_> = merged.into_iter().map(model::open).collect();
        let kept: Vec<Row> = rows.into_iter().filter(|row| keep(row.user)).collect();
        model::check(&merged, &kept, outer.max_name_runs);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn traits_keep_explicit_nulls(
        mut rows in model::rows(500), split: prop::sample::Index, outer in options(),
    ) {
        rows.iter_mut().for_each(|row| row.name.clear());
        let outer = BuildOptions { max_name_runs: 10_000, ..outer };
        let (early, late) = rows.split_at(split.index(rows.len() + 1));
        let mut inputs = Vec::new();
        for (rows, options) in [(early, &BuildOptions::default()), (late, &outer)] {
            let batch = model::batch(rows);
            let all: Vec<u32> = (0..rows.len() as u32).collect();
            let images = build(Partition::Traits, (0, 1), &[(&batch, &all)], options, 1);
            inputs.extend(images.into_iter().map(model::open));
        }
        model::check(&merge_all(&inputs, &outer), &rows, 10_000);
    }

    /// Only the chosen rows of a batch go into a segment.
    #[test]
    fn rows_of_other_partitions_are_left_out(
        rows in model::rows(500), chosen: u64, options in options(),
    ) {
        let is_chosen = |row: usize| chosen >> (row % 64) & 1 != 0;
        let batch = model::batch(&rows);
        let numbers: Vec<u32> =
            (0..rows.len()).filter(|&row| is_chosen(row)).map(|row| row as u32).collect();
        let images = build(Partition::Events(7), (0, 0), &[(&batch, &numbers)], &options, 1);
        let segments: Vec<_> = images.into_iter().map(model::open).collect();
        let chosen: Vec<Row> = numbers.iter().map(|&row| rows[row as usize].clone()).collect();
        model::check(&segments, &chosen, options.max_name_runs);
    }
}

/// A merge can be stopped while it finds the order of rows, which it does slice by slice.
#[test]
fn orders_are_found_under_the_eye_of_stop() {
    let row = |at: u32| Row {
        user: at / 4,
        time: i64::from(at % 3),
        name: ["a", "b"][at as usize % 2].to_owned(),
        values: model::values(0, 0),
    };
    let asked_for = |rows: u32| {
        let rows: Vec<Row> = (0..rows).map(row).collect();
        let images = build_rows(&rows, rows.len(), &BuildOptions::default());
        let inputs: Vec<_> = images.into_iter().map(model::open).collect();
        let merge = |stop: Stop<'_>| {
            let take = |_| Ok::<_, Corruption>(());
            merge_each(&inputs, &BuildOptions::default(), None, stop, take).unwrap()
        };
        let asked = AtomicU32::new(0);
        let counting = || {
            asked.fetch_add(1, Ordering::Relaxed);
            false
        };
        assert!(merge(&counting));
        let all = asked.into_inner();
        for stops in 0..all {
            let asked = AtomicU32::new(0);
            assert!(!merge(&|| asked.fetch_add(1, Ordering::Relaxed) == stops));
        }
        all
    };
    // Sixteen rows are put in order at once.
    assert_eq!(asked_for(320) - asked_for(160), 10);
}

/// A forged bitmap may tell of users beyond those that there are.
#[test]
fn rows_are_told_of_users_that_there_are() {
    let counted = |user: u32| 1 + user % 5;
    let row = |user, time| Row {
        user,
        time,
        name: "a".to_owned(),
        values: model::values(0, 0),
    };
    // Three groups of users, the last one short.
    let users = 0..600;
    let rows: Vec<Row> = users
        .flat_map(|user| (0..i64::from(counted(user))).map(move |time| row(user, time)))
        .collect();
    let options = BuildOptions {
        compressed: false,
        merge_threads: 1,
        target_bytes: 1 << 20,
        max_rows: 10_000,
        max_name_runs: 3,
    };
    let images = build_rows(&rows, rows.len(), &options);
    let segment = model::open(images.into_iter().next().unwrap());
    let (sealed, run) = (&segment.sealed, segment.run("a").unwrap());
    let index = run.index().unwrap();
    let first = |user: u32| (0..user).map(counted).sum::<u32>();
    let mut second_group = GroupCursor::open(sealed, index.stored_counts(), 256..512).unwrap();
    let mut last_groups = GroupCursor::open(sealed, index.stored_counts(), 300..600).unwrap();
    for user in [300, 301, 511, 299, 256] {
        let rows = first(user)..first(user + 1);
        assert_eq!(second_group.rows(user).unwrap(), rows);
        assert_eq!(last_groups.rows(user).unwrap(), rows);
    }
    assert_eq!(last_groups.rows(599).unwrap(), first(599)..first(600));
    for beyond in [0, 255, 600, 767, 768, 1 << 20, u32::MAX] {
        assert!(second_group.rows(beyond).is_err(), "{beyond}");
        assert!(last_groups.rows(beyond).is_err(), "{beyond}");
    }
    assert!(second_group.rows(512).is_err());
}
