//! Connections: accepted as many as may be, each bounded in what it may leave open.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::super::service::Service;

/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;
/// How long requests that run may go on when the service ends.
const GRACE: Duration = Duration::from_secs(20);
/// How long accepting waits where the system has no descriptors left.
const WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Serves until `end` is over, then lets requests finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    service: Arc<Service>,
    end: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(service.config.max_connections));
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(service.config.header_time)
        .max_buf_size(HEAD_BYTES);
    tokio::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut end => break,
        };
        let Some((stream, place)) = accepted else {
            continue;
        };
        let router = router.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let router = router.clone();
            async move { Ok::<_, Infallible>(answer(router, request).await) }
        });
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), answer));
        service.metrics.connections.inc();
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            // Clients hang up as they like.
            let _hung_up = connection.await;
            service.metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    let finished = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    if finished.is_err() {
        service.queries.stop_all();
    }
}

async fn answer(router: Router, request: Request<Incoming>) -> axum::response::Response {
    match router.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            let _as_it_is = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(WITHOUT_DESCRIPTORS).await;
            None
        }
    }
}
