//! Turns compact events into the columns of a batch.

use pugmark_engine::batch::{
    Column, IdColumn, Part, Presence, Property, StringTable, TextColumn, Values,
};
use pugmark_engine::{BatchColumns, EventBatch};

use super::behaviour::{CHANNELS, THEMES};
use super::people::{PLATFORMS, People};
use super::queue::{Event, NO_PRODUCT, NONE};
use super::{BATCH_ROWS, NAMES, catalog};

/// The texts that every batch refers to.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    names: StringTable,
    categories: StringTable,
    category_of: Vec<u16>,
    platforms: StringTable,
    campaigns: StringTable,
}

impl Texts {
    pub(super) fn new() -> Self {
        let mut campaigns = StringTable::default();
        for theme in THEMES {
            for channel in ["email", "push", "sms"] {
                campaigns.push(&format!("{channel}_{theme}"));
            }
        }
        debug_assert_eq!(campaigns.len(), THEMES.len() * CHANNELS);
        Self {
            names: table(&NAMES),
            categories: catalog::category_names(),
            category_of: (0..catalog::PRODUCTS as u32)
                .map(|product| catalog::category(product) as u16)
                .collect(),
            platforms: table(&PLATFORMS),
            campaigns,
        }
    }
}

fn table(texts: &[&str]) -> StringTable {
    let mut table = StringTable::default();
    texts.iter().for_each(|text| {
        table.push(text);
    });
    table
}

/// A property that not every event has.
#[derive(Clone, Debug)]
struct Sparse<T> {
    rows: Vec<u32>,
    values: Vec<T>,
}

impl<T> Sparse<T> {
    fn new(capacity: usize) -> Self {
        Self {
            rows: Vec::with_capacity(capacity),
            values: Vec::with_capacity(capacity),
        }
    }

    fn push(&mut self, row: u32, value: T) {
        self.rows.push(row);
        self.values.push(value);
    }
}

/// The columns of the batch under construction.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    users: Vec<i64>,
    times: Vec<i64>,
    names: Vec<u32>,
    products: Sparse<i64>,
    categories: Vec<u32>,
    prices: Vec<f64>,
    platforms: Sparse<u32>,
    campaigns: Sparse<u32>,
    orders: Sparse<i64>,
    amounts: Sparse<f64>,
}

impl Rows {
    pub(super) fn new() -> Self {
        Self {
            users: Vec::with_capacity(BATCH_ROWS),
            times: Vec::with_capacity(BATCH_ROWS),
            names: Vec::with_capacity(BATCH_ROWS),
            products: Sparse::new(BATCH_ROWS),
            categories: Vec::with_capacity(BATCH_ROWS),
            prices: Vec::with_capacity(BATCH_ROWS),
            platforms: Sparse::new(BATCH_ROWS),
            campaigns: Sparse::new(0),
            orders: Sparse::new(0),
            amounts: Sparse::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    pub(super) fn push(
        &mut self,
        event: &Event,
        start_micros: i64,
        people: &People,
        texts: &Texts,
    ) {
        let row = self.times.len() as u32;
        self.users.push(people.user_id(event.rank));
        self.times
            .push(start_micros + event.time_millis as i64 * 1_000);
        self.names.push(u32::from(event.name));
        if event.product != NO_PRODUCT {
            let day = (event.time_millis / 86_400_000) as u32;
            let cents = catalog::price_cents(event.product, day);
            self.products.push(row, catalog::product_id(event.product));
            self.categories
                .push(u32::from(texts.category_of[event.product as usize]));
            self.prices.push(f64::from(cents) / 100.0);
        }
        if event.platform != NONE {
            self.platforms.push(row, u32::from(event.platform));
        }
        if event.campaign != NONE {
            self.campaigns.push(row, u32::from(event.campaign));
        }
        if event.order != 0 {
            self.orders.push(row, i64::from(event.order));
        }
        if event.amount_cents != 0 {
            self.amounts
                .push(row, f64::from(event.amount_cents) / 100.0);
        }
    }

    /// The batch of all rows so far.
    #[expect(
        clippy::expect_used,
        reason = "the columns are built here from names and ids of known length; a refusal is a bug"
    )]
    pub(super) fn finish(self, texts: &Texts) -> EventBatch {
        let count = self.times.len() as u32;
        let text = |codes, values: &StringTable| {
            let values = values.clone();
            Values::Text(TextColumn { codes, values })
        };
        let product_rows = self.products.rows;
        let properties = [
            (
                "product_id",
                product_rows.clone(),
                Values::I64(self.products.values),
            ),
            (
                "category_code",
                product_rows.clone(),
                text(self.categories, &texts.categories),
            ),
            ("price", product_rows, Values::F64(self.prices)),
            (
                "platform",
                self.platforms.rows,
                text(self.platforms.values, &texts.platforms),
            ),
            (
                "campaign",
                self.campaigns.rows,
                text(self.campaigns.values, &texts.campaigns),
            ),
            (
                "order_id",
                self.orders.rows,
                Values::I64(self.orders.values),
            ),
            (
                "amount",
                self.amounts.rows,
                Values::F64(self.amounts.values),
            ),
        ];
        let properties = properties
            .into_iter()
            .filter(|(_, rows, _)| !rows.is_empty())
            .map(|(name, rows, values)| property(name, count, rows, values));
        BatchColumns {
            users: IdColumn::Int(self.users),
            times: self.times,
            events: TextColumn {
                codes: self.names,
                values: texts.names.clone(),
            },
            message_ids: None,
            properties: properties.collect(),
        }
        .finish()
        .expect("a generated batch is well formed")
    }
}

fn property(name: &str, count: u32, rows: Vec<u32>, values: Values) -> Property {
    let presence = if rows.len() == count as usize {
        Presence::All
    } else {
        Presence::Rows(rows)
    };
    let parts = vec![Part { presence, values }];
    let name = name.to_owned();
    let column = Column { rows: count, parts };
    Property { name, column }
}
