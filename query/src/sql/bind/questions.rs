//! The functions that stand in FROM, as typed questions.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArguments, Spanned, TableFunctionArgs,
};
use datafusion::sql::sqlparser::tokenizer::Span as TextSpan;

use super::super::answers::{Ask, Question};
use super::super::error::SqlError;
use super::Binder;
use super::arguments::Arguments;
use crate::behaviour::{
    Affinity, Attribute, Attribution, AttributionModel, Entries, Experiment, Funnel, FunnelMode,
    Lifecycle, Operand, PathDirection, PathPer, Paths, Retention, ReturnMode, Rfm, Sessions, Step,
    Stickiness, Trail, any, step,
};
use crate::zone::CalendarUnit;

/// The functions that stand in FROM.
pub(in crate::sql) const TABLE_FUNCTIONS: [&str; 16] = [
    "affinity",
    "attribution",
    "attribution_users",
    "experiment",
    "experiment_users",
    "funnel",
    "funnel_times",
    "funnel_users",
    "lifecycle",
    "paths",
    "retention",
    "retention_users",
    "rfm",
    "sessions",
    "stickiness",
    "trail",
];

const UNITS: [(&str, CalendarUnit); 4] = [
    ("hour", CalendarUnit::Hour),
    ("day", CalendarUnit::Day),
    ("week", CalendarUnit::Week),
    ("month", CalendarUnit::Month),
];

/// Binds the call of a table function.
pub(super) fn bind(
    binder: &Binder<'_>,
    name: &str,
    span: TextSpan,
    arguments: &TableFunctionArgs,
) -> Result<Question, SqlError> {
    // Conditions and times of the call are told at its own present.
    let as_of = Arguments::new(binder, name, span, &arguments.args)?.time("as_of")?;
    let mut state = binder.state.clone();
    if let Some(as_of) = as_of {
        state.execution_props_mut().query_execution_start_time =
            chrono::DateTime::from_timestamp_micros(as_of);
    }
    let binder = &Binder {
        state: &state,
        ..*binder
    };
    let mut call = Arguments::new(binder, name, span, &arguments.args)?;
    let ask = match name {
        "funnel" => Ask::Funnel(funnel(&mut call)?),
        "funnel_users" => {
            let values = call.properties("values")?;
            Ask::FunnelUsers(funnel(&mut call)?, values)
        }
        "funnel_times" => funnel_times(&mut call)?,
        "retention" => Ask::Retention(retention(&mut call)?),
        "retention_users" => {
            let (cohort, k) = (call.needed_time("cohort")?, call.needed_count("k", "1")?);
            Ask::RetentionUsers(retention(&mut call)?, cohort, k)
        }
        "sessions" => Ask::Sessions(sessions(&mut call)?),
        "paths" => Ask::Paths(paths(&mut call)?),
        "attribution" => Ask::Attribution(attribution(&mut call)?),
        "attribution_users" => Ask::AttributionUsers(attribution(&mut call)?),
        "experiment" => Ask::Experiment(experiment(&mut call)?),
        "experiment_users" => Ask::ExperimentUsers(experiment(&mut call)?),
        "affinity" => Ask::Affinity(affinity(&mut call)?),
        "lifecycle" => Ask::Lifecycle(lifecycle(&mut call)?),
        "stickiness" => Ask::Stickiness(stickiness(&mut call)?),
        "rfm" => Ask::Rfm(rfm(&mut call)?),
        "trail" => {
            let users = call.segment("users")?;
            Ask::Trail(trail(&mut call)?, users)
        }
        _ => return Err(SqlError::at(span, format!("there is no function `{name}`"))),
    };
    call.time("as_of")?;
    call.finish()?;
    ask.validate()
        .map_err(|invalid| SqlError::invalid(span, name, &invalid))?;
    Ok(Question {
        ask,
        as_of: as_of.unwrap_or(binder.context.as_of),
    })
}

