//! Values of uncorrelated subqueries inside conditions.
//!
//! A statement is bound again and again until it asks for no subquery that has not been run: each
//! run answers those that were found missing.

use std::cell::RefCell;
use std::collections::BTreeMap;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::Query;

use super::super::error::SqlError;

/// Answers by the text of the subquery, and those that are asked for and missing.
#[derive(Debug, Default)]
pub(in crate::sql) struct Subqueries {
    values: BTreeMap<String, Vec<ScalarValue>>,
    missing: RefCell<BTreeMap<String, Query>>,
}

impl Subqueries {
    /// The values of a subquery; none, and a note of it, where it has not been run.
    pub(super) fn values(&self, query: &Query) -> Result<&[ScalarValue], SqlError> {
        let text = query.to_string();
        match self.values.get(&text) {
            Some(values) => Ok(values),
            None => {
                self.missing.borrow_mut().insert(text, query.clone());
                Ok(&[])
            }
        }
    }

    /// Takes the subqueries that were asked for and are missing.
    pub(in crate::sql) fn take_missing(&mut self) -> BTreeMap<String, Query> {
        std::mem::take(self.missing.get_mut())
    }

    /// Keeps the answer of one.
    pub(in crate::sql) fn insert(&mut self, text: String, values: Vec<ScalarValue>) {
        self.values.insert(text, values);
    }
}
