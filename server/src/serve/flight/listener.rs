//! Connections: accepted as many as may be, encrypted or not.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::super::ended;
use super::super::service::Service;
use super::super::tls::Duplex;
use super::statements::Statements;

/// Calls of one connection at a time.
const MOST_CALLS: usize = 16;
/// Largest message of a client.
const MOST_BYTES: usize = 5 << 20;
/// How long a connection is silent before it is asked whether anybody is there.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection that holds its place.
struct Held {
    stream: Box<dyn Duplex>,
    service: Arc<Service>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Held {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl Drop for Held {
    fn drop(&mut self) {
        self.service.metrics.connections.dec();
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Serves until `ending` says so, then lets calls finish.
pub(in super::super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Arc<Service>,
    mut ending: watch::Receiver<bool>,
) {
    let (sender, incoming) = mpsc::channel(1);
    let accepting = accept(listener, tls, Arc::clone(&service), ending.clone(), sender);
    let flight =
        FlightServiceServer::new(Statements::new(service)).max_decoding_message_size(MOST_BYTES);
    let serving = Server::builder()
        .concurrency_limit_per_connection(MOST_CALLS)
        .http2_keepalive_interval(Some(SILENCE))
        .http2_keepalive_timeout(Some(SILENCE))
        .add_service(flight)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
            ended(&mut ending).await;
        });
    let (served, ()) = tokio::join!(serving, accepting);
    if let Err(error) = served {
        tracing::error!(%error, "Flight SQL is served no more");
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Arc<Service>,
    mut ending: watch::Receiver<bool>,
    sender: mpsc::Sender<io::Result<Held>>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = service.accept(&listener) => accepted,
            () = ended(&mut ending) => return,
        };
        let Some((stream, place)) = accepted else {
            continue;
        };
        let (service, tls, sender) = (Arc::clone(&service), tls.clone(), sender.clone());
        tokio::spawn(async move {
            let time = service.config.header_time;
            let greeted = tokio::time::timeout(time, greet(stream, tls));
            // Whoever does not get through the handshake in time is not heard.
            if let Ok(Some(stream)) = greeted.await {
                service.metrics.connections.inc();
                let held = Held {
                    stream,
                    service,
                    _place: place,
                };
                let _ending = sender.send(Ok(held)).await;
            }
        });
    }
}

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits for what a client begins with, so that who says nothing holds no place for long.
async fn greet(stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<Box<dyn Duplex>> {
    if let Some(tls) = tls {
        return Some(Box::new(tls.accept(stream).await.ok()?));
    }
    let mut begun = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut begun).await.ok()?;
        if count == 0 || !PREFACE.starts_with(&begun[..count]) {
            return None;
        }
        if count == PREFACE.len() {
            return Some(Box::new(stream));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
