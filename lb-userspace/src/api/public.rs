//! What a machine elsewhere may ask over TCP: is the node ready, is it alive, its figures. For the balancer of a cloud in
//! front of a fleet, and for whoever scrapes. Nothing that changes anything, and nothing that waits, is reachable here; who
//! may connect is the network's matter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Node, no_route, node};
use crate::metrics;
use crate::problem::{Code, Problem};

/// Connections at a time; the next one waits in the kernel's queue.
const CONNECTIONS: usize = 64;
/// The longest that a connection lives: whoever asks again connects again, so nobody holds a place.
const LIFETIME: Duration = Duration::from_secs(10);

/// Listens on an address.
///
/// # Errors
/// The address cannot be used.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Problem> {
    let refused = |error| Problem::new(Code::HealthListen, format!("cannot listen on {address}: {error}"));
    TcpListener::bind(address).await.map_err(refused)
}

/// Answers until it is dropped.
pub async fn answer(listener: TcpListener, node: Arc<Node>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let router = routes().fallback(no_route).method_not_allowed_fallback(no_route).with_state(node);
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(LIFETIME, connection(stream, router)).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors: those of finished connections come back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What is answered over the daemon's socket as well.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/metrics", get(metrics::scrape))
        .route("/healthz", get(node::healthz))
        .route("/readyz", get(node::readyz))
}

async fn connection(stream: TcpStream, router: Router) {
    let answering = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIFETIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = answering.await {
        tracing::debug!(%error, "a connection ended early");
    }
}
