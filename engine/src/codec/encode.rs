//! Properties into blocks of an image: plans every part, finds which determine which, writes.

use super::dependent::{self, Dependence};
use super::numbers::{self, Access, Repr};
use super::part::{CODED, PLAIN, kind_byte};
use super::plan::{PlannedPart, PlannedValues, plan_column};
use super::sink::{Params, Sink, write_ref};
use super::source::{BY_INDEX, BY_ROW, DEPENDENT, DIRECT, TABLE};
use super::{rows, strings};
use crate::batch::{Kind, Presence, Property};
use crate::format::{BlockRef, ImageWriter, Writer};

/// Appends all properties of a run of `rows` rows to the image, and returns the block that
/// [`PropertiesView::open`](super::PropertiesView::open) takes.
///
/// Names must be distinct, and every column must span `rows` rows and be sound, as those of a
/// checked batch are. Properties without any value are left out.
///
/// Not `compressed` they take less time and more bytes, which read back the same.
///
/// Cost: some tens of nanoseconds a value; sorting for each distinct text.
pub fn encode_properties(
    properties: &[Property],
    rows: u32,
    compressed: bool,
    image: &mut ImageWriter,
) -> BlockRef {
    let params = match compressed {
        true => Params::default(),
        false => Params::brief(),
    };
    encode_into(&mut Sink::new(image, params), properties, rows)
}

/// As [`encode_properties`], with the sizes of `sink`.
pub(super) fn encode_into(sink: &mut Sink<'_>, properties: &[Property], rows: u32) -> BlockRef {
    let mut sorted: Vec<&Property> = properties.iter().collect();
    sorted.retain(|property| {
        debug_assert_eq!(property.column.rows, rows, "columns span the run");
        property
            .column
            .parts
            .iter()
            .any(|part| !part.values.is_empty())
    });
    sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let planned = (0u32..).zip(&sorted);
    let mut parts: Vec<PlannedPart<'_>> = planned
        .flat_map(|(at, property)| plan_column(&property.column, at, &sink.params))
        .collect();
    dependent::choose(&mut parts, &sink.params);
    write_properties(sink, &sorted, &parts, rows)
}

