//! Functions whose answers can be far larger than what they are given: `repeat('x', 1000000000)`.
//!
//! No operator counts what a function makes of a batch, so these are asked beforehand how much it
//! will be, and refused where that is out of all proportion.

use std::sync::Arc;

use arrow_array::types::IntervalMonthDayNanoType;
use arrow_array::{Array, ArrayRef, Int64Array, PrimitiveArray};
use arrow_schema::{DataType, FieldRef, IntervalUnit, TimeUnit};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::length::length;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

/// Most bytes that a call makes for one row.
const MOST_OF_ROW: f64 = (1 << 20) as f64;
/// Most bytes that a call makes for one batch.
const MOST_OF_BATCH: f64 = (64 << 20) as f64;

/// What an answer's size depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Size {
    /// The first argument, as often as the second says.
    Repeated,
    /// As many characters as the second argument says.
    Padded,
    /// As many values as the second argument says.
    Listed,
    /// Values from the first argument to the second, by the third.
    Counted,
    /// The first argument, with the third in place of each of its characters.
    Replaced,
    /// Steps that are taken: of the first argument for each of the second's.
    Compared,
}

const BOUNDED: [(&str, Size); 10] = [
    ("repeat", Size::Repeated),
    ("lpad", Size::Padded),
    ("rpad", Size::Padded),
    ("array_repeat", Size::Listed),
    ("array_resize", Size::Listed),
    ("generate_series", Size::Counted),
    ("range", Size::Counted),
    ("replace", Size::Replaced),
    ("regexp_replace", Size::Replaced),
    ("levenshtein", Size::Compared),
];

/// Puts bounds on the functions of `state` that need them.
pub(super) fn bound_functions(state: &mut impl FunctionRegistry) {
    for (name, size) in BOUNDED {
        if let Ok(function) = state.udf(name) {
            let bounded = ScalarUDF::new_from_impl(Bounded { function, size });
            // What was registered by that name is in it.
            let _replaced = state.register_udf(Arc::new(bounded));
        }
    }
}

/// A function that is asked for its size first.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    function: Arc<ScalarUDF>,
    size: Size,
}

/// An argument's numbers; one for all rows, or one for each.
struct Numbers(Int64Array);

impl Numbers {
    /// `None` where these are no numbers.
    fn of(array: &ArrayRef) -> Option<Self> {
        let numbers = cast(array, &DataType::Int64).ok()?;
        let numbers = numbers.as_any().downcast_ref::<Int64Array>()?.clone();
        (!numbers.is_empty()).then_some(Self(numbers))
    }

    fn lengths(array: &ArrayRef) -> Option<Self> {
        Self::of(&length(array).ok()?)
    }

    fn at(&self, row: usize) -> f64 {
        let row = row.min(self.0.len() - 1);
        if self.0.is_null(row) {
            return 0.0;
        }
        self.0.value(row) as f64
    }
}

/// How many of an argument's units make a nanosecond's, so that times and intervals compare.
fn nanos_of_unit(data_type: &DataType) -> f64 {
    match data_type {
        DataType::Date32 => 86_400e9,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1e6,
        DataType::Timestamp(TimeUnit::Second, _) => 1e9,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1e3,
        _ => 1.0,
    }
}

/// Nanoseconds of the shortest step; numbers as they are.
fn least_step(array: &ArrayRef) -> f64 {
    let shortest = match array.data_type() {
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let steps = array
                .as_any()
                .downcast_ref::<PrimitiveArray<IntervalMonthDayNanoType>>();
            let nanos = |step: arrow_array::types::IntervalMonthDayNano| {
                let days = f64::from(step.months) * 28.0 + f64::from(step.days);
                (days * 86_400e9 + step.nanoseconds as f64).abs()
            };
            let steps = steps.into_iter().flat_map(|steps| steps.iter().flatten());
            steps.map(nanos).fold(f64::INFINITY, f64::min)
        }
        _ => match Numbers::of(array) {
            Some(steps) => (0..steps.0.len())
                .map(|row| steps.at(row).abs())
                .fold(f64::INFINITY, f64::min),
            None => 1.0,
        },
    };
    shortest.max(1.0)
}

impl Bounded {
    /// About the bytes (or the steps) of each row's answer; `None` where the arguments do not say.
    fn sizes(&self, args: &[ArrayRef]) -> Option<Box<dyn Fn(usize) -> f64>> {
        let arg = |number: usize| args.get(number);
        Some(match self.size {
            Size::Repeated => {
                let (text, times) = (Numbers::lengths(arg(0)?)?, Numbers::of(arg(1)?)?);
                Box::new(move |row| text.at(row) * times.at(row))
            }
            Size::Padded => {
                let characters = Numbers::of(arg(1)?)?;
                Box::new(move |row| characters.at(row))
            }
            Size::Listed => {
                let values = Numbers::of(arg(1)?)?;
                let first = arg(0)?;
                let bytes = first.get_array_memory_size() / first.len().max(1) + 8;
                Box::new(move |row| values.at(row) * bytes as f64)
            }
            Size::Counted => {
                let first = arg(0)?;
                let unit = nanos_of_unit(first.data_type());
                let step = arg(2).map_or(1.0, least_step);
                let first = Numbers::of(first)?;
                let last = arg(1).and_then(Numbers::of);
                Box::new(move |row| {
                    let (first, last) = match &last {
                        Some(last) => (first.at(row), last.at(row)),
                        None => (0.0, first.at(row)),
                    };
                    (last - first).abs() * unit / step * 8.0
                })
            }
            Size::Replaced => {
                let (text, by) = (Numbers::lengths(arg(0)?)?, Numbers::lengths(arg(2)?)?);
                Box::new(move |row| (text.at(row) + 1.0) * by.at(row))
            }
            Size::Compared => {
                let (one, other) = (Numbers::lengths(arg(0)?)?, Numbers::lengths(arg(1)?)?);
                Box::new(move |row| one.at(row) * other.at(row))
            }
        })
    }

    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let single = args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if single { 1 } else { args.number_rows };
        let array = |arg: &ColumnarValue| match arg {
            ColumnarValue::Array(array) => Ok(Arc::clone(array)),
            ColumnarValue::Scalar(value) => value.to_array(),
        };
        let arrays = args.args.iter().map(array).collect::<Result<Vec<_>>>()?;
        let Some(size) = self.sizes(&arrays) else {
            return Ok(());
        };
        let mut all = 0.0;
        for row in 0..rows {
            let own = size(row).max(0.0);
            all += own;
            if own > MOST_OF_ROW || all > MOST_OF_BATCH {
                return Err(DataFusionError::Execution(format!(
                    "`{}` would make more than {} MB of one value, or {} MB of a batch",
                    self.function.name(),
                    MOST_OF_ROW / f64::from(1 << 20),
                    MOST_OF_BATCH / f64::from(1 << 20),
                )));
            }
        }
        Ok(())
    }
}

impl ScalarUDFImpl for Bounded {
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

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(types)
    }

    fn is_strict(&self) -> bool {
        self.function.is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.function.invoke_with_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }
}
