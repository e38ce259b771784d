//! `date_trunc` of times in UTC.
//!
//! DataFusion looks up what the clocks of a time's zone say, value by value. Those of UTC say what the time itself
//! does, and so it is handed times without a zone, of which it takes plain remainders.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

/// Puts the function in place of DataFusion's own.
pub(super) fn truncate_in_utc(state: &mut impl FunctionRegistry) {
    if let Ok(function) = state.udf("date_trunc") {
        let own = ScalarUDF::new_from_impl(DateTrunc { function });
        // What was registered by that name is in it.
        let _replaced = state.register_udf(Arc::new(own));
    }
}

/// DataFusion's function, without a zone where that means the same.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    function: Arc<ScalarUDF>,
}

/// The zone of times in UTC; `None` for all others.
fn utc(times: &ArrayRef) -> Option<Arc<str>> {
    match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone))
            if ["utc", "etc/utc", "+00:00", "z"].contains(&&*zone.to_ascii_lowercase()) =>
        {
            Some(Arc::clone(zone))
        }
        _ => None,
    }
}

fn with_zone(times: &ArrayRef, zone: Option<Arc<str>>) -> ArrayRef {
    let times = times.as_primitive::<TimestampMicrosecondType>().clone();
    Arc::new(times.with_timezone_opt(zone))
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.function.output_ordering(inputs)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(ColumnarValue::Array(times)) = args.args.get_mut(1) else {
            return self.function.invoke_with_args(args);
        };
        let Some(zone) = utc(times) else {
            return self.function.invoke_with_args(args);
        };
        *times = with_zone(times, None);
        let plain = DataType::Timestamp(TimeUnit::Microsecond, None);
        args.return_field = Arc::new(Field::new(self.name(), plain, true));
        let truncated = self.function.invoke_with_args(args)?;
        Ok(match truncated {
            ColumnarValue::Array(times) => ColumnarValue::Array(with_zone(&times, Some(zone))),
            scalar => scalar,
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::TimestampMicrosecondArray;
    use datafusion::common::ScalarValue;
    use datafusion::common::config::ConfigOptions;
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;

    use super::*;

    fn truncated(function: &ScalarUDF, unit: &str, times: &ArrayRef) -> ArrayRef {
        let field = |name: &str, of: DataType| Arc::new(Field::new(name, of, true));
        let unit = ScalarValue::from(unit);
        let args = ScalarFunctionArgs {
            arg_fields: vec![
                field("unit", unit.data_type()),
                field("times", times.data_type().clone()),
            ],
            args: vec![
                ColumnarValue::Scalar(unit),
                ColumnarValue::Array(Arc::clone(times)),
            ],
            number_rows: times.len(),
            return_field: field("truncated", times.data_type().clone()),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let answer = function.invoke_with_args(args).unwrap();
        answer.into_array(times.len()).unwrap()
    }

    proptest! {
        #[test]
        fn the_same_as_by_clocks(
            times in prop::collection::vec(
                prop::option::of(-8_000_000_000_000_000..8_000_000_000_000_000_i64),
                1..20,
            ),
            unit in prop::sample::select(vec![
                "microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month",
                "quarter", "YEAR",
            ]),
            zone in prop::sample::select(vec!["UTC", "+00:00", "Europe/Berlin", "-03:30"]),
        ) {
            let function = SessionContext::new().udf("date_trunc").unwrap();
            let own = DateTrunc { function: Arc::clone(&function) };
            let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times).with_timezone(zone));
            let expected = truncated(&function, unit, &times);
            prop_assert_eq!(&truncated(&ScalarUDF::new_from_impl(own), unit, &times), &expected);
        }
    }
}