/// Writes descriptors into pages, and the directory of them all.
fn write_properties(
    sink: &mut Sink<'_>,
    sorted: &[&Property],
    parts: &[PlannedPart<'_>],
    rows: u32,
) -> BlockRef {
    let (mut entries, mut names) = (Writer::new(), Writer::new());
    let (mut pages, mut page) = (Vec::new(), Writer::new());
    let columns = parts.chunk_by(|a, b| a.property == b.property);
    for (property, column) in sorted.iter().zip(columns) {
        if page.len() >= sink.params.page_bytes {
            pages.push(sink.block(&std::mem::take(&mut page).finish()));
        }
        let start = page.len();
        write_column(sink, &mut page, column, parts, rows);
        names.raw(property.name.as_bytes());
        entries.u32(names.len() as u32);
        entries.u32(pages.len() as u32);
        entries.u32(start as u32);
        entries.u32((page.len() - start) as u32);
    }
    if !page.is_empty() {
        pages.push(sink.block(&page.finish()));
    }
    let mut directory = Writer::new();
    directory.u32(sorted.len() as u32);
    directory.u32(rows);
    directory.u32(sink.params.block_values);
    directory.u32(pages.len() as u32);
    pages
        .iter()
        .for_each(|page| write_ref(page, &mut directory));
    directory.raw(&entries.finish());
    directory.raw(&names.finish());
    sink.block(&directory.finish())
}

fn write_column(
    sink: &mut Sink<'_>,
    out: &mut Writer,
    column: &[PlannedPart<'_>],
    all: &[PlannedPart<'_>],
    rows: u32,
) {
    out.u8(column.len() as u8);
    for part in column {
        let mut body = Writer::new();
        rows::encode(sink, &mut body, part.presence, rows);
        write_values(sink, &mut body, part, all);
        out.u8(kind_byte(part.kind));
        out.bytes(&body.finish());
    }
}

fn write_values(
    sink: &mut Sink<'_>,
    out: &mut Writer,
    part: &PlannedPart<'_>,
    all: &[PlannedPart<'_>],
) {
    match &part.values {
        PlannedValues::Null => {}
        PlannedValues::Bools(_) | PlannedValues::Ints(..) | PlannedValues::Floats(_) => {
            write_source(sink, out, part, all);
        }
        PlannedValues::Coded(coded) => {
            let distinct = coded.sorted.len() as u32;
            out.u8(CODED);
            out.u32(distinct);
            strings::encode(sink, out, distinct, Access::Random, &|code| {
                coded.text.values.get(coded.sorted[code as usize] as usize)
            });
            write_source(sink, out, part, all);
        }
        PlannedValues::Plain(text) => {
            out.u8(PLAIN);
            strings::encode(sink, out, part.count, Access::Scanned, &|index| {
                text.get(index as usize)
            });
        }
        PlannedValues::List {
            ends,
            rows,
            elements,
        } => {
            out.u32(*rows);
            let how = (Repr::Int, Access::Scanned);
            numbers::encode(sink, out, part.count, how, &mut |range, words| {
                let range = range.start as usize..range.end as usize;
                words.extend(ends[range].iter().map(|&end| u64::from(end)));
            });
            write_column(sink, out, elements, all, *rows);
        }
    }
}

fn repr_of(part: &PlannedPart<'_>) -> Repr {
    match part.kind {
        Kind::F64 => Repr::Float,
        _ => Repr::Int,
    }
}

fn write_source(
    sink: &mut Sink<'_>,
    out: &mut Writer,
    part: &PlannedPart<'_>,
    all: &[PlannedPart<'_>],
) {
    let repr = repr_of(part);
    if let Some(determinant) = part.depends_on.and_then(|at| all.get(at)) {
        return write_dependent(sink, out, part, determinant);
    }
    if let PlannedValues::Ints(_, Some(table)) = &part.values
        && table.chosen
    {
        let distinct = table.values.len() as u32;
        out.u8(TABLE);
        out.u32(distinct);
        write_words(sink, out, (repr, Access::Random), distinct, |index| {
            table.values[index] as u64
        });
        write_words(
            sink,
            out,
            (Repr::Int, Access::Scanned),
            part.count,
            |index| table.codes[index].into(),
        );
        return;
    }
    out.u8(DIRECT);
    let how = (repr, Access::Scanned);
    numbers::encode(sink, out, part.count, how, &mut |range, words| {
        part.words(range, words);
    });
}

fn write_dependent(
    sink: &mut Sink<'_>,
    out: &mut Writer,
    part: &PlannedPart<'_>,
    determinant: &PlannedPart<'_>,
) {
    let repr = repr_of(part);
    let dependence = Dependence::of(part, determinant);
    out.u8(DEPENDENT);
    out.u32(determinant.property);
    out.u8(determinant.part);
    out.u8(if dependence.by_row { BY_ROW } else { BY_INDEX });
    let (least, greatest) = numbers::bounds(repr, part.count, &mut |range, words| {
        part.words(range, words);
    });
    out.u64(least);
    out.u64(greatest);
    let Dependence {
        map,
        exceptions,
        values,
        ..
    } = dependence;
    let how = (repr, Access::Random);
    write_words(sink, out, how, map.len() as u32, |index| map[index]);
    rows::encode(sink, out, &Presence::Rows(exceptions), part.count);
    write_words(sink, out, how, values.len() as u32, |index| values[index]);
}

fn write_words(
    sink: &mut Sink<'_>,
    out: &mut Writer,
    how: (Repr, Access),
    count: u32,
    word: impl Fn(usize) -> u64,
) {
    numbers::encode(sink, out, count, how, &mut |range, words| {
        words.extend(range.map(|index| word(index as usize)));
    });
}
