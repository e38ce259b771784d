//! Rows of statements that run: fetched by portals and cursors, and copied.

use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::BufMut;
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use pgwire::messages::extendedquery::PortalSuspended;
use pugmark_query::sql::SqlStatement;

use super::super::super::answering::Make;
use super::super::super::keys::Scope;
use super::super::commands::{Command, CopyForm};
use super::super::failure::Failure;
use super::super::frames::Form;
use super::super::portals::{Portal, Running, State};
use super::super::rows::{Columns, Rows};
use super::{Connection, GATHERED};

/// Bytes of a frame before its body.
const FRAME_HEAD: usize = 5;

impl Connection {
    /// Begins to answer a statement.
    pub(super) async fn start(
        &mut self,
        statement: SqlStatement,
        forms: &[Form],
        sql: &str,
    ) -> Result<Running, Failure> {
        let wanted = forms.to_vec();
        let answering = self
            .ask(statement, sql, Scope::Query, move |schema| {
                let columns = Columns::new(schema, &wanted);
                Ok(Box::new(move |batch| columns.rows(&batch)) as Make<Rows>)
            })
            .await?;
        Ok(Running {
            columns: Columns::new(&answering.schema, forms),
            answering,
            forms: forms.to_vec(),
            rows: Rows::default(),
            paused: None,
        })
    }

    /// Sends rows of a portal that runs, and what ends them.
    pub(super) async fn fetch(
        &mut self,
        portal: &mut Portal,
        most: Option<usize>,
        verb: &str,
    ) -> Result<(), Failure> {
        let lost = Failure::new("24000", "the cursor broke off; open it anew");
        let state = std::mem::replace(&mut portal.state, State::Failed(lost));
        let mut running = match state {
            State::Running(running) => running,
            State::Failed(failure) => {
                portal.state = State::Failed(failure.clone());
                return Err(failure);
            }
            other => {
                portal.state = other;
                return self.done(&format!("{verb} 0"));
            }
        };
        self.allowed()?;
        self.cancellable.cancelling.begin();
        // One that was fetched from just now must not keep the turn that this one needs.
        self.pause_running();
        let columns = running.columns.fields.len();
        if running.forms.len() > 1 && running.forms.len() != columns {
            return Err(Failure::protocol("there are more forms than columns"));
        }
        let (sent, ended) = self.send(&mut running, most).await?;
        match ended {
            true => {
                for remark in std::mem::take(&mut running.answering.remarks) {
                    self.notice(&remark)?;
                }
                portal.state = State::Done(Arc::clone(&running.answering.schema));
            }
            false => portal.state = State::Running(running),
        }
        match ended || verb == "FETCH" {
            true => self.done(&format!("{verb} {sent}")),
            false => self.put(&PortalSuspended::new()),
        }
    }

    /// Sends so many rows; their number, and whether these were the last.
    pub(super) async fn send(
        &mut self,
        running: &mut Running,
        most: Option<usize>,
    ) -> Result<(usize, bool), Failure> {
        if running.paused.take().is_some() {
            running.answering.resume();
        }
        let most = most.unwrap_or(usize::MAX);
        let mut sent = 0;
        loop {
            let (taken, bytes) = running.rows.take(most - sent);
            self.out.put_slice(bytes);
            sent += taken;
            running.answering.sent(taken as u64);
            if sent == most {
                return Ok((sent, false));
            }
            if self.out.len() >= GATHERED {
                self.flush().await?;
            }
            match self.watched(running.answering.next()).await? {
                Some(rows) => running.rows = rows?,
                None => return Ok((sent, true)),
            }
        }
    }

    pub(super) async fn fetch_cursor(
        &mut self,
        name: &str,
        forms: &[Form],
        most: Option<usize>,
    ) -> Result<(), Failure> {
        let mut cursor = self.take_portal(name)?;
        let fetched = self.fetch_of(&mut cursor, forms, most).await;
        self.kept.portals.insert(name.to_owned(), cursor);
        fetched
    }

    pub(super) async fn fetch_of(
        &mut self,
        cursor: &mut Portal,
        forms: &[Form],
        most: Option<usize>,
    ) -> Result<(), Failure> {
        if let (State::New | State::Described(_), Some(Command::Rows(statement))) =
            (&cursor.state, &cursor.command)
        {
            // In the form of its first fetch.
            let (statement, sql) = (statement.clone(), Arc::clone(&cursor.sql));
            let running = self.start(statement, forms, &sql).await?;
            cursor.state = State::Running(Box::new(running));
        }
        if let State::Running(running) = &cursor.state
            && !same_forms(&running.forms, forms)
        {
            let message = "a cursor is fetched in one form, text or binary";
            return Err(Failure::new("0A000", message));
        }
        self.fetch(cursor, most, "FETCH").await
    }

