//! The columns of a run, each opened once however often it is asked for.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use pugmark_engine::Corruption;
use pugmark_engine::codec::{ColumnView, PartView, PropertiesView};
use pugmark_engine::segment::NameRun;

/// Opens columns and keeps them, with the blocks and tables that they unpacked. Of one thread.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    properties: PropertiesView<'a>,
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
    pub(crate) fn of(run: NameRun<'a>) -> Result<Self, Corruption> {
        Ok(Self {
            properties: run.properties()?,
            opened: RefCell::default(),
            floats: RefCell::default(),
        })
    }

    /// The column of a property, if any row of the run has one.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Rc<ColumnView<'a>>>, Corruption> {
        let mut opened = self.opened.borrow_mut();
        if let Some((_, column)) = opened.iter().find(|(own, _)| own == name) {
            return Ok(column.clone());
        }
        let column = self.properties.get(name)?.map(Rc::new);
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
