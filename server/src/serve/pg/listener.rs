//! Connections: accepted as many as may be, greeted, encrypted where they ask for it.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::super::ended;
use super::super::service::Service;
use super::super::tls::Duplex;
use super::cancelling::Cancels;
use super::catalog::Catalog;
use super::connection::Connection;
use super::failure::Failure;
use super::frames::{Frames, Startup};

/// Paused statements for each that may run.
const PAUSED: usize = 4;

/// What all connections share.
pub(in super::super) struct Shared {
    pub(super) service: Arc<Service>,
    pub(super) catalog: Catalog,
    pub(super) cancels: Arc<Cancels>,
    /// Statements that may pause between fetches.
    pub(super) paused: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
}

impl Shared {
    /// Puts together what connections share.
    ///
    /// # Errors
    /// Where the catalog cannot be made.
    pub(in super::super) fn new(
        service: &Arc<Service>,
        tls: Option<TlsAcceptor>,
    ) -> Result<Self, pugmark_query::sql::SqlError> {
        Ok(Self {
            catalog: Catalog::new(&service.session)?,
            cancels: Arc::default(),
            paused: Arc::new(Semaphore::new(PAUSED * service.config.queries)),
            service: Arc::clone(service),
            tls,
        })
    }
}

/// Serves until `ending` says so, then lets statements finish.
pub(in super::super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut ending: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = shared.service.accept(&listener) => accepted,
            () = ended(&mut ending) => break,
        };
        while connections.try_join_next().is_some() {}
        let Some((stream, place)) = accepted else {
            continue;
        };
        let (shared, ending) = (Arc::clone(&shared), ending.clone());
        connections.spawn(async move {
            shared.service.metrics.connections.inc();
            if let Some(connection) = greet(&shared, stream, ending).await {
                connection.serve().await;
            }
            shared.service.metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What comes before a session; `None` where there will be none.
async fn greet(
    shared: &Arc<Shared>,
    stream: TcpStream,
    ending: watch::Receiver<bool>,
) -> Option<Connection> {
    let greeted = async {
        let (frames, parameters) = startup(shared, stream).await?;
        Connection::begin(shared, frames, parameters, ending).await
    };
    // Whoever does not get to the end of it in time is not heard.
    tokio::time::timeout(shared.service.config.header_time, greeted)
        .await
        .ok()?
}

type Greeted = (Frames<Box<dyn Duplex>>, (u16, Vec<(String, String)>));

async fn startup(shared: &Shared, stream: TcpStream) -> Option<Greeted> {
    let mut frames = Frames::new(Box::new(stream) as Box<dyn Duplex>);
    let (mut encrypted, mut asked) = (false, 0);
    loop {
        asked += 1;
        match (frames.startup().await, &shared.tls) {
            // Asked for once each, and then there is a session.
            _ if asked > 4 => return None,
            (Ok(Some(Startup::Tls)), Some(tls)) if !encrypted => {
                let mut stream = frames.into_reader()?;
                stream.write_all(b"S").await.ok()?;
                let stream = tls.accept(stream).await.ok()?;
                frames = Frames::new(Box::new(stream));
                encrypted = true;
            }
            (Ok(Some(Startup::Tls | Startup::Kerberos)), _) => {
                let mut stream = frames.into_reader()?;
                stream.write_all(b"N").await.ok()?;
                frames = Frames::new(stream);
            }
            (Ok(Some(Startup::Cancel { process, secret })), _) => {
                shared.cancels.cancel(process, &secret);
                return None;
            }
            (Ok(Some(Startup::Session { minor, parameters })), _) => {
                return Some((frames, (minor, parameters)));
            }
            (Ok(None), _) => return None,
            (Err(failure), _) => {
                refuse(frames, failure).await;
                return None;
            }
        }
    }
}

async fn refuse(frames: Frames<Box<dyn Duplex>>, failure: Failure) {
    let mut bytes = bytes::BytesMut::new();
    let told = pgwire::messages::response::ErrorResponse::from(failure.told(""));
    if pgwire::messages::Message::encode(&told, &mut bytes).is_ok()
        && let Some(mut stream) = frames.into_reader()
    {
        let _gone = stream.write_all(&bytes).await;
    }
}