fn funnel(call: &mut Arguments<'_, '_>) -> Result<Funnel, SqlError> {
    let mut steps = Vec::new();
    while let Some(expr) = call.next() {
        steps.push(funnel_step(call.binder, expr)?);
    }
    if steps.is_empty() {
        return Err(SqlError::at(
            call.span,
            format!(
                "{}: give steps, as step(event = 'view'), step('purchase')",
                call.call
            ),
        ));
    }
    let modes = [
        ("ordered", FunnelMode::Ordered),
        ("strict", FunnelMode::Strict),
        ("any_order", FunnelMode::AnyOrder),
    ];
    let entries = [
        ("best", Entries::Best),
        ("first", Entries::First),
        ("every", Entries::Every),
    ];
    let attributes = [("first", Attribute::First), ("last", Attribute::Last)];
    let mut funnel = Funnel::new(steps).zone(call.binder.context.settings.zone.clone());
    funnel.within = call.span("within")?;
    funnel.mode = call.choice("mode", &modes)?.unwrap_or(FunnelMode::Ordered);
    funnel.exclude = call.condition("exclude")?;
    funnel.after_step = call.size("after_step")?;
    funnel.before_step = call.size("before_step")?;
    funnel.holding = call.properties("holding")?;
    funnel.entries = call.choice("entries", &entries)?.unwrap_or(Entries::Best);
    funnel.by = call.operand("by")?;
    funnel.attribute = call.choice("attribute", &attributes)?;
    funnel.top = call.size("top")?;
    funnel.bucket = call.choice("bucket", &UNITS)?;
    funnel.users = call.segment("users")?;
    funnel.range = call.range()?;
    Ok(funnel)
}

/// `step(condition, name => …, optional => …)`, or a bare condition.
fn funnel_step(binder: &Binder<'_>, expr: &Expr) -> Result<Step, SqlError> {
    let Expr::Function(function) = expr else {
        return Ok(step(binder.condition(expr)?));
    };
    let name = function.name.to_string();
    if !name.eq_ignore_ascii_case("step") {
        return Ok(step(binder.condition(expr)?));
    }
    let arguments = plain_arguments(function)?;
    let mut call = Arguments::new(binder, "step", expr.span(), arguments)?;
    let condition = call.needed_condition("condition", "event = 'view'")?;
    let mut found = step(condition);
    found.name = call.text("name")?;
    found.optional = call.flag("optional")?;
    call.finish()?;
    Ok(found)
}

/// The arguments of a call that has nothing around them.
pub(super) fn plain_arguments(function: &Function) -> Result<&[FunctionArg], SqlError> {
    let refuse = |what: &str| {
        let problem = format!("{}: {what} has no meaning here", function.name);
        Err(SqlError::at(function.name.span(), problem))
    };
    if function.filter.is_some() {
        return refuse("FILTER");
    }
    if function.over.is_some() {
        return refuse("OVER");
    }
    if function.null_treatment.is_some() || !function.within_group.is_empty() {
        return refuse("what stands behind the call");
    }
    match &function.args {
        FunctionArguments::List(list) if list.duplicate_treatment.is_some() => refuse("DISTINCT"),
        FunctionArguments::List(list) if !list.clauses.is_empty() => {
            refuse("what stands behind the arguments")
        }
        FunctionArguments::List(list) => Ok(&list.args),
        _ => Ok(&[]),
    }
}

fn funnel_times(call: &mut Arguments<'_, '_>) -> Result<Ask, SqlError> {
    let (from, to) = (call.size("from_step")?, call.size("to_step")?);
    let bins = call.size("bins")?;
    let funnel = funnel(call)?;
    let last = funnel.steps.len();
    Ok(Ask::FunnelTimes {
        from_step: from.unwrap_or(1),
        to_step: to.unwrap_or(last),
        bins: bins.unwrap_or(20),
        funnel,
    })
}

fn retention(call: &mut Arguments<'_, '_>) -> Result<Retention, SqlError> {
    let start = call.needed_condition("start", "'view'")?;
    let returns = call.needed_condition("returns", "'purchase'")?;
    let mut retention =
        Retention::new(start, returns).zone(call.binder.context.settings.zone.clone());
    let modes = [
        ("on", ReturnMode::On),
        ("on_or_after", ReturnMode::OnOrAfter),
    ];
    if let Some(period) = call.choice("period", &UNITS)? {
        retention.period = period;
    }
    retention.periods = call.count("periods")?;
    retention.mode = call.choice("mode", &modes)?.unwrap_or(ReturnMode::On);
    retention.rolling = call.flag("rolling")?;
    retention.recurring = call.flag("recurring")?;
    retention.users = call.segment("users")?;
    retention.range = call.range()?;
    Ok(retention)
}

fn sessions(call: &mut Arguments<'_, '_>) -> Result<Sessions, SqlError> {
    let mut sessions = Sessions::new();
    sessions.gap = call.span("gap")?;
    sessions.events = call.condition("events")?.unwrap_or_else(any);
    sessions.users = call.segment("users")?;
    sessions.range = call.range()?;
    Ok(sessions)
}

