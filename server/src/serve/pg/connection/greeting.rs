//! The beginning of a connection: keys and settings are looked at, and what a client wants to know is told.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::BytesMut;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};
use pugmark_query::sql::Session;
use tokio::sync::watch;

use super::super::super::keys::Scope;
use super::super::super::space::Space;
use super::super::super::tls::Duplex;
use super::super::catalog::DATABASE;
use super::super::failure::Failure;
use super::super::frames::{Frames, MOST_STARTUP_BYTES, Message};
use super::super::listener::Shared;
use super::super::portals::Kept;
use super::super::variables::{TOLD, Variables};
use super::{Connection, gone};

/// The version of the protocol that is spoken: 3.0.
const PROTOCOL: i32 = 3 << 16;

/// Bytes that a connection may keep.
const MOST_KEPT: usize = 32 << 20;

impl Connection {
    /// Greets a client: asks for its key, and tells what clients want to know; `None` where it may
    /// not come in.
    pub(in super::super) async fn begin(
        shared: &Arc<Shared>,
        frames: Frames<Box<dyn Duplex>>,
        (minor, parameters): (u16, Vec<(String, String)>),
        ending: watch::Receiver<bool>,
    ) -> Option<Self> {
        let service = &shared.service;
        let cancellable = shared.cancels.add().ok()?;
        let variables: Arc<Mutex<Variables>> = Arc::default();
        // The functions of a session know it only as long as it is there.
        let known: Arc<Mutex<Weak<Session>>> = Arc::default();
        let additions = shared
            .catalog
            .additions(cancellable.process, &known, &variables);
        let session = Arc::new(service.session.another_with(additions));
        *known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&session);
        let (frames, writer) = frames.split();
        let mut connection = Self {
            shared: Arc::clone(shared),
            frames,
            writer,
            out: BytesMut::new(),
            key: None,
            session,
            limits: service.settings.clone(),
            variables,
            cancellable,
            status: TransactionStatus::Idle,
            stored: false,
            kept: Kept::default(),
            share: Space::new(MOST_KEPT),
            pending: None,
            gone: false,
            failed: false,
            ending,
        };
        let welcome = connection.welcome(minor, &parameters).await;
        if let Err(failure) = welcome {
            connection.fail(failure, "");
            let _gone = connection.flush().await;
            return None;
        }
        Some(connection)
    }

    pub(super) async fn welcome(
        &mut self,
        minor: u16,
        parameters: &[(String, String)],
    ) -> Result<(), Failure> {
        let unknown: Vec<String> = parameters
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if minor > 0 || !unknown.is_empty() {
            self.put(&NegotiateProtocolVersion::new(PROTOCOL, unknown))?;
        }
        let find = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        match find("database") {
            None | Some(DATABASE) => {}
            Some(other) => {
                let message =
                    format!("there is no database `{other}`; connect to the database {DATABASE}");
                return Err(Failure::fatal("3D000", message));
            }
        }
        if find("replication").is_some_and(|value| value != "false") {
            return Err(Failure::fatal("0A000", "nothing is replicated from here"));
        }
        if self.service().gate.is_locked() {
            self.put(&Authentication::CleartextPassword)?;
            self.flush().await?;
            match self.frames.next_within(MOST_STARTUP_BYTES).await? {
                Some(Message::Password(key)) => self.key = Some(key),
                _ => return Err(gone()),
            }
        }
        let admitted = self.service().admit(self.key.as_deref(), Scope::Query);
        let caller = admitted.map_err(|refused| Failure {
            ends: true,
            ..refused.into()
        })?;
        self.limits = caller.limits().settings(&self.limits);
        let limits = self.limits.clone();
        self.session.change(|settings| *settings = limits);
        for (name, value) in parameters {
            if !matches!(
                name.as_str(),
                "user" | "database" | "options" | "replication"
            ) {
                // What is not known here is not asked of us.
                let _unknown = self.set(name, Some(value));
            }
        }
        for (name, value) in options(find("options").unwrap_or_default()) {
            self.set(&name, Some(&value))?;
        }
        self.tell(find("user").unwrap_or(DATABASE))?;
        self.flush().await
    }

    /// Tells a client that it is in, and what clients want to know.
    fn tell(&mut self, user: &str) -> Result<(), Failure> {
        self.put(&Authentication::Ok)?;
        for name in TOLD {
            let value = match name {
                "session_authorization" => user.to_owned(),
                name => self.variable(name).unwrap_or_default(),
            };
            self.put(&ParameterStatus::new(name.to_owned(), value))?;
        }
        let zone = self.variable("timezone").unwrap_or_default();
        self.put(&ParameterStatus::new("TimeZone".to_owned(), zone))?;
        let secret = SecretKey::I32(self.cancellable.secret);
        self.put(&BackendKeyData::new(self.cancellable.process, secret))?;
        self.ready()
    }
}

/// Settings in the options that a connection begins with: `-c name=value --name=value`.
fn options(text: &str) -> Vec<(String, String)> {
    let mut words = text.split_ascii_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c") {
            Some("") => words.next(),
            Some(setting) => Some(setting),
            None => word.strip_prefix("--"),
        };
        if let Some((name, value)) = setting.and_then(|setting| setting.split_once('=')) {
            found.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_settings() {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let wanted = vec![
            set("jit", "off"),
            set("time_zone", "UTC"),
            set("threads", "1"),
        ];
        assert_eq!(
            options("-c jit=off --time-zone=UTC -cthreads=1 -x --y"),
            wanted
        );
    }
}
