//! The values that events of a plain funnel hold, as numbers: whole numbers as they are, texts by a
//! number that all runs share.

use std::collections::HashMap;
use std::ops::Range;

use pugmark_engine::Corruption;
use pugmark_engine::batch::Kind;
use pugmark_engine::codec::{Bounds, PartView};
use pugmark_engine::segment::NameRun;

use crate::kernel::NO_VALUE;

use super::columns::table_of;
use super::control::QueryError;
use super::memory::Reservation;
use super::steps::StepRun;

/// Where different texts take more bytes than this, the general way is gone.
const MOST_TEXT_BYTES: usize = 16 << 20;

/// What a text takes besides its bytes while it is numbered.
const TEXT_BYTES: usize = 64;

/// What the rows of one run hold.
#[derive(Debug)]
pub(super) struct HeldColumn<'a> {
    run: NameRun<'a>,
    property: String,
    /// The number of each code, where the values are texts or whole numbers stored as codes: unpacked here
    /// once, and not for every morsel.
    numbers: Vec<i64>,
}

/// The columns of a property in all runs of the steps; `None` where equal values are not equal
/// numbers: lists, fractions, several types, endlessly many texts, and where some event of the first
/// step holds nothing, so that bitmaps do not tell who entered.
pub(super) fn columns<'a>(
    runs: &[StepRun<'a>],
    property: &str,
    memory: &mut Reservation<'_>,
) -> Result<Option<Vec<HeldColumn<'a>>>, QueryError> {
    let mut kinds = Vec::new();
    let mut texts = Texts::default();
    let mut numbers_len = 0;
    let mut columns = Vec::with_capacity(runs.len());
    for of in runs {
        let column = of.run.properties()?.get(property)?;
        let parts = column.as_ref().map_or(&[][..], |column| column.parts());
        let numbers = match parts {
            [] if of.step > 0 => Vec::new(),
            [part] if of.step > 0 || part.is_all() => {
                kinds.push(part.kind());
                match numbers_of(part, &mut texts, memory)? {
                    Some(numbers) => numbers,
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        if parts.iter().all(|part| part.kind() != Kind::I64) {
            numbers_len += numbers.len();
        }
        columns.push(HeldColumn {
            run: of.run,
            property: property.to_owned(),
            numbers,
        });
    }
    if kinds.iter().any(|kind| *kind != kinds[0]) {
        return Ok(None);
    }
    // Where there is no room the general way, which reads the values of a morsel, may have it.
    let room = memory.grow(numbers_len * size_of::<i64>()).is_ok();
    Ok(room.then_some(columns))
}

/// The number of each text, and what all of them take.
#[derive(Default)]
struct Texts {
    numbers: HashMap<String, i64>,
    bytes: usize,
}

/// The number of each code; none for whole numbers as they are, and `None` for other values.
fn numbers_of(
    part: &PartView<'_>,
    texts: &mut Texts,
    memory: &mut Reservation<'_>,
) -> Result<Option<Vec<i64>>, Corruption> {
    if part.kind() == Kind::I64 {
        // The least number there is stands for none.
        return match part.bounds() {
            Bounds::Ints { min: NO_VALUE, .. } => Ok(None),
            _ => table_of(part, memory).map(Some),
        };
    }
    let Some(coded) = part.coded() else {
        return Ok(None);
    };
    let mut numbers = Vec::new();
    for code in 0..coded.len() {
        let text = coded.value(code)?;
        let number = match texts.numbers.get(text) {
            Some(number) => *number,
            None => {
                texts.bytes += text.len() + TEXT_BYTES;
                let number = texts.numbers.len() as i64;
                texts.numbers.insert(text.to_owned(), number);
                number
            }
        };
        numbers.push(number);
        if texts.bytes + numbers.len() * size_of::<i64>() > MOST_TEXT_BYTES {
            return Ok(None);
        }
    }
    Ok(Some(numbers))
}

impl HeldColumn<'_> {
    /// What a row takes while it is read: its value, its code, its place, and the value on its way there.
    pub(super) const ROW_BYTES: usize = 2 * size_of::<i64>() + 2 * size_of::<u32>();

    /// Appends what neighbouring rows hold.
    pub(super) fn read(&self, rows: Range<u32>, out: &mut Vec<i64>) -> Result<(), Corruption> {
        let first = out.len();
        let column = self.run.properties()?.get(&self.property)?;
        let Some(part) = column.as_ref().and_then(|column| column.parts().first()) else {
            out.resize(first + rows.len(), NO_VALUE);
            return Ok(());
        };
        let indices = part.indices(rows.clone());
        let mut codes = Vec::new();
        match part.coded() {
            None if self.numbers.is_empty() => part.ints(indices.clone(), out)?,
            None => part.table_codes(indices.clone(), &mut codes)?,
            Some(coded) => coded.codes(indices.clone(), &mut codes)?,
        }
        out.extend(codes.iter().map(|&code| self.numbers[code as usize]));
        if indices.len() < rows.len() {
            let mut present = Vec::new();
            part.fill_rows(indices, &mut present);
            let values = out.split_off(first);
            out.resize(first + rows.len(), NO_VALUE);
            for (row, value) in present.into_iter().zip(values) {
                // Damaged rows may be anybody's.
                if rows.contains(&row) {
                    out[first + (row - rows.start) as usize] = value;
                }
            }
        }
        Ok(())
    }
}
