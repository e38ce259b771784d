//! What a server adds to the names that statements may use, such as PostgreSQL's catalog.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::{SchemaProvider, TableFunction};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::planner::TypePlanner;

/// Schemas and functions beside Pugmark's own. What they hold counts into no statement's memory, so
/// they are small.
#[derive(Clone, Default)]
pub struct Additions {
    /// Schemas by name, beside `public`. One named `information_schema` stands in for DataFusion's.
    pub schemas: Vec<(String, Arc<dyn SchemaProvider>)>,
    /// Functions; one of a name that there is stands in for it.
    pub functions: Vec<Arc<ScalarUDF>>,
    /// Functions that stand in FROM.
    pub tables: Vec<Arc<TableFunction>>,
    /// What names of types mean that DataFusion does not know.
    pub types: Option<Arc<dyn TypePlanner>>,
}

impl fmt::Debug for Additions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schemas = self.schemas.iter().map(|(name, _)| name);
        out.debug_list().entries(schemas).finish()
    }
}

impl Additions {
    /// The schema of this name.
    pub(super) fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let found = self.schemas.iter().find(|(known, _)| known == name);
        found.map(|(_, schema)| Arc::clone(schema))
    }

    /// Puts the functions into the state of a statement.
    pub(super) fn put_into(&self, state: &mut SessionState) {
        for function in &self.functions {
            // What is registered in place of another cannot be refused.
            let _replaced = state.register_udf(Arc::clone(function));
        }
        for function in &self.tables {
            state.register_udtf(function.name(), Arc::clone(function.function()));
        }
        if self.schema("information_schema").is_some() {
            state.config_mut().options_mut().catalog.information_schema = false;
        }
    }
}
