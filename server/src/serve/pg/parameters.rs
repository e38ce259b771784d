//! Values of parameters, in either form and of any type that clients send.

use bytes::{Buf, Bytes};
use postgres_types::Type;
use pugmark_engine::time::format_rfc3339;
use pugmark_query::sql::{Parameter, PlaceholderType};

use super::failure::Failure;
use super::frames::Form;

/// Microseconds from 1970-01-01 to 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;
/// Most values of a list.
const MOST_VALUES: usize = 100_000;

/// The type that a client sends values of a placeholder in, where it leaves that open.
pub(super) fn wire_type(placeholder: PlaceholderType) -> Type {
    match placeholder {
        PlaceholderType::Bool => Type::BOOL,
        PlaceholderType::Whole => Type::INT8,
        PlaceholderType::Float => Type::FLOAT8,
        PlaceholderType::Text | PlaceholderType::IntervalText => Type::TEXT,
        PlaceholderType::Time => Type::TIMESTAMPTZ,
        PlaceholderType::Interval => Type::INTERVAL,
        PlaceholderType::Oid => Type::OID,
        PlaceholderType::Oids => Type::OID_ARRAY,
        PlaceholderType::Wholes => Type::INT8_ARRAY,
        PlaceholderType::Floats => Type::FLOAT8_ARRAY,
        PlaceholderType::Texts => Type::TEXT_ARRAY,
    }
}

/// A value of a type that stands for those that are not known yet.
pub(super) fn sample(wire: &Type, placeholder: PlaceholderType) -> Parameter {
    if placeholder == PlaceholderType::IntervalText {
        return Parameter::Text("1 day".to_owned());
    }
    match *wire {
        Type::BOOL => Parameter::Bool(true),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Parameter::Whole(1),
        Type::NUMERIC if placeholder == PlaceholderType::Whole => Parameter::Whole(1),
        Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => Parameter::Float(1.0),
        Type::TIMESTAMPTZ => time("2000-01-01", true),
        Type::TIMESTAMP | Type::DATE => time("2000-01-01", false),
        Type::INTERVAL => Parameter::Interval("1 day".to_owned()),
        _ => placeholder.sample(),
    }
}

/// The value of a parameter that a client sent.
pub(super) fn decode(
    wire: &Type,
    form: Form,
    bytes: Option<&Bytes>,
    number: usize,
) -> Result<Parameter, Failure> {
    let Some(bytes) = bytes else {
        return Ok(Parameter::Null);
    };
    let wrong = || {
        let message = format!("the value of ${number} is no {}", wire.name());
        Failure::new("22P02", message)
    };
    match form {
        Form::Text => {
            let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
            of_text(wire, text).ok_or_else(wrong)
        }
        Form::Binary => of_binary(wire, bytes.clone()).ok_or_else(wrong),
    }
}

fn of_text(wire: &Type, text: &str) -> Option<Parameter> {
    Some(match *wire {
        Type::BOOL => Parameter::Bool(match text.to_ascii_lowercase().as_str() {
            "t" | "true" | "1" | "on" | "yes" => true,
            "f" | "false" | "0" | "off" | "no" => false,
            _ => return None,
        }),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
            Parameter::Whole(text.trim().parse().ok()?)
        }
        Type::FLOAT4 | Type::FLOAT8 => float(text.trim().parse().ok()?)?,
        Type::NUMERIC => number(text.trim())?,
        Type::INTERVAL => Parameter::Interval(text.to_owned()),
        Type::TIMESTAMPTZ => time(text, true),
        Type::TIMESTAMP | Type::DATE => time(text, false),
        _ => match list_of(wire) {
            Some(element) => list_of_text(&element, text)?,
            None => Parameter::Text(without_zero(text.to_owned())?),
        },
    })
}

/// Types whose binary form is their text.
fn is_text(wire: &Type) -> bool {
    matches!(
        *wire,
        Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::UNKNOWN
            | Type::JSON
            | Type::XML
    )
}

/// No text of PostgreSQL's holds a zero.
fn without_zero(text: String) -> Option<String> {
    (!text.contains('\0')).then_some(text)
}

fn time(text: &str, zoned: bool) -> Parameter {
    let text = text.to_owned();
    Parameter::Time { text, zoned }
}

/// A whole number where it is one.
fn number(text: &str) -> Option<Parameter> {
    match text.parse() {
        Ok(whole) => Some(Parameter::Whole(whole)),
        Err(_) => float(text.parse().ok()?),
    }
}

/// No literal is endless.
fn float(value: f64) -> Option<Parameter> {
    value.is_finite().then_some(Parameter::Float(value))
}

fn list_of(wire: &Type) -> Option<Type> {
    match wire.kind() {
        postgres_types::Kind::Array(element) => Some(element.clone()),
        _ => None,
    }
}

