//! What is sent: messages are gathered, and go out together.

use bytes::BytesMut;
use pgwire::api::results::Tag;
use pgwire::error::ErrorInfo;
use pgwire::messages::Message as Encoded;
use pgwire::messages::data::{FieldDescription, RowDescription};
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use tokio::io::AsyncWriteExt;

use super::super::failure::Failure;
use super::super::rows::Columns;
use super::{Connection, GATHERED, gone};

/// Longest text of a failure.
const MOST_TOLD: usize = 8 << 10;

impl Connection {
    pub(super) fn put(&mut self, message: &impl Encoded) -> Result<(), Failure> {
        message
            .encode(&mut self.out)
            .map_err(|error| Failure::fatal("54000", error.to_string()))
    }

    pub(super) fn describe(&mut self, columns: &Columns) -> Result<(), Failure> {
        let fields = columns.fields.iter().map(FieldDescription::from).collect();
        self.put(&RowDescription::new(fields))
    }

    pub(super) fn done(&mut self, tag: &str) -> Result<(), Failure> {
        self.put(&CommandComplete::from(Tag::new(tag)))
    }

    pub(super) fn ready(&mut self) -> Result<(), Failure> {
        let status = self.status;
        self.put(&ReadyForQuery::new(status))
    }

    pub(super) fn notice(&mut self, text: &str) -> Result<(), Failure> {
        let notice = ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), short(text));
        self.put(&NoticeResponse::from(notice))
    }

    /// Tells a failure, after which a transaction does nothing more.
    pub(super) fn fail(&mut self, failure: Failure, sql: &str) {
        if self.status == TransactionStatus::Transaction {
            self.status = TransactionStatus::Error;
        }
        let failure = Failure {
            message: short(&failure.message),
            ..failure
        };
        let told = ErrorResponse::from(failure.told(sql));
        // Bounded, it always has room.
        let _bounded = self.put(&told);
    }

    /// Sends what was gathered. A client that takes nothing for as long as a body may take is gone.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let time = self.service().config.body_time;
        let written = tokio::time::timeout(time, async {
            self.writer.write_all(&self.out).await?;
            self.writer.flush().await
        });
        let written = matches!(written.await, Ok(Ok(())));
        // A long answer leaves no large buffer behind.
        match self.out.capacity() > 4 * GATHERED {
            true => self.out = BytesMut::new(),
            false => self.out.clear(),
        }
        match written {
            true => Ok(()),
            false => {
                self.gone = true;
                Err(gone())
            }
        }
    }
}

/// So much of a text as is told.
fn short(text: &str) -> String {
    let text = text.replace('\0', "");
    match text.char_indices().nth(MOST_TOLD / 4) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(short("kürz"), "kürz");
        assert!(short(&"ü".repeat(MOST_TOLD)).len() < MOST_TOLD);
    }
}
