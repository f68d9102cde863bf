//! Does what is asked, one thing after the other, on a thread of its own: some of it takes a second, and neither
//! screen nor clock may stand still meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_control::backend::Intent;

use super::board::{Board, Known};
use super::observer::rows;
use super::stage::Stage;
use crate::interrupt::Interrupt;

/// How long the users of a draining backend stay until they finish.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// What can be asked for. Backends by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Kill its processes.
    Kill(String),
    /// Run its processes again.
    Revive(String),
    /// Hang its processes until the balancer has noticed, then let it be tried.
    Hang(String),
    /// Drain it.
    Drain(String),
    /// Enable it again.
    Enable(String),
    /// Add one more.
    Add,
    /// Kill the daemon and start another one this long after.
    RestartDaemon(Duration),
    /// Give it weight 0 by mistake, and bring back what was.
    TravelBack(String),
    /// Have another tenant flood its vip.
    Flood,
}

/// The thread that owns the stage; dropping it waits for what is under way and takes the stage down.
#[derive(Debug)]
pub struct Conductor {
    acts: Option<Sender<Act>>,
    /// Acts that were asked for and are not done.
    open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Conductor {
    /// Gives it the stage.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(stage: Stage, board: Board, interrupt: Interrupt) -> Result<Self> {
        let (acts, queue) = channel();
        let open = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&open);
        let conduct = move || conduct(stage, &queue, &left, &board, &interrupt);
        let thread = std::thread::Builder::new().name("conductor".to_owned()).spawn(conduct);
        Ok(Self { acts: Some(acts), open, thread: Some(thread.context("start the conductor")?) })
    }

    /// Asks for something; it is done after everything asked for before.
    pub fn ask(&self, act: Act) {
        if let Some(acts) = &self.acts {
            self.open.fetch_add(1, Ordering::SeqCst);
            // A conductor that has gone has left its problem on the board.
            let _ = acts.send(act);
        }
    }

    /// Whether something that was asked for is not done yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Conductor {
    fn drop(&mut self) {
        self.acts = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            crate::sweep::sweep_own();
        }
    }
}

fn conduct(
    mut stage: Stage,
    queue: &Receiver<Act>,
    open: &AtomicUsize,
    board: &Board,
    interrupt: &Interrupt,
) {
    while let Ok(act) = queue.recv() {
        let refused = refusal(&act, &board.lock());
        match refused {
            _ if interrupt.is_requested() => {}
            Err(why) => board.say(why.to_string()),
            Ok(()) => {
                if let Err(error) = perform(&mut stage, &act, board, interrupt) {
                    board.complain(format!("{act:?}: {error:#}"));
                }
            }
        }
        open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn perform(stage: &mut Stage, act: &Act, board: &Board, interrupt: &Interrupt) -> Result<()> {
    match act {
        Act::Kill(name) => stage.kill(name),
        Act::Revive(name) => stage.revive(name),
        Act::Hang(name) => stage.hang(name),
        Act::Drain(name) => {
            stage.drain(name)?;
            let at = std::time::Instant::now() + FAREWELL;
            board.lock().farewells.push((at, name.clone()));
            Ok(())
        }
        Act::Enable(name) => stage.enable(name),
        Act::Add => stage.add(),
        Act::TravelBack(name) => stage.travel_back(name),
        Act::Flood => stage.flood(),
        Act::RestartDaemon(after) => stage.restart_daemon(|| {
            // Told to stop: the successor starts at once, and all is taken down in order.
            let _ = interrupt.wait(*after);
        }),
    }
}

/// Why something is not done: it would leave nobody who serves, and that is another play.
fn refusal(act: &Act, known: &Known) -> Result<()> {
    let (Act::Kill(name) | Act::Hang(name) | Act::Drain(name)) = act else { return Ok(()) };
    let Some(status) = &known.status else { return Ok(()) };
    let others = known.alive.iter().filter(|(other, alive)| **alive && *other != name);
    let serving =
        |other: &str| rows(status, other).all(|row| row.intent == Intent::Enabled && row.share > 0.0);
    if others.into_iter().any(|(other, _)| serving(other)) {
        return Ok(());
    }
    bail!("{name} is the last one that serves; add another one first (a)")
}