fn of_binary(wire: &Type, mut bytes: Bytes) -> Option<Parameter> {
    let whole = |value: i64| Parameter::Whole(value);
    let value = match *wire {
        Type::BOOL => Parameter::Bool(bytes.try_get_u8().ok()? != 0),
        Type::INT2 => whole(bytes.try_get_i16().ok()?.into()),
        Type::INT4 => whole(bytes.try_get_i32().ok()?.into()),
        Type::INT8 => whole(bytes.try_get_i64().ok()?),
        Type::OID | Type::REGCLASS | Type::REGTYPE => whole(bytes.try_get_u32().ok()?.into()),
        Type::FLOAT4 => float(bytes.try_get_f32().ok()?.into())?,
        Type::FLOAT8 => float(bytes.try_get_f64().ok()?)?,
        Type::NUMERIC => numeric(&mut bytes)?,
        Type::TIMESTAMPTZ => {
            let micros = bytes.try_get_i64().ok()?.checked_add(EPOCH_MICROS)?;
            time(&format_rfc3339(in_range(micros)?), true)
        }
        Type::TIMESTAMP => {
            let micros = bytes.try_get_i64().ok()?.checked_add(EPOCH_MICROS)?;
            // Of the session's zone, whichever that is.
            let text = format_rfc3339(in_range(micros)?);
            time(text.trim_end_matches('Z'), false)
        }
        Type::DATE => {
            let days = i64::from(bytes.try_get_i32().ok()?) + EPOCH_DAYS;
            let text = format_rfc3339(in_range(days.checked_mul(86_400_000_000)?)?);
            time(text.split('T').next()?, false)
        }
        Type::INTERVAL => {
            let micros = bytes.try_get_i64().ok()?;
            let (days, months) = (bytes.try_get_i32().ok()?, bytes.try_get_i32().ok()?);
            let text = format!("{months} months {days} days {micros} microseconds");
            Parameter::Interval(text)
        }
        Type::UUID => {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let all = digits.concat();
            let parts = [
                all.get(..8)?,
                all.get(8..12)?,
                all.get(12..16)?,
                all.get(16..20)?,
                all.get(20..32)?,
            ];
            let text = parts.join("-");
            bytes.advance(16);
            Parameter::Text(text)
        }
        _ => match list_of(wire) {
            Some(element) => list_of_binary(&element, &mut bytes)?,
            None if is_text(wire) => {
                let text = String::from_utf8(std::mem::take(&mut bytes).into()).ok()?;
                Parameter::Text(without_zero(text)?)
            }
            None => return None,
        },
    };
    bytes.is_empty().then_some(value)
}

/// Times that can be told: of the years 0 to 9999.
fn in_range(micros: i64) -> Option<i64> {
    let range = -62_167_219_200_000_000..253_402_300_800_000_000;
    range.contains(&micros).then_some(micros)
}

/// Groups of four decimal digits, the first of a weight.
fn numeric(bytes: &mut Bytes) -> Option<Parameter> {
    let groups = usize::from(bytes.try_get_u16().ok()?);
    let weight = i32::from(bytes.try_get_i16().ok()?);
    let sign = bytes.try_get_u16().ok()?;
    let _scale = bytes.try_get_u16().ok()?;
    if groups * 2 != bytes.len() || !matches!(sign, 0 | 0x4000) {
        return None;
    }
    let mut text = String::from(if sign == 0 { "0" } else { "-0" });
    for _ in 0..groups {
        text += &format!("{:04}", bytes.try_get_u16().ok()?);
    }
    let exponent = 4 * (weight + 1 - i32::try_from(groups).ok()?);
    let value: f64 = format!("{text}e{exponent}").parse().ok()?;
    match value.fract() == 0.0 && value.abs() < 9e15 {
        true => Some(Parameter::Whole(value as i64)),
        false => float(value),
    }
}

fn list_of_binary(element: &Type, bytes: &mut Bytes) -> Option<Parameter> {
    let dimensions = bytes.try_get_i32().ok()?;
    let _nulls = bytes.try_get_i32().ok()?;
    let _oid = bytes.try_get_u32().ok()?;
    if dimensions == 0 {
        return Some(Parameter::List(Vec::new()));
    }
    let count = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
    let _first = bytes.try_get_i32().ok()?;
    if dimensions != 1 || count > MOST_VALUES || count * 4 > bytes.len() {
        return None;
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(match usize::try_from(bytes.try_get_i32().ok()?) {
            Err(_) => Parameter::Null,
            Ok(length) if length <= bytes.len() => of_binary(element, bytes.split_to(length))?,
            Ok(_) => return None,
        });
    }
    Some(Parameter::List(values))
}