    /// Sends the rows of a statement as a stream.
    pub(super) async fn copy(
        &mut self,
        statement: SqlStatement,
        form: CopyForm,
        sql: &str,
    ) -> Result<(), Failure> {
        let forms = match form {
            CopyForm::Binary => vec![Form::Binary],
            CopyForm::Text { .. } | CopyForm::Csv { .. } => Vec::new(),
        };
        let (of_task, wanted) = (form.clone(), forms.clone());
        let mut answering = self
            .ask(statement, sql, Scope::Query, move |schema| {
                let columns = Columns::new(schema, &wanted);
                let make = move |batch: RecordBatch| columns.copied(&batch, &of_task);
                Ok(Box::new(make) as Make<Rows>)
            })
            .await?;
        let columns = Columns::new(&answering.schema, &forms);
        let number = columns.fields.len();
        let binary = i16::from(form == CopyForm::Binary);
        let number = i16::try_from(number)
            .map_err(|_| Failure::new("54011", "there are too many columns"))?;
        let told = CopyOutResponse::new(binary as i8, number, vec![binary; number as usize]);
        self.put(&told)?;
        // What stands before the first row; in the binary form it comes with that.
        let mut before = match &form {
            CopyForm::Binary => b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec(),
            CopyForm::Csv {
                delimiter,
                header: true,
                ..
            } => {
                self.copy_data(&columns.header(*delimiter));
                Vec::new()
            }
            _ => Vec::new(),
        };
        let mut sent = 0;
        while let Some(rows) = self.watched(answering.next()).await? {
            let mut rows = rows?;
            if !before.is_empty() && !rows.is_empty() {
                let (taken, first) = rows.take(1);
                before.extend_from_slice(first.get(FRAME_HEAD..).unwrap_or_default());
                self.copy_data(&std::mem::take(&mut before));
                sent += taken;
                answering.sent(taken as u64);
            }
            while !rows.is_empty() {
                let (taken, bytes) = rows.take(1_024);
                self.out.put_slice(bytes);
                sent += taken;
                answering.sent(taken as u64);
                if self.out.len() >= GATHERED {
                    self.flush().await?;
                }
            }
        }
        if form == CopyForm::Binary {
            before.extend_from_slice(b"\xff\xff");
            self.copy_data(&before);
        }
        for remark in std::mem::take(&mut answering.remarks) {
            self.notice(&remark)?;
        }
        self.put(&CopyDone::new())?;
        self.done(&format!("COPY {sent}"))
    }

    pub(super) fn copy_data(&mut self, bytes: &[u8]) {
        self.out.put_u8(b'd');
        self.out.put_u32(4 + bytes.len() as u32);
        self.out.put_slice(bytes);
    }

    pub(super) fn has_running(&self) -> bool {
        let mut portals = self.kept.portals.values();
        portals.any(|portal| matches!(portal.state, State::Running(_)))
    }

    /// Lets other statements run while nothing is fetched.
    pub(super) fn pause_running(&mut self) {
        let paused = &self.shared.paused;
        for portal in self.kept.portals.values_mut() {
            let State::Running(running) = &mut portal.state else {
                continue;
            };
            if running.paused.is_some() {
                continue;
            }
            match Arc::clone(paused).try_acquire_owned() {
                Ok(place) => {
                    running.answering.pause();
                    running.paused = Some(place);
                }
                Err(_) => {
                    let message = "too many cursors are open; close some";
                    portal.state = State::Failed(Failure::new("53400", message));
                }
            }
        }
    }

    pub(super) fn drop_running(&mut self) {
        for portal in self.kept.portals.values_mut() {
            if matches!(portal.state, State::Running(_)) {
                let message = "the cursor was open longer than a statement may take";
                portal.state = State::Failed(Failure::new("57014", message));
            }
        }
    }
}

/// Whether rows in one form are as good as in the other.
fn same_forms(one: &[Form], other: &[Form]) -> bool {
    let binary = |forms: &[Form]| forms.contains(&Form::Binary);
    one == other || (!binary(one) && !binary(other))
}
