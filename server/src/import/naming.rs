//! The parts of an event that are no properties: their checks, and how its name comes about.

use std::borrow::Cow;

use pugmark_engine::limits;

use super::error::Problem;
use super::options::{EventNaming, EventRule};

/// Names events by their fields; `K` is how the format finds a field.
#[derive(Debug)]
pub(crate) struct Namer<K> {
    rules: Vec<(K, EventRule)>,
    columns: Vec<K>,
    fixed: String,
}

impl<K> Namer<K> {
    /// Finds every column that `naming` speaks of by `find`.
    pub(crate) fn new<E>(
        naming: &EventNaming,
        mut find: impl FnMut(&str) -> Result<K, E>,
    ) -> Result<Self, E> {
        let rules = naming
            .rules
            .iter()
            .map(|rule| Ok((find(&rule.column)?, rule.clone())));
        let rules = rules.collect::<Result<_, E>>()?;
        let columns = naming
            .columns
            .iter()
            .map(|column| find(column))
            .collect::<Result<_, E>>()?;
        let fixed = naming.fixed.clone().unwrap_or_default();
        Ok(Self {
            rules,
            columns,
            fixed,
        })
    }

    /// The column that every name comes from as it is, if there is one.
    pub(crate) fn single_column(&self) -> Option<&K> {
        match (self.rules.as_slice(), self.columns.as_slice()) {
            ([], [single]) => Some(single),
            _ => None,
        }
    }

    /// The columns that names come from.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.rules.iter().map(|(key, _)| key).chain(&self.columns)
    }

    /// The name of the event whose fields `field` gives; missing ones as the empty text.
    pub(crate) fn name<'a>(
        &'a self,
        field: impl Fn(&K) -> Cow<'a, str>,
    ) -> Result<Cow<'a, str>, Problem> {
        let held = self
            .rules
            .iter()
            .find(|(key, rule)| rule.holds(&field(key)));
        let name = match (held, self.columns.as_slice()) {
            (Some((_, rule)), _) => Cow::Borrowed(rule.name.as_str()),
            (None, []) => Cow::Borrowed(self.fixed.as_str()),
            (None, [single]) => field(single),
            (None, several) => {
                let parts: Vec<Cow<'a, str>> = several.iter().map(field).collect();
                if parts.iter().all(|part| part.is_empty()) {
                    return Err(Problem::NoEvent);
                }
                Cow::Owned(parts.join("|"))
            }
        };
        check_name(&name, "the event name", Problem::NoEvent)?;
        Ok(name)
    }
}

/// Refuses a user id or name that is empty or too long.
pub(crate) fn check_name(text: &str, field: &'static str, empty: Problem) -> Result<(), Problem> {
    if text.is_empty() {
        return Err(empty);
    }
    check_length(text, field)
}

/// Refuses an id or a name that is too long.
pub(crate) fn check_length(text: &str, field: &'static str) -> Result<(), Problem> {
    let bytes = text.len();
    if bytes > limits::MAX_NAME_BYTES {
        return Err(Problem::NameTooLong { field, bytes });
    }
    Ok(())
}

/// Refuses a property's text that is too long.
pub(crate) fn check_text(text: &str, property: &str) -> Result<(), Problem> {
    let bytes = text.len();
    if bytes > limits::MAX_TEXT_BYTES {
        let property = property.to_owned();
        return Err(Problem::TextTooLong { property, bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(naming: &EventNaming, fields: [&'static str; 2]) -> Result<String, Problem> {
        let find = |column: &str| Ok::<usize, ()>(usize::from(column == "b"));
        let namer = Namer::new(naming, find).unwrap();
        namer
            .name(|&at| Cow::Borrowed(fields[at]))
            .map(Cow::into_owned)
    }

    #[test]
    fn rules_then_columns_then_the_fixed_name() {
        let mut naming = EventNaming {
            rules: vec!["b^=C:cancel".parse().unwrap(), "b=x:other".parse().unwrap()],
            columns: vec!["a".to_owned(), "b".to_owned()],
            fixed: None,
        };
        assert_eq!(name(&naming, ["p", "C1"]).unwrap(), "cancel");
        assert_eq!(name(&naming, ["p", "x"]).unwrap(), "other");
        assert_eq!(name(&naming, ["p", "q"]).unwrap(), "p|q");
        assert_eq!(name(&naming, ["p", ""]).unwrap(), "p|");
        assert_eq!(name(&naming, ["", ""]), Err(Problem::NoEvent));
        naming.columns.pop();
        assert_eq!(name(&naming, ["p", "q"]).unwrap(), "p");
        assert_eq!(name(&naming, ["", "q"]), Err(Problem::NoEvent));
        naming.columns.pop();
        naming.fixed = Some("purchase".to_owned());
        assert_eq!(name(&naming, ["", "q"]).unwrap(), "purchase");
        naming.fixed = Some("p".repeat(256));
        assert!(matches!(
            name(&naming, ["", "q"]),
            Err(Problem::NameTooLong { bytes: 256, .. })
        ));
    }
}