/// `{a,"b c",NULL}`
fn list_of_text(element: &Type, text: &str) -> Option<Parameter> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut values = Vec::new();
    let mut letters = inner.chars().peekable();
    while letters.peek().is_some() {
        let mut value = String::new();
        let quoted = letters.next_if_eq(&'"').is_some();
        loop {
            match letters.next() {
                Some('\\') => value.push(letters.next()?),
                Some('"') if quoted => break,
                Some(',') if !quoted => break,
                Some('{') if !quoted => return None,
                Some(letter) => value.push(letter),
                None if quoted => return None,
                None => break,
            }
        }
        if quoted && letters.peek().is_some() && letters.next() != Some(',') {
            return None;
        }
        values.push(match !quoted && value.eq_ignore_ascii_case("null") {
            true => Parameter::Null,
            false => of_text(element, &value)?,
        });
        if values.len() > MOST_VALUES {
            return None;
        }
    }
    Some(Parameter::List(values))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use postgres_types::ToSql;
    use proptest::prelude::*;

    use super::*;

    fn binary<T: ToSql>(wire: &Type, value: &T) -> Option<Parameter> {
        let mut bytes = BytesMut::new();
        value.to_sql(wire, &mut bytes).unwrap();
        of_binary(wire, bytes.freeze())
    }

    #[test]
    fn both_forms_of_a_value_mean_the_same() {
        for (wire, told, sent) in [
            (Type::INT8, "-7", binary(&Type::INT8, &-7_i64)),
            (Type::INT2, "7", binary(&Type::INT2, &7_i16)),
            (Type::BOOL, "t", binary(&Type::BOOL, &true)),
            (Type::FLOAT8, "2.5", binary(&Type::FLOAT8, &2.5)),
            (Type::TEXT, "ü", binary(&Type::TEXT, &"ü")),
            (
                Type::INT8_ARRAY,
                "{1,-2}",
                binary(&Type::INT8_ARRAY, &vec![1_i64, -2]),
            ),
            (
                Type::TEXT_ARRAY,
                r#"{a,"b, \"c\"",NULL,""}"#,
                binary(
                    &Type::TEXT_ARRAY,
                    &vec![Some("a"), Some("b, \"c\""), None, Some("")],
                ),
            ),
            (
                Type::TEXT_ARRAY,
                "{}",
                binary(&Type::TEXT_ARRAY, &Vec::<String>::new()),
            ),
        ] {
            let told = of_text(&wire, told).unwrap();
            assert_eq!(Some(told), sent, "{wire}");
        }
    }

    #[test]
    fn times_and_numbers_are_read() {
        let micros = Bytes::copy_from_slice(&789_004_800_000_001_i64.to_be_bytes());
        let zoned = of_binary(&Type::TIMESTAMPTZ, micros.clone());
        assert_eq!(zoned, Some(time("2025-01-01T00:00:00.000001Z", true)));
        let local = of_binary(&Type::TIMESTAMP, micros);
        assert_eq!(local, Some(time("2025-01-01T00:00:00.000001", false)));
        let date = of_binary(&Type::DATE, Bytes::copy_from_slice(&31_i32.to_be_bytes()));
        assert_eq!(date, Some(time("2000-02-01", false)));
        let numeric = |bytes: &[u8]| of_binary(&Type::NUMERIC, Bytes::copy_from_slice(bytes));
        // 12345.678, -5, 0.0001
        let long = [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c];
        assert_eq!(numeric(&long), Some(Parameter::Float(12_345.678)));
        assert_eq!(
            numeric(&[0, 1, 0, 0, 0x40, 0, 0, 0, 0, 5]),
            Some(Parameter::Whole(-5))
        );
        assert_eq!(
            numeric(&[0, 1, 0xff, 0xff, 0, 0, 0, 4, 0, 1]),
            Some(Parameter::Float(0.0001))
        );
        assert_eq!(of_text(&Type::NUMERIC, "12"), Some(Parameter::Whole(12)));
        for wrong in [&b"12"[..], b"123456789"] {
            assert_eq!(
                of_binary(&Type::INT8, Bytes::from_static(wrong)),
                None,
                "{wrong:?}"
            );
        }
        let endless = Bytes::copy_from_slice(&i64::MAX.to_be_bytes());
        assert_eq!(of_binary(&Type::TIMESTAMPTZ, endless), None);
        assert!(decode(&Type::INT4, Form::Text, Some(&Bytes::from_static(b"x")), 1).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes: Vec<u8>) {
            for wire in [
                Type::NUMERIC, Type::DATE, Type::TIMESTAMP, Type::INTERVAL, Type::UUID,
                Type::INT8_ARRAY, Type::TEXT_ARRAY, Type::NUMERIC_ARRAY, Type::TEXT,
            ] {
                let _any = of_binary(&wire, Bytes::from(bytes.clone()));
                let _any = of_text(&wire, &String::from_utf8_lossy(&bytes));
            }
        }
    }
}
