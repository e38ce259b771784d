//! The tables of one statement.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result;
use hashbrown::HashMap;

use super::additions::Additions;

/// Its own catalog, schema and tables.
#[derive(Debug)]
pub(super) struct StatementCatalog {
    tables: Arc<Tables>,
    additions: Arc<Additions>,
}

/// Tables by name.
#[derive(Debug)]
pub(super) struct Tables(HashMap<String, Arc<dyn TableProvider>>);

/// The name of the only catalog.
pub(super) const CATALOG: &str = "pugmark";
/// The name of the schema of its own tables.
pub(super) const SCHEMA: &str = "public";

impl StatementCatalog {
    pub(super) fn new(
        tables: HashMap<String, Arc<dyn TableProvider>>,
        additions: &Arc<Additions>,
    ) -> Self {
        Self {
            tables: Arc::new(Tables(tables)),
            additions: Arc::clone(additions),
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
        (name == CATALOG).then(|| {
            Arc::new(Schemas {
                tables: Arc::clone(&self.tables),
                additions: Arc::clone(&self.additions),
            }) as _
        })
    }
}

/// The only catalog.
#[derive(Debug)]
struct Schemas {
    tables: Arc<Tables>,
    additions: Arc<Additions>,
}

impl CatalogProvider for Schemas {
    fn schema_names(&self) -> Vec<String> {
        let added = self.additions.schemas.iter().map(|(name, _)| name.clone());
        std::iter::once(SCHEMA.to_owned()).chain(added).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            SCHEMA => Some(Arc::clone(&self.tables) as _),
            other => self.additions.schema(other),
        }
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
