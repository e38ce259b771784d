//! The columns of a run, each opened once however often it is asked for.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use pugmark_engine::Corruption;
use pugmark_engine::codec::{ColumnView, PartView, PropertiesView};
use pugmark_engine::segment::NameRun;

use super::memory::Reservation;

/// Opens columns and keeps them, with the blocks and tables that they unpacked. Of one thread.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    run: NameRun<'a>,
    properties: OnceCell<PropertiesView<'a>>,
    opened: RefCell<Vec<(String, Option<Rc<ColumnView<'a>>>)>>,
    floats: RefCell<Option<Floats>>,
}

/// The floats that were read last.
#[derive(Debug)]
struct Floats {
    name: String,
    indices: Range<u32>,
    values: Rc<Vec<f64>>,
}

impl<'a> Columns<'a> {
    /// The columns of a run, none of them open.
    pub(crate) fn of(run: NameRun<'a>) -> Self {
        Self {
            run,
            properties: OnceCell::new(),
            opened: RefCell::default(),
            floats: RefCell::default(),
        }
    }

    /// The column of a property, if any row of the run has one.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Rc<ColumnView<'a>>>, Corruption> {
        let mut opened = self.opened.borrow_mut();
        if let Some((_, column)) = opened.iter().find(|(own, _)| own == name) {
            return Ok(column.clone());
        }
        let properties = match self.properties.get() {
            Some(properties) => *properties,
            None => {
                let properties = self.run.properties()?;
                *self.properties.get_or_init(|| properties)
            }
        };
        let column = properties.get(name)?.map(Rc::new);
        opened.push((name.to_owned(), column.clone()));
        Ok(column)
    }

    /// The floats of `part`, the property's part of floats. A range asks for them twice and a sum once
    /// more: they are read once.
    pub(crate) fn floats(
        &self,
        name: &str,
        part: &PartView<'a>,
        indices: Range<u32>,
    ) -> Result<Rc<Vec<f64>>, Corruption> {
        let mut floats = self.floats.borrow_mut();
        if let Some(last) = &*floats
            && last.name == name
            && last.indices == indices
        {
            return Ok(Rc::clone(&last.values));
        }
        let mut values = Vec::with_capacity(indices.len());
        part.floats(indices.clone(), &mut values)?;
        let values = Rc::new(values);
        *floats = Some(Floats {
            name: name.to_owned(),
            indices,
            values: Rc::clone(&values),
        });
        Ok(values)
    }
}

/// Most bytes of tables that a question unpacks.
const MOST_TABLE_BYTES: usize = 128 << 20;

/// The table of whole numbers that a part is stored through, unpacked once for a question; none where there
/// is none, or no room for it: then its values are read as they are.
pub(crate) fn table_of(
    part: &PartView<'_>,
    memory: &mut Reservation<'_>,
) -> Result<Vec<i64>, Corruption> {
    let bytes = part.table_len().unwrap_or(0) as usize * size_of::<i64>();
    let room = memory.bytes() + bytes <= MOST_TABLE_BYTES && memory.grow(bytes).is_ok();
    match bytes > 0 && room {
        true => part.table(),
        false => Ok(Vec::new()),
    }
}
