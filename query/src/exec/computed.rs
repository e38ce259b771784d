//! Expressions over the events of a morsel, for all of them at once.

use pugmark_engine::{Corruption, Value};

use crate::behaviour::{Computation, Computed, Input, Operand};

use super::gather::Gather;
use super::scan::Scan;
use super::traits::TraitTable;
use super::values::ValueReader;

/// What an expression comes to for each of the gathered events.
pub(crate) fn of_gathered(
    computed: &Computed,
    scan: &Scan<'_>,
    gather: &Gather<'_>,
    traits: &TraitTable,
) -> Result<Computation, Corruption> {
    let inputs = computed.inputs().iter();
    let inputs = inputs.map(|input| Ok(Input::Values(values(input, scan, gather, traits)?)));
    let inputs = inputs.collect::<Result<Vec<_>, Corruption>>()?;
    computed.compute(&inputs, gather.rows.len())
}

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
        Operand::Computed(computed) => Ok(of_gathered(computed, scan, gather, traits)?.values),
    }
}

/// Bytes that expressions hold for an event, about, while they are computed.
pub(crate) fn bytes_per_event(computed: &Computed) -> usize {
    // Each input as a value and as a column of an expression; the result likewise.
    2 * (computed.inputs().len() + 1) * size_of::<Option<Value>>()
}
