//! What concerns the session itself: settings, transactions, prepared statements and cursors.

use std::sync::{Arc, MutexGuard, PoisonError};

use arrow_array::{RecordBatch, StringArray};
use bytes::BufMut;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::ParameterStatus;

use super::super::commands::Command;
use super::super::failure::Failure;
use super::super::frames::Form;
use super::super::portals::Kept;
use super::super::rows::Columns;
use super::super::variables::{TOLD, Variables};
use super::Connection;

impl Connection {
    /// What changes the session alone.
    pub(super) fn session_command(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Begin => {
                self.status = TransactionStatus::Transaction;
                self.stored = false;
                self.done("BEGIN")
            }
            Command::Commit | Command::Rollback => {
                let rolled = matches!(command, Command::Rollback);
                let failed = self.status == TransactionStatus::Error;
                if rolled && std::mem::take(&mut self.stored) {
                    self.notice("events that were inserted stay: nothing is rolled back")?;
                }
                self.status = TransactionStatus::Idle;
                self.kept.end_transaction();
                self.done(if rolled || failed {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                })
            }
            Command::RollbackTo => {
                if self.status == TransactionStatus::Error {
                    self.status = TransactionStatus::Transaction;
                }
                self.done("ROLLBACK")
            }
            Command::Set { name, value } => self.set_and_tell(&name, value.as_deref()),
            Command::ResetAll => {
                self.reset();
                self.done("RESET")
            }
            Command::Close(name) => {
                match name {
                    Some(name) => {
                        self.kept.portal(&name)?;
                        self.kept.portals.remove(&name);
                    }
                    None => self.kept.portals.clear(),
                }
                self.done("CLOSE CURSOR")
            }
            Command::Deallocate(name) => {
                match name {
                    Some(name) => {
                        self.kept.statement(&name)?;
                        self.kept.statements.remove(&name);
                    }
                    None => self.kept.statements.clear(),
                }
                self.done("DEALLOCATE")
            }
            Command::Discard => {
                self.kept = Kept::default();
                self.reset();
                self.done("DISCARD ALL")
            }
            Command::Nothing(tag) => self.done(tag),
            // Those with rows were handled before.
            _ => Ok(()),
        }
    }

    /// Changes a setting, and tells clients that want to know.
    pub(super) fn set_and_tell(&mut self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        self.set(name, value)?;
        let told = match name {
            "timezone" | "time_zone" => Some("TimeZone"),
            _ => TOLD
                .iter()
                .find(|told| told.eq_ignore_ascii_case(name))
                .copied(),
        };
        if let Some(told) = told {
            let value = self.variable(told).unwrap_or_default();
            self.put(&ParameterStatus::new(told.to_owned(), value))?;
        }
        self.done("SET")
    }

    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        self.variables()
            .set(name, value, &self.session, &self.limits)
    }

    pub(super) fn reset(&mut self) {
        self.variables().reset(&self.session, &self.limits);
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.variables().get(name, &self.session.settings())
    }

    pub(super) fn variables(&self) -> MutexGuard<'_, Variables> {
        self.variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show(&mut self, name: Option<&str>, forms: &[Form]) -> Result<(), Failure> {
        let (names, values): (Vec<String>, Vec<String>) = match name {
            Some(name) => {
                let value = self.variable(name).ok_or_else(|| {
                    Failure::new("42704", format!("there is no setting `{name}`"))
                })?;
                (Vec::new(), vec![value])
            }
            None => {
                let all = self.variables().all(&self.session.settings());
                all.into_iter().unzip()
            }
        };
        let column = |values: Vec<String>| Arc::new(StringArray::from(values)) as _;
        let batch = match name {
            Some(name) => RecordBatch::try_from_iter([(name, column(values))]),
            None => {
                RecordBatch::try_from_iter([("name", column(names)), ("setting", column(values))])
            }
        };
        let batch = batch.map_err(|error| Failure::new("XX000", error.to_string()))?;
        let mut rows = Columns::new(&batch.schema(), forms).rows(&batch)?;
        let (_, bytes) = rows.take(usize::MAX);
        self.out.put_slice(bytes);
        self.done("SHOW")
    }
}
