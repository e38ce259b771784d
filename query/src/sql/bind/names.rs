//! Names of columns in plain SQL: dots without quotes, and case where it is the only difference.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem};

use super::super::catalog::{Catalog, EVENT_COLUMNS, Seen, USER_COLUMNS};

/// Which of our tables a SELECT reads, and which names it gives.
#[derive(Clone, Debug, Default)]
pub(super) struct InReach {
    /// What each table of the FROM is called, and which of ours it is.
    tables: Vec<(String, Option<Own>)>,
    /// Names that the SELECT gives to its columns.
    given: BTreeSet<String>,
}

/// A table of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Events,
    Users,
}

impl InReach {
    pub(super) fn of(select: &Select) -> Self {
        let given = select.projection.iter().filter_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.to_ascii_lowercase()),
            _ => None,
        });
        Self {
            tables: Vec::new(),
            given: given.collect(),
        }
    }

    /// The FROM has a table of this name; which of ours it is, if any.
    pub(super) fn add(&mut self, called: &str, own: Option<Own>) {
        self.tables.push((called.to_ascii_lowercase(), own));
    }

    /// Puts the exact name of a property or trait in the place of one that is written otherwise.
    pub(super) fn resolve(&self, catalog: &Catalog, expr: &mut Expr) {
        match expr {
            Expr::Identifier(ident) if ident.quote_style.is_none() => {
                let given = self.given.contains(&ident.value.to_ascii_lowercase());
                if !given && let Some(name) = self.anywhere(catalog, &ident.value) {
                    *ident = quoted(ident, name);
                }
            }
            Expr::CompoundIdentifier(parts) if parts.len() > 1 => {
                let of = parts[0].value.to_ascii_lowercase();
                match self.tables.iter().find(|(called, _)| *called == of) {
                    Some((_, own)) => {
                        let rest = &parts[1..];
                        let written =
                            (rest.len() > 1 || rest[0].quote_style.is_none()).then(|| joined(rest));
                        let known = own.map(|own| columns(catalog, own));
                        let name = written.zip(known);
                        let name = name.and_then(|(written, known)| exact(&known, &written));
                        if let Some(name) = name {
                            let name = quoted(&parts[1], name);
                            parts.truncate(1);
                            parts.push(name);
                        }
                    }
                    None => {
                        if let Some(name) = self.anywhere(catalog, &joined(parts)) {
                            *expr = Expr::Identifier(quoted(&parts[0], name));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// A column of any of the tables, where all of them are ours.
    fn anywhere(&self, catalog: &Catalog, written: &str) -> Option<String> {
        let own: Option<Vec<Own>> = self.tables.iter().map(|(_, own)| *own).collect();
        let own = own?;
        let known = own.iter().flat_map(|own| columns(catalog, *own)).collect();
        exact(&known, written)
    }
}

fn columns(catalog: &Catalog, own: Own) -> BTreeSet<&str> {
    let (seen, taken): (&BTreeMap<String, Seen>, _) = match own {
        Own::Events => (&catalog.properties, EVENT_COLUMNS),
        Own::Users => (&catalog.traits, USER_COLUMNS),
    };
    seen.keys().map(String::as_str).chain(taken).collect()
}

fn joined(parts: &[Ident]) -> String {
    let values: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
    values.join(".")
}

fn quoted(of: &Ident, name: String) -> Ident {
    let mut ident = Ident::with_quote('"', name);
    ident.span = of.span;
    ident
}

/// The column that is meant: of this very name, else the only one that differs in case alone.
fn exact(known: &BTreeSet<&str>, written: &str) -> Option<String> {
    if known.contains(written) {
        return Some(written.to_owned());
    }
    let mut alike = known
        .iter()
        .filter(|name| name.eq_ignore_ascii_case(written));
    let first = alike.next()?;
    alike.next().is_none().then(|| (*first).to_owned())
}
