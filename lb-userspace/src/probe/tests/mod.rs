//! Probes against real sockets: what is well, what is not, and what tries to cost more than a probe may.

mod hostile;
mod kinds;
mod paces;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_control::probe::{Probe, ProbeKind};
use tokio::net::{TcpListener, TcpStream};

use super::plan::{Answer, Plan};
use super::tls::Roots;

/// Timeout of the probes here: ample for a machine that is busy with other tests.
const TIMEOUT: Duration = Duration::from_millis(2_000);

fn probe(kind: ProbeKind) -> Probe {
    Probe { interval_ms: 10_000, timeout_ms: TIMEOUT.as_millis() as u32, ..Probe::of_kind(kind) }
}

/// How an attempt ends, and how long it takes.
async fn ask(probe: &Probe, target: SocketAddr) -> (Answer, Duration) {
    let began = Instant::now();
    let plan = Plan::new(probe, &Roots::default()).expect("a probe");
    let answer = plan.attempt(target).await.expect("an attempt can be made");
    (answer, began.elapsed())
}

/// Something that does this with every connection.
async fn target_that<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}
