//! Connections: accepted as many as may be, each bounded in what it may leave open.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::super::ended;
use super::super::service::Service;

/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// Serves until `ending` says so, then lets requests finish.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    service: Arc<Service>,
    mut ending: watch::Receiver<bool>,
) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(service.config.header_time)
        .max_buf_size(HEAD_BYTES);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = service.accept(&listener) => accepted,
            () = ended(&mut ending) => break,
        };
        while connections.try_join_next().is_some() {}
        let Some((stream, place)) = accepted else {
            continue;
        };
        let (service, router) = (Arc::clone(&service), router.clone());
        let (server, tls, ending) = (server.clone(), tls.clone(), ending.clone());
        connections.spawn(async move {
            service.metrics.connections.inc();
            match tls {
                None => talk(&server, stream, router, ending).await,
                Some(tls) => {
                    let time = service.config.header_time;
                    // Whoever does not get through the handshake in time is not heard.
                    if let Ok(Ok(stream)) = tokio::time::timeout(time, tls.accept(stream)).await {
                        talk(&server, stream, router, ending).await;
                    }
                }
            }
            service.metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of a connection.
async fn talk(
    server: &http1::Builder,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut ending: watch::Receiver<bool>,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let connection = server.serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    // Clients hang up as they like.
    tokio::select! {
        _hung_up = &mut connection => return,
        () = ended(&mut ending) => connection.as_mut().graceful_shutdown(),
    }
    let _hung_up = connection.await;
}

async fn answer(router: Router, request: Request<Incoming>) -> axum::response::Response {
    match router.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
