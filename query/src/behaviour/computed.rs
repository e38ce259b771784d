//! Values computed from several of an event's.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use pugmark_engine::codec::ColumnView;
use pugmark_engine::{Corruption, Value};

use super::condition::Operand;
use crate::exec::QueryError;

/// What is computed of an event: an [`Operand`] beside its properties.
#[derive(Clone)]
pub struct Computed(Arc<Inner>);

struct Inner {
    text: String,
    inputs: Vec<Operand>,
    function: Box<dyn Compute>,
}

/// Told how many bytes more the results hold, now and then; fails where there is no room for them,
/// or where the query must stop.
pub(crate) type Keep<'k> = &'k mut dyn FnMut(usize) -> Result<(), QueryError>;

/// A function of some events' values, computed for many events at once.
pub(crate) trait Compute: Send + Sync {
    /// The results for `events` events: `inputs` has what each operand is for each of them.
    fn compute(
        &self,
        inputs: &[Input<'_>],
        events: usize,
        keep: Keep<'_>,
    ) -> Result<Computation, QueryError>;
}

/// What an operand is for some events.
pub(crate) enum Input<'a> {
    /// Neighbouring rows of a run; `None` where it has no such column.
    Rows(Option<Rc<ColumnView<'a>>>, Range<u32>),
    /// A value for each event.
    Values(Vec<Option<Value>>),
    /// One value for all events.
    Same(Option<Value>),
}

/// Results, one for each event; `None` where there is none.
#[derive(Debug, Default)]
pub(crate) struct Computation {
    pub(crate) values: Vec<Option<Value>>,
    /// How many of the missing ones are so because computing them failed.
    pub(crate) failed: u64,
}

/// An operand computed from others, event by event, and shown as `text`.
///
/// `function` is given a value, or `None` where it is missing, for each of `inputs`; they are
/// properties, traits, the event's name or its time.
///
/// ```
/// use pugmark_engine::Value;
/// use pugmark_query::{computed, event, property};
/// let total = computed("price * quantity", [property("price"), property("quantity")], |of| {
///     match of {
///         [Some(Value::F64(price)), Some(Value::I64(quantity))] => Some(Value::F64(price * *quantity as f64)),
///         _ => None,
///     }
/// });
/// let large = event("purchase").and(total.gt(100.0));
/// assert_eq!(large.to_string(), "(event = 'purchase' AND price * quantity > 100.0)");
/// ```
pub fn computed(
    text: &str,
    inputs: impl IntoIterator<Item = Operand>,
    function: impl Fn(&[Option<Value>]) -> Option<Value> + Send + Sync + 'static,
) -> Operand {
    Operand::Computed(Computed::new(text, inputs, ByEvent(function)))
}

impl Computed {
    pub(crate) fn new(
        text: &str,
        inputs: impl IntoIterator<Item = Operand>,
        function: impl Compute + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            text: text.to_owned(),
            inputs: inputs.into_iter().collect(),
            function: Box::new(function),
        }))
    }

    /// What it is computed from.
    pub fn inputs(&self) -> &[Operand] {
        &self.0.inputs
    }

    /// The results for `events` events.
    pub(crate) fn compute(
        &self,
        inputs: &[Input<'_>],
        events: usize,
        keep: Keep<'_>,
    ) -> Result<Computation, QueryError> {
        self.0.function.compute(inputs, events, keep)
    }

    /// The result for one event. Values that are given are not damaged, and nothing is kept, so this
    /// cannot fail.
    pub(crate) fn of_one(&self, inputs: Vec<Option<Value>>) -> Computation {
        let inputs: Vec<_> = inputs.into_iter().map(Input::Same).collect();
        self.compute(&inputs, 1, &mut |_| Ok(()))
            .unwrap_or_default()
    }
}

/// Bytes that a value holds beside itself.
pub(crate) fn held_bytes(value: &Option<Value>) -> usize {
    match value {
        Some(Value::Text(text)) => text.capacity(),
        Some(Value::List(list)) => {
            let texts = list.iter().map(|element| match element {
                Value::Text(text) => text.capacity(),
                _ => 0,
            });
            list.capacity() * size_of::<Value>() + texts.sum::<usize>()
        }
        _ => 0,
    }
}

impl fmt::Display for Computed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.text)
    }
}

impl fmt::Debug for Computed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Computed({} of {:?})", self.0.text, self.0.inputs)
    }
}

/// Equal where they are clones of each other.
impl PartialEq for Computed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Computed {}

impl Hash for Computed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Input<'_> {
    /// The operand's value for the `event`-th of the events.
    pub(crate) fn value(&self, event: usize) -> Result<Option<Value>, Corruption> {
        match self {
            Self::Rows(Some(column), rows) => column.value(rows.start + event as u32),
            Self::Rows(None, _) => Ok(None),
            Self::Values(values) => Ok(values[event].clone()),
            Self::Same(value) => Ok(value.clone()),
        }
    }
}

/// A function of one event's values.
struct ByEvent<F>(F);

impl<F> Compute for ByEvent<F>
where
    F: Fn(&[Option<Value>]) -> Option<Value> + Send + Sync,
{
    fn compute(
        &self,
        inputs: &[Input<'_>],
        events: usize,
        keep: Keep<'_>,
    ) -> Result<Computation, QueryError> {
        let mut found = Computation::default();
        let mut values = Vec::with_capacity(inputs.len());
        for event in 0..events {
            values.clear();
            for input in inputs {
                let value = input.value(event)?;
                values.push(value.filter(|value| *value != Value::Null));
            }
            let value = (self.0)(&values);
            keep(held_bytes(&value))?;
            found.values.push(value);
        }
        Ok(found)
    }
}
