//! Damaged segments: every flipped bit and every truncation is an error, and bytes forged
//! together with their checksums never lead to a panic. Test code.

use std::path::Path;

use proptest::prelude::*;

use super::layout::{Footer, HEADER_BYTES, RunIndex};
use super::model::{self, PROPERTIES, Row};
use super::order::OrderIndex;
use super::{BuildOptions, Hours, Partition, Segment, UserStarts, build};
use crate::bitmap::Words;
use crate::error::Corruption;
use crate::format::{BlockRef, checksum};
use crate::time::MICROS_PER_DAY;

/// A small segment with everything in it: ties, an overflow run, several days and containers,
/// bitmaps of values.
fn image() -> Vec<u8> {
    let row = |at: u32| Row {
        user: [1, 2, 3, 3, 7, 66_000, 66_001][at as usize * 5 % 7],
        time: i64::from(at / 40) * MICROS_PER_DAY + i64::from(at % 2) * 1_000,
        name: ["a", "b", "a", "a", "c", "a", "a", "d", "a"][at as usize % 9].to_owned(),
        values: model::values(
            u64::from(at).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            at as usize % 3,
        ),
    };
    let rows: Vec<Row> = (0..480).map(row).collect();
    let batch = model::batch(&rows);
    let all: Vec<u32> = (0..rows.len() as u32).collect();
    let options = BuildOptions {
        max_name_runs: 2,
        ..BuildOptions::default()
    };
    let images = build(Partition::Events(0), (0, 0), &[(&batch, &all)], &options, 1);
    let image = images.into_iter().next().unwrap();
    let segment = model::open(image.clone());
    assert!(segment.overflow().is_some());
    let run = segment.runs().next().unwrap();
    assert!(!run.ties(0..run.rows()).unwrap().is_empty());
    assert!(!run.value_properties().unwrap().is_empty());
    assert!(run.days().unwrap().len() > 3);
    image.bytes
}

fn read_order(segment: &Segment) -> Result<(), Corruption> {
    let (mut found, mut runs) = (UserStarts::default(), Vec::new());
    let order = segment.order()?;
    order.user_starts(0, 2..1_000, &mut found)?;
    order.runs(found.rows().start..segment.meta().rows, &mut runs)?;
    let inside = |&run: &u16| usize::from(run) < segment.all_runs().len();
    assert!(runs.iter().all(inside));
    Ok(())
}

/// Asks a segment everything; what it answers does not matter.
fn read_all(segment: &Segment) -> Result<(), Corruption> {
    let read = segment.any_users().map(|users| users.iter().count());
    let mut results = vec![read.map(|_| ())];
    let mut starts = vec![0; 65_537];
    results.push(read_order(segment));
    for run in segment.all_runs() {
        results.push(
            run.users()
                .map(|users| assert!(users.iter().count() < 1 << 20)),
        );
        for key in [0, 1, 2] {
            results.push(run.row_starts(key, &mut starts));
            let mut found = UserStarts::default();
            results.push(run.user_starts(key, 0..1_000, &mut found));
            let wanted: Vec<u16> = (0..40).collect();
            results.push(run.rows_of_users(key, &wanted, |_, rows| {
                assert!(rows.end <= run.rows());
            }));
            if let Ok(rows) = run.container_rows(key) {
                let times = run.times(rows.clone());
                results.push(times.map(|times| {
                    let mut copied = Vec::new();
                    times.append_to(&mut copied);
                    assert_eq!(copied.len(), rows.len());
                }));
                results.push(
                    run.ties(rows)
                        .map(|ties| assert!(ties.pairs().len() < 1 << 20)),
                );
            }
        }
        for user in [1, 3, 66_000] {
            results.push(
                run.user_rows(user)
                    .map(|rows| assert!(rows.end <= run.rows())),
            );
        }
        for day in 0..14 {
            let users = run.day_users(day);
            results.push(users.map(|users| {
                let _members = users.map_or(0, |users| users.iter().count());
            }));
            let hours = run.day_hours(day).and_then(|hours| {
                let (mut before, mut after) = (Words::new(), Words::new());
                let (whole, broken) = Hours::of_range(day, 0, day * MICROS_PER_DAY + 1);
                hours.map_or(Ok(()), |hours| {
                    [0, 1].into_iter().try_for_each(|key| {
                        let known = hours.or_into(key, (whole, &mut before), (broken, &mut after));
                        known.map(|_| ())
                    })
                })
            });
            results.push(hours);
        }
        for name in PROPERTIES {
            results.push(run.value_bitmaps(name).map(|_| ()));
            results.push(run.value_users(name, "plan 1").map(|_| ()));
            let decoded = run.properties().and_then(|properties| {
                let column = properties.get(name)?;
                column
                    .map(|column| column.decode(0..run.rows()))
                    .transpose()
            });
            results.push(decoded.map(|_| ()));
        }
        results.push(run.overflow_names(0..run.rows()).map(|_| ()));
    }
    results.into_iter().collect()
}

