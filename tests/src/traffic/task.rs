//! A thread inside a namespace that runs async traffic until told to stop. Its sockets belong to the
//! namespace because one thread makes and serves them all.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::netns::Namespace;

/// Told to the traffic: go on, hold still, end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Paused,
    Stopped,
}

/// The traffic's view of its phase.
#[derive(Clone, Debug)]
pub(crate) struct Gate(watch::Receiver<Phase>);

impl Gate {
    /// Waits while paused; false when it is time to end.
    pub(crate) async fn open(&mut self) -> bool {
        let phase = self.0.wait_for(|phase| *phase != Phase::Paused).await;
        phase.is_ok_and(|phase| *phase == Phase::Running)
    }

    /// Waits for the end.
    pub(crate) async fn stopped(&mut self) {
        // A dropped sender means the end, too.
        let _ = self.0.wait_for(|phase| *phase == Phase::Stopped).await;
    }

    /// Whether it is time to end.
    pub(crate) fn is_stopped(&self) -> bool {
        *self.0.borrow() == Phase::Stopped || self.0.has_changed().is_err()
    }
}

/// Traffic in the background. Dropping it ends it and waits for that.
#[derive(Debug)]
pub(crate) struct Task<R> {
    phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<Result<R>>>,
}

impl<R: Send + 'static> Task<R> {
    /// Runs what `traffic` makes on a thread of its own inside `namespace`.
    pub(crate) fn start<F>(
        namespace: &Namespace,
        name: &str,
        traffic: impl FnOnce(Gate) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<R>>,
    {
        let (phase, gate) = watch::channel(Phase::Running);
        let thread = namespace.start_thread(name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("make a runtime")?;
            // Tasks are spawned to this thread only, so they need not be Send.
            tokio::task::LocalSet::new().block_on(&runtime, traffic(Gate(gate)))
        })?;
        Ok(Self { phase, thread: Some(thread) })
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        // Traffic that has ended by itself hears nothing any more.
        let _ = self.phase.send(phase);
    }

    /// Ends it and returns its result.
    pub(crate) fn finish(mut self) -> Result<R> {
        self.set_phase(Phase::Stopped);
        let thread = self.thread.take().context("a task finishes once")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<R> Drop for Task<R> {
    fn drop(&mut self) {
        let _ = self.phase.send(Phase::Stopped);
        if let Some(thread) = self.thread.take() {
            // Dropped without `finish`: nobody asks for the result.
            let _ = thread.join();
        }
    }
}
