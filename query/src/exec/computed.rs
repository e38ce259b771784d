//! Expressions over the events of a morsel, for all of them at once.

use pugmark_engine::{Corruption, Value};

use crate::behaviour::{Computation, Computed, Condition, Input, Operand};

use super::control::{Control, QueryError};
use super::gather::Gather;
use super::memory::Reservation;
use super::scan::Scan;
use super::traits::TraitTable;
use super::values::ValueReader;

/// What an expression comes to for each of the gathered events; `memory` takes up what it holds.
pub(crate) fn of_gathered(
    computed: &Computed,
    (scan, gather, traits): (&Scan<'_>, &Gather<'_>, &TraitTable),
    control: &Control,
    memory: &mut Reservation<'_>,
) -> Result<Computation, QueryError> {
    memory.grow(gather.rows.len() * bytes_per_event(computed))?;
    let inputs = computed.inputs().iter().map(|input| match input {
        Operand::Computed(inner) => {
            let inner = of_gathered(inner, (scan, gather, traits), control, memory)?;
            Ok(Input::Values(inner.values))
        }
        _ => Ok(Input::Values(values(input, scan, gather, traits)?)),
    });
    let inputs = inputs.collect::<Result<Vec<_>, QueryError>>()?;
    computed.compute(&inputs, gather.rows.len(), &mut |bytes| {
        control.check()?;
        memory.grow(bytes)
    })
}

/// What expressions come to for some users, of whose traits they are made.
pub(crate) fn of_users(
    condition: &Condition,
    lows: &[u16],
    traits: &TraitTable,
    control: &Control,
) -> Result<KnownExpressions, QueryError> {
    let mut memory = control.reservation();
    let mut known = KnownExpressions::new();
    for computed in condition.expressions() {
        memory.grow(lows.len() * bytes_per_event(computed))?;
        let inputs = computed.inputs().iter().map(|input| match input {
            Operand::Trait(name) => {
                let values = lows.iter().map(|&low| traits.get(name, low).cloned());
                Input::Values(values.collect())
            }
            _ => Input::Same(None),
        });
        let inputs: Vec<_> = inputs.collect();
        let found = computed.compute(&inputs, lows.len(), &mut |bytes| {
            control.check()?;
            memory.grow(bytes)
        })?;
        known.push((computed.clone(), found));
    }
    Ok(known)
}

/// Expressions with their results.
pub(crate) type KnownExpressions = Vec<(Computed, Computation)>;

/// What an operand is for each of the gathered events.
fn values(
    operand: &Operand,
    scan: &Scan<'_>,
    gather: &Gather<'_>,
    traits: &TraitTable,
) -> Result<Vec<Option<Value>>, Corruption> {
    match operand {
        Operand::Property(name) => {
            let mut reader = ValueReader::new(name);
            let rows = gather.rows.iter();
            rows.map(|&at| reader.value(scan, at)).collect()
        }
        Operand::Trait(name) => {
            let users = (0..gather.users()).flat_map(|user| {
                let value = traits.get(name, gather.lows[user]);
                gather.events(user).map(move |_| value.cloned())
            });
            Ok(users.collect())
        }
        Operand::Time => {
            let times = gather.times.iter();
            Ok(times.map(|&time| Some(Value::Timestamp(time))).collect())
        }
        Operand::EventName => {
            let names = gather.rows.iter().map(|&at| scan.event_name(at));
            names
                .map(|name| Ok(Some(Value::Text(name?.into_owned()))))
                .collect()
        }
        // Computed one level up.
        Operand::Computed(_) => Ok(vec![None; gather.rows.len()]),
    }
}

/// Bytes that expressions hold for an event, about, while they are computed.
fn bytes_per_event(computed: &Computed) -> usize {
    // Each input as a value and as a column of an expression; the result likewise.
    2 * (computed.inputs().len() + 1) * size_of::<Option<Value>>()
}
