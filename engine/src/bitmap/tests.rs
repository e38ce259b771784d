//! Laws of set algebra, against `std` sets and the `roaring` crate.

use std::collections::BTreeSet;

use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::{BitmapBuilder, BitmapView, Words, split};

/// Ordinals in a few containers: scattered ones, dense stretches and whole containers.
fn ordinals() -> impl Strategy<Value = BTreeSet<u32>> {
    let key = prop_oneof![0u32..4, 65_530u32..65_536];
    let piece = (key, 0u32..65_536, 0u32..9_000, 1u32..4).prop_map(|(key, start, len, step)| {
        let base = key << 16;
        (start..(start + len).min(65_536))
            .step_by(step as usize)
            .map(move |low| base | low)
            .collect::<Vec<u32>>()
    });
    let single = (0u32..4, 0u32..65_536).prop_map(|(key, low)| vec![key << 16 | low]);
    let whole = (0u32..3).prop_map(|key| (key << 16..=(key << 16 | 0xffff)).collect());
    let pieces = prop_oneof![4 => piece, 4 => single, 1 => whole];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.into_iter().flatten().collect())
}

fn encode(users: &BTreeSet<u32>, dense: bool) -> Vec<u8> {
    let mut builder = BitmapBuilder::new();
    let keys: BTreeSet<u16> = users.iter().map(|&user| split(user).0).collect();
    for key in keys {
        let lows: Vec<u16> = users
            .range(u32::from(key) << 16..=(u32::from(key) << 16 | 0xffff))
            .map(|&user| split(user).1)
            .collect();
        if dense {
            builder.push_words(key, &lows.into_iter().collect());
        } else {
            builder.push(key, &lows);
        }
    }
    assert_eq!(builder.cardinality(), users.len() as u64);
    let expected = builder.byte_len();
    let bytes = builder.finish();
    assert_eq!(bytes.len(), expected);
    bytes
}

fn roaring_bytes(users: &BTreeSet<u32>, optimize: bool) -> Vec<u8> {
    let mut bitmap: RoaringBitmap = users.iter().copied().collect();
    if optimize {
        bitmap.optimize();
    }
    let mut bytes = Vec::new();
    bitmap.serialize_into(&mut bytes).unwrap();
    bytes
}

