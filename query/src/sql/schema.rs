//! The tables of one statement.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result;
use hashbrown::HashMap;

/// Its own catalog, schema and tables.
#[derive(Debug)]
pub(super) struct StatementCatalog {
    tables: Arc<Tables>,
}

/// Tables by name.
#[derive(Debug)]
pub(super) struct Tables(HashMap<String, Arc<dyn TableProvider>>);

/// The name of the only catalog.
pub(super) const CATALOG: &str = "pugmark";
/// The name of its only schema.
pub(super) const SCHEMA: &str = "public";

impl StatementCatalog {
    pub(super) fn new(tables: HashMap<String, Arc<dyn TableProvider>>) -> Self {
        Self {
            tables: Arc::new(Tables(tables)),
        }
    }
}

impl CatalogProviderList for StatementCatalog {
    fn register_catalog(
        &self,
        _name: String,
        _catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(OneSchema(Arc::clone(&self.tables))) as _)
    }
}

/// The only catalog.
#[derive(Debug)]
struct OneSchema(Arc<Tables>);

impl CatalogProvider for OneSchema {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == SCHEMA).then(|| Arc::clone(&self.0) as _)
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        let shown = self.0.keys().filter(|name| !name.contains('#'));
        shown.cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
