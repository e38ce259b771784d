//! What is asked: conditions over one event, segments of users, funnels, retention, sessions and the
//! other analyses.
//!
//! Plain data with builders that read like the question, and one `validate` for each question.
//! Nothing here knows how events are stored or how a question is answered.

mod affinity;
mod analysis;
mod attribution;
mod computed;
mod condition;
mod did;
mod display;
mod evaluate;
mod experiment;
mod funnel;
mod lifecycle;
mod literal;
mod paths;
mod pattern;
mod range;
mod result;
mod retention;
mod rfm;
mod segment;
mod sessions;
mod stickiness;
mod trail;

pub use affinity::{Affinity, AffinityResult, AffinityRow};
pub use analysis::{Names, Reads};
pub use attribution::{
    Attribution, AttributionModel, AttributionResult, AttributionRow, AttributionUser,
    AttributionUsersResult, TouchKey,
};
pub(crate) use computed::{Computation, Input};
#[cfg(feature = "sql")]
pub(crate) use computed::{Compute, Keep, held_bytes};
pub use computed::{Computed, computed};
pub use condition::{
    Comparison, Condition, Operand, TextTest, Truth, any, event, event_name, property, time,
    user_trait,
};
pub use did::{Aggregate, AggregateTest, Did, did};
pub(crate) use evaluate::operand_value;
pub use evaluate::{EventRow, Skipped};
pub use experiment::{
    Experiment, ExperimentResult, ExperimentRow, ExperimentUser, ExperimentUsersResult, Variant,
};
pub(crate) use funnel::DEFAULT_TOP;
pub use funnel::{Attribute, Entries, Funnel, FunnelMode, Step, step};
pub use lifecycle::{Lifecycle, LifecycleResult, LifecycleRow, LifecycleStatus};
pub(crate) use literal::compare_exactly;
pub use literal::{Literal, compare, timestamp};
pub use paths::{PathDirection, PathPer, PathRow, Paths, PathsResult};
pub use range::{Span, TimeRange, TimeSpec, days, hours, micros, minutes, seconds};
pub use result::{
    ByKey, FunnelResult, FunnelRow, FunnelTimesRow, FunnelUser, FunnelUsersResult, Notices,
};
pub use retention::{Retention, RetentionResult, RetentionRow, ReturnMode};
pub use rfm::{Rfm, RfmResult, RfmRow};
pub use segment::{Segment, everyone, not, traits, users};
pub use sessions::{SessionRow, Sessions, SessionsResult};
pub use stickiness::{Stickiness, StickinessResult, StickinessRow};
pub use trail::{Trail, TrailRow};