fn paths(call: &mut Arguments<'_, '_>) -> Result<Paths, SqlError> {
    let anchor = call.needed_condition("anchor", "'view'")?;
    let steps = call.size("steps")?.unwrap_or(3);
    let mut paths = Paths::new(anchor, steps);
    let directions = [
        ("after", PathDirection::After),
        ("before", PathDirection::Before),
    ];
    let pers = [
        ("user", PathPer::User),
        ("session", PathPer::Session),
        ("event", PathPer::Event),
    ];
    if let Some(direction) = call.choice("direction", &directions)? {
        paths.direction = direction;
    }
    if let Some(per) = call.choice("per", &pers)? {
        paths.per = per;
    }
    paths.collapse = call.flag("collapse")?;
    if let Some(value) = call.operand("value")? {
        paths.value = value;
    }
    paths.gap = call.span("gap")?;
    paths.users = call.segment("users")?;
    paths.range = call.range()?;
    Ok(paths)
}

fn attribution(call: &mut Arguments<'_, '_>) -> Result<Attribution, SqlError> {
    let conversion = call.needed_condition("conversion", "'purchase'")?;
    let touch = call.needed_condition("touch", "'email_click'")?;
    let by = call.operand("by")?.unwrap_or(Operand::EventName);
    let models = [
        ("first", AttributionModel::First),
        ("last", AttributionModel::Last),
        ("linear", AttributionModel::Linear),
        ("position", AttributionModel::Position),
        ("time_decay", AttributionModel::TimeDecay),
        ("any_touch", AttributionModel::AnyTouch),
    ];
    let mut attribution = Attribution::new(conversion, touch, by);
    attribution.lookback = call.span("lookback")?;
    if let Some(model) = call.choice("model", &models)? {
        attribution.model = model;
    }
    attribution.half_life = call.span("half_life")?;
    attribution.value = call.operand("value")?;
    attribution.users = call.segment("users")?;
    attribution.range = call.range()?;
    Ok(attribution)
}

fn experiment(call: &mut Arguments<'_, '_>) -> Result<Experiment, SqlError> {
    let exposure = call.needed_condition("exposure", "'visit'")?;
    let variant = call.needed_operand("variant", "ab_group")?;
    let goal = call.needed_condition("goal", "'purchase'")?;
    let mut experiment = Experiment::new(exposure, variant, goal);
    experiment.within = call.span("within")?;
    experiment.value = call.operand("value")?;
    experiment.control = call.text("control")?;
    experiment.users = call.segment("users")?;
    experiment.range = call.range()?;
    Ok(experiment)
}

fn affinity(call: &mut Arguments<'_, '_>) -> Result<Affinity, SqlError> {
    let item = call.needed_operand("item", "product_id")?;
    let mut affinity = Affinity::new(item);
    if let Some(condition) = call.condition("condition")? {
        affinity.condition = condition;
    }
    affinity.per = call.operand("per")?;
    affinity.for_item = call.text("for")?;
    affinity.min_users = call.count("min_users")?;
    affinity.top = call.size("top")?;
    affinity.users = call.segment("users")?;
    affinity.range = call.range()?;
    Ok(affinity)
}

fn lifecycle(call: &mut Arguments<'_, '_>) -> Result<Lifecycle, SqlError> {
    let active = call.first_condition("active")?.unwrap_or_else(any);
    let mut lifecycle = Lifecycle::new(active).zone(call.binder.context.settings.zone.clone());
    if let Some(period) = call.choice("period", &UNITS)? {
        lifecycle.period = period;
    }
    lifecycle.users = call.segment("users")?;
    lifecycle.range = call.range()?;
    Ok(lifecycle)
}

fn stickiness(call: &mut Arguments<'_, '_>) -> Result<Stickiness, SqlError> {
    let active = call.first_condition("active")?.unwrap_or_else(any);
    let mut stickiness = Stickiness::new(active).zone(call.binder.context.settings.zone.clone());
    if let Some(period) = call.choice("period", &UNITS)? {
        stickiness.period = period;
    }
    if let Some(unit) = call.choice("unit", &UNITS)? {
        stickiness.unit = unit;
    }
    stickiness.users = call.segment("users")?;
    stickiness.range = call.range()?;
    Ok(stickiness)
}

fn rfm(call: &mut Arguments<'_, '_>) -> Result<Rfm, SqlError> {
    let purchase = call.needed_condition("purchase", "'purchase'")?;
    let value = call.needed_operand("value", "price")?;
    let mut rfm = Rfm::new(purchase, value);
    rfm.users = call.segment("users")?;
    rfm.range = call.range()?;
    Ok(rfm)
}

fn trail(call: &mut Arguments<'_, '_>) -> Result<Trail, SqlError> {
    let user = call.either("user_id").ok_or_else(|| {
        SqlError::at(
            call.span,
            "trail: name a user, as trail('1515915625519388267')",
        )
    })?;
    let user = call.binder.user_text(user)?;
    let mut trail = Trail::of(&user);
    trail.range = call.range()?;
    Ok(trail)
}