fn check_view(bytes: &[u8], users: &BTreeSet<u32>) {
    let view = BitmapView::open(bytes).unwrap();
    view.check().unwrap();
    assert_eq!(view.cardinality(), users.len() as u64);
    assert!(view.iter().eq(users.iter().copied()));
    assert!(view.to_bitmap().unwrap().iter().eq(users.iter().copied()));
    let mut first_index = 0;
    for container in view.containers() {
        assert_eq!(container.first_index, first_index);
        let found = view.container(container.key).unwrap();
        assert_eq!(found.first_index, first_index);
        assert!(found.iter().eq(container.iter()));
        let (mut listed, mut visited) = (Vec::new(), Vec::new());
        container.append_to(&mut listed);
        container.for_each(|low| visited.push(low));
        assert!(container.iter().eq(listed.iter().copied()));
        assert_eq!(listed, visited);
        assert_eq!(listed.len(), container.cardinality as usize);
        first_index += u64::from(container.cardinality);
    }
    let probes = users
        .iter()
        .copied()
        .flat_map(|user| [user.saturating_sub(1), user, user.saturating_add(1)]);
    for probe in probes.step_by(97).chain([0, 65_535, 65_536, u32::MAX]) {
        assert_eq!(view.contains(probe), users.contains(&probe));
        if probe % 31 == 0 {
            assert_eq!(view.rank(probe), users.range(..probe).count() as u64);
        }
    }
    let again = BitmapView::from_shape(bytes, view.shape());
    assert!(again.iter().eq(users.iter().copied()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn views_read_what_was_written(users in ordinals(), dense: bool) {
        let ours = encode(&users, dense);
        check_view(&ours, &users);
        let read = RoaringBitmap::deserialize_from(ours.as_slice()).unwrap();
        prop_assert!(read.iter().eq(users.iter().copied()));
        check_view(&roaring_bytes(&users, false), &users);
        let optimized = roaring_bytes(&users, true);
        check_view(&optimized, &users);
        prop_assert!(ours.len() <= optimized.len());
    }

    #[test]
    fn algebra_is_that_of_sets(a in ordinals(), b in ordinals(), optimize: bool) {
        let of = |users: &BTreeSet<u32>, key: u32| -> BTreeSet<u16> {
            users.range(key << 16..=(key << 16 | 0xffff)).map(|&user| split(user).1).collect()
        };
        let bytes = roaring_bytes(&b, optimize);
        let view = BitmapView::open(&bytes).unwrap();
        for key in 0..4u32 {
            let (left, right) = (of(&a, key), of(&b, key));
            let base: Words = left.iter().copied().collect();
            let other: Words = right.iter().copied().collect();
            type Apply<'a> = (&'a dyn Fn(&mut Words), &'a dyn Fn(&mut Words), BTreeSet<u16>);
            let cases: [Apply<'_>; 3] = [
                (&|w| w.or(&other), &|w| view.or_into(key as u16, w), &left | &right),
                (&|w| w.and(&other), &|w| view.and_into(key as u16, w), &left & &right),
                (&|w| w.and_not(&other), &|w| view.and_not_into(key as u16, w), &left - &right),
            ];
            for (dense, in_place, expected) in cases {
                let (mut first, mut second) = (base.clone(), base.clone());
                dense(&mut first);
                in_place(&mut second);
                prop_assert!(first.iter().eq(expected.iter().copied()));
                prop_assert!(first == second);
                prop_assert_eq!(first.len() as usize, expected.len());
                prop_assert_eq!(first.is_empty(), expected.is_empty());
            }
        }
    }

    #[test]
    fn ranges_of_words(users in ordinals(), start in 0u32..70_000, len in 0u32..70_000) {
        let lows: BTreeSet<u16> = users.iter().map(|&user| split(user).1).collect();
        let words: Words = lows.iter().copied().collect();
        let range = start..start + len;
        let inside: BTreeSet<u16> =
            lows.iter().copied().filter(|&low| range.contains(&u32::from(low))).collect();
        prop_assert_eq!(words.len_in(range.clone()) as usize, inside.len());
        let mut restricted = words.clone();
        restricted.restrict(range.clone());
        prop_assert!(restricted.iter().eq(inside.iter().copied()));
        let mut removed = words.clone();
        removed.remove_range(range.clone());
        let mut visited = Vec::new();
        removed.for_each(|low| visited.push(low));
        prop_assert!((&lows - &inside).into_iter().eq(visited));
        let whole = Words::of_range(range.clone());
        prop_assert!(whole.iter().eq((start.min(65_536)..range.end.min(65_536)).map(|l| l as u16)));
    }

    /// Whatever the bytes, a view never panics and never yields more than its containers hold.
    #[test]
    fn damaged_bytes_never_panic(users in ordinals(), at: prop::sample::Index, bit in 0u8..8,
                                 cut: Option<prop::sample::Index>, optimize: bool) {
        let mut bytes = roaring_bytes(&users, optimize);
        let at = at.index(bytes.len().min(64));
        bytes[at] ^= 1 << bit;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(view) = BitmapView::open(&bytes) {
            prop_assert!(view.iter().count() <= view.container_count() << 16);
            let sound = view.check().is_ok();
            prop_assert_eq!(sound, view.to_bitmap().is_ok());
            let mut words = Words::new();
            for (key, _) in view.keys() {
                view.or_into(key, &mut words);
                view.and_into(key, &mut words);
                view.and_not_into(key, &mut words);
                if let Some(container) = view.container(key) {
                    let mut lows = Vec::new();
                    container.common(&words, &mut lows);
                    container.for_each_of(&[3, 70, 60_000], |_, _| {});
                    let table = vec![0; container.cardinality as usize + 1];
                    container.spread(&table, &mut vec![0; 65_537]);
                }
                view.rank(super::join(key, 77));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn common_members_and_their_ranks(users in ordinals(), wanted in prop::collection::btree_set(any::<u16>(), 0..300), optimize: bool) {
        let bytes = roaring_bytes(&users, optimize);
        for container in BitmapView::open(&bytes).unwrap().containers() {
            let members: Vec<u16> = container.iter().collect();
            // Some of each: members, their neighbours, others.
            let mut wanted = wanted.clone();
            wanted.extend(members.iter().step_by(7));
            wanted.extend(members.iter().step_by(11).map(|low| low.wrapping_add(1)));
            let words: Words = wanted.iter().copied().collect();
            let expected: Vec<u16> = members.iter().copied().filter(|low| wanted.contains(low)).collect();
            let mut found = Vec::new();
            container.common(&words, &mut found);
            prop_assert_eq!(&found, &expected);
            let lows: Vec<u16> = wanted.into_iter().collect();
            let mut ranked = Vec::new();
            container.for_each_of(&lows, |low, rank| ranked.push((low, rank)));
            let rank = |low: u16| members.partition_point(|&member| member < low) as u32;
            prop_assert!(ranked.into_iter().eq(expected.into_iter().map(|low| (low, rank(low)))));
        }
    }

    #[test]
    fn spreading_looks_up_ranks(users in ordinals(), optimize: bool) {
        let bytes = roaring_bytes(&users, optimize);
        let view = BitmapView::open(&bytes).unwrap();
        let mut out = vec![0; 65_537];
        for container in view.containers() {
            let table: Vec<u32> = (0..=container.cardinality).map(|rank| rank * 3 + 1).collect();
            prop_assert!(container.spread(&table, &mut out));
            let words: Words = container.iter().collect();
            let mut rank = 0;
            for place in 0..=65_536u32 {
                prop_assert_eq!(out[place as usize], rank * 3 + 1);
                rank += u32::from(place < 65_536 && words.contains(place as u16));
            }
            prop_assert!(!container.spread(&table[1..], &mut out));
        }
    }
}
