//! Names of columns in plain SQL: dots without quotes, and case where it is the only difference.

use datafusion::sql::sqlparser::ast::{Expr, Ident};

use super::super::catalog::{Catalog, EVENT_COLUMNS, USER_COLUMNS};

/// Puts the exact name of a property or trait in the place of one that is written otherwise.
pub(super) fn resolve(catalog: &Catalog, expr: &mut Expr) {
    match expr {
        Expr::Identifier(ident) if ident.quote_style.is_none() => {
            if let Some(name) = exact(catalog, &ident.value) {
                *ident = quoted(ident, name);
            }
        }
        Expr::CompoundIdentifier(parts) if parts.len() > 1 => {
            let joined = |parts: &[Ident]| {
                let values: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
                exact(catalog, &values.join("."))
            };
            if let Some(name) = joined(parts) {
                *expr = Expr::Identifier(quoted(&parts[0], name));
            } else if let Some(name) = joined(&parts[1..])
                && (parts.len() > 2 || parts[1].quote_style.is_none())
            {
                let name = quoted(&parts[1], name);
                parts.truncate(1);
                parts.push(name);
            }
        }
        _ => {}
    }
}

fn quoted(of: &Ident, name: String) -> Ident {
    let mut ident = Ident::with_quote('"', name);
    ident.span = of.span;
    ident
}

/// The column that is meant: of this very name, else the only one that differs in case alone.
fn exact(catalog: &Catalog, written: &str) -> Option<String> {
    let own = EVENT_COLUMNS.iter().chain(&USER_COLUMNS).copied();
    if own.clone().any(|name| name.eq_ignore_ascii_case(written)) {
        return None;
    }
    let known =
        |name: &str| catalog.properties.contains_key(name) || catalog.traits.contains_key(name);
    if known(written) {
        return Some(written.to_owned());
    }
    let names = catalog.properties.keys().chain(catalog.traits.keys());
    let mut alike = names.filter(|name| name.eq_ignore_ascii_case(written));
    let first = alike.next()?;
    alike.all(|name| name == first).then(|| first.clone())
}
