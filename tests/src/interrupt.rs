//! Ctrl-C for binaries that hold namespaces: the first one asks the main loop to end, so that every `Drop`
//! runs; the second cleans up by name and leaves.
//!
//! Not for library code or tests: a test harness keeps its own ways.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a program ended by SIGINT (128 + 2).
const EXIT_INTERRUPTED: i32 = 130;

/// Whether the user asked to stop. Clones share the answer.
#[derive(Clone, Debug)]
pub struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP for the rest of the process. Call it before the first
    /// namespace is made.
    ///
    /// # Errors
    /// When the handlers or the waiting thread cannot be set up.
    pub fn install() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>().context("handle signals")?
        };
        let interrupt = Self { state: Arc::new((Mutex::new(false), Condvar::new())) };
        let waiter = interrupt.clone();
        std::thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || runtime.block_on(waiter.serve(signals)))
            .context("start the signal thread")?;
        Ok(interrupt)
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time` or the signal, whichever is first; true when the signal has come.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut requested = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*requested {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            requested = self.state.1.wait_timeout(requested, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *requested
    }

    /// Asks to stop as the signal would (a `q` key, say).
    pub fn request(&self) {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.1.notify_all();
    }

    async fn serve(self, mut signals: Vec<Signal>) {
        loop {
            any(&mut signals).await;
            if self.is_requested() {
                crate::sweep::sweep_own();
                std::process::exit(EXIT_INTERRUPTED);
            }
            self.request();
        }
    }
}

/// Waits for whichever signal comes first.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|context| {
        let came = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if came { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
