//! What the shop sells: products by rank of popularity, each with a category and a price that
//! follow from it.

use pugmark_engine::batch::StringTable;

use super::random::{Random, mix};

/// Products of the shop.
pub(super) const PRODUCTS: u64 = 100_000;
/// Ids are `ID_BASE` plus a scrambled rank below 2^17.
const ID_BASE: i64 = 1_000_000;

const DEPARTMENTS: [&str; 8] = [
    "electronics",
    "appliances",
    "furniture",
    "apparel",
    "kids",
    "sport",
    "auto",
    "stationery",
];
const LINES: [&str; 10] = [
    "basic", "classic", "outdoor", "kitchen", "travel", "audio", "garden", "office", "bedroom",
    "studio",
];
const GOODS: [&str; 5] = ["set", "case", "lamp", "tool", "bag"];
/// Categories: every combination of the three lists above.
pub(super) const CATEGORIES: usize = DEPARTMENTS.len() * LINES.len() * GOODS.len();

/// The names of all categories, in the order of their numbers.
pub(super) fn category_names() -> StringTable {
    let mut names = StringTable::default();
    for department in DEPARTMENTS {
        for line in LINES {
            for good in GOODS {
                names.push(&format!("{department}.{line}.{good}"));
            }
        }
    }
    names
}

/// The id of the product of popularity rank `product`: distinct for distinct ranks.
pub(super) fn product_id(product: u32) -> i64 {
    // An odd factor permutes the residues modulo 2^17.
    ID_BASE + (u64::from(product).wrapping_mul(0x9E37_79B1) & 0x1_FFFF) as i64
}

/// The category of a product: squaring a uniform number makes the first categories large.
pub(super) fn category(product: u32) -> u32 {
    let uniform = mix(u64::from(product) ^ 0xCA7E_6041) >> 32;
    let squared = (uniform * uniform) >> 32;
    ((squared * CATEGORIES as u64) >> 32) as u32
}

/// The price of a product in cents on a day: mostly its list price, a fifth off on one day in
/// sixteen.
pub(super) fn price_cents(product: u32, day: u32) -> u32 {
    let bits = mix(u64::from(product) ^ 0x0009_21CE);
    let uniform = (bits & 0xFFFF) as u32;
    let list = 99 + ((uniform * (uniform >> 4)) >> 10) + (bits >> 60) as u32 * 100;
    let promoted = mix((u64::from(product) << 32) | u64::from(day)) & 15 == 0;
    if promoted { list - list / 5 } else { list }
}

/// A product to look at first.
pub(super) fn draw(random: &mut Random) -> u32 {
    random.power_law(PRODUCTS, 0.0) as u32
}

/// The product looked at after `product`: the same again, a neighbour, or any other, so that
/// products have company that an affinity analysis can find.
pub(super) fn draw_next(random: &mut Random, product: u32) -> u32 {
    match random.below(10) {
        0 | 1 => product,
        2..=4 => (product ^ random.between(1, 8) as u32).min(PRODUCTS as u32 - 1),
        _ => draw(random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_categories_all_used() {
        let mut ids = std::collections::HashSet::new();
        let mut used = std::collections::HashSet::new();
        for product in 0..PRODUCTS as u32 {
            assert!(ids.insert(product_id(product)));
            assert!(used.insert(category(product)) || used.contains(&category(product)));
            assert!((50..500_000).contains(&price_cents(product, product % 90)));
        }
        assert_eq!(used.len(), CATEGORIES);
        assert_eq!(category_names().len(), CATEGORIES);
    }

    #[test]
    fn promotions_are_rare_and_lower_the_price() {
        let prices: Vec<u32> = (0..160).map(|day| price_cents(7, day)).collect();
        let list = *prices.iter().max().unwrap();
        let promoted = prices.iter().filter(|&&price| price < list).count();
        assert!((1..40).contains(&promoted), "{promoted}");
    }
}