fn open(bytes: Vec<u8>) -> Result<Segment, Corruption> {
    Segment::open(bytes.into(), Path::new("damaged.seg"))
}

#[test]
fn every_flipped_bit_is_noticed() {
    let image = image();
    open(image.clone()).unwrap().verify().unwrap();
    for at in 0..image.len() * 8 {
        let mut bytes = image.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        let found = open(bytes).and_then(|segment| {
            if at % 8 == 0 {
                let _ = read_all(&segment);
            }
            segment.verify()
        });
        let error = found.expect_err("a flipped bit went unnoticed");
        assert_eq!(error.file, Path::new("damaged.seg"));
        assert!(error.offset <= image.len() as u64);
    }
}

#[test]
fn every_truncation_is_noticed() {
    let image = image();
    for len in 0..image.len() {
        assert!(open(image[..len].to_vec()).is_err());
    }
    let longer = [image.as_slice(), &[0; 8]].concat();
    assert!(open(longer).is_err());
}

#[test]
fn misaligned_bytes_are_read_all_the_same() {
    let image = image();
    for shift in 1..8 {
        let mut bytes = vec![0; shift];
        bytes.extend_from_slice(&image);
        let bytes = bytes::Bytes::from(bytes).slice(shift..);
        let segment = Segment::open(bytes, Path::new("shifted.seg")).unwrap();
        segment.verify().unwrap();
    }
}

/// What a forger needs: the parts of a good segment.
struct Forge {
    body: Vec<u8>,
    footer: Footer,
    blocks: u32,
    indexes: Vec<RunIndex>,
    order: OrderIndex,
}

impl Forge {
    fn new() -> Self {
        let image = image();
        let (footer, blocks) = Footer::open(&image, Path::new("good.seg")).unwrap();
        let segment = open(image.clone()).unwrap();
        let indexes = (0..footer.runs.len()).map(|run| segment.index(run).unwrap().clone());
        Self {
            body: image[..Footer::offset(&image)].to_vec(),
            indexes: indexes.collect(),
            order: segment.order_index().unwrap().clone(),
            footer,
            blocks,
        }
    }

    /// The segment with other bytes in its body, and every checksum made to match.
    fn seal(&self, body: Vec<u8>) -> Vec<u8> {
        let mut body = body;
        let mut footer = self.footer.clone();
        reseal(&mut footer.users, &body);
        let place = footer.order.offset as usize
            ..(footer.order.offset + u64::from(footer.order.len)) as usize;
        if body[place.clone()] == self.body[place.clone()] {
            let mut order = self.order.clone();
            order.counts.reseal(&body);
            order.numbers.reseal(&body);
            body[place].copy_from_slice(&order.encode());
        }
        reseal(&mut footer.order, &body);
        for (entry, index) in footer.runs.iter_mut().zip(&self.indexes) {
            let place =
                entry.index.offset as usize..entry.index.offset as usize + entry.index.len as usize;
            // Where the index block itself was changed it stays as it is.
            if body[place.clone()] == self.body[place.clone()] {
                let mut index = index.clone();
                reseal(&mut index.users_block, &body);
                reseal(&mut index.properties, &body);
                for block in [&mut index.values, &mut index.names].into_iter().flatten() {
                    reseal(block, &body);
                }
                for area in [
                    &mut index.counts,
                    &mut index.times,
                    &mut index.ties,
                    &mut index.day_bitmaps,
                    &mut index.value_bitmaps,
                ] {
                    area.reseal(&body);
                }
                body[place].copy_from_slice(&index.encode());
            }
            reseal(&mut entry.index, &body);
        }
        footer.seal_body(body, self.blocks)
    }
}

fn reseal(block: &mut BlockRef, body: &[u8]) {
    let start = block.offset as usize;
    block.checksum = checksum(&body[start..start + block.len as usize]);
}

#[test]
fn forging_nothing_gives_the_same_segment() {
    let forge = Forge::new();
    assert_eq!(forge.seal(forge.body.clone()), image());
}

#[test]
fn forged_bytes_never_panic() {
    let forge = Forge::new();
    let mut refused = 0;
    for at in HEADER_BYTES..forge.body.len() {
        for change in [1, 0x40, 0xff] {
            let mut body = forge.body.clone();
            body[at] ^= change;
            let Ok(segment) = open(forge.seal(body)) else {
                refused += 1;
                continue;
            };
            let _ = read_all(&segment);
            refused += usize::from(segment.verify().is_err());
        }
    }
    // Some changes make another sound segment (a property's value, a time); most do not.
    assert!(
        refused > forge.body.len(),
        "verifying looks at what it reads"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn several_forged_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        thread_local!(static FORGE: Forge = Forge::new());
        FORGE.with(|forge| {
            let mut body = forge.body.clone();
            for (at, byte) in changes {
                body[HEADER_BYTES + at.index(forge.body.len() - HEADER_BYTES)] = byte;
            }
            if let Ok(segment) = open(forge.seal(body)) {
                let _ = read_all(&segment);
                let _ = segment.verify();
            }
        });
    }
}
