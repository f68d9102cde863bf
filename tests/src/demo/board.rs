//! What everyone in the demo knows: what was done, what the balancer says, what happened when. Written by the
//! conductor (what was done) and the observer (what was seen), read by the screen and the report.
//!
//! Invariant: a kill is on the board before the first process dies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lb_userspace::api::views::StatusView;
use serde::Serialize;

use super::account::Kill;
use super::cast::SERVED;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// When, milliseconds since the traffic began; before that 0.
    pub at_ms: u64,
    /// What.
    pub text: String,
    /// Whether it should not have.
    pub is_problem: bool,
}

/// A wish whose effect is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// When it was uttered.
    pub at: Instant,
    /// When its effect was seen.
    pub seen: Option<Instant>,
}

impl Wish {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), seen: None }
    }

    /// The time from the wish to its effect.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        Some(self.seen?.duration_since(self.at))
    }
}

/// What is known. Backends by name.
#[derive(Clone, Debug)]
pub struct Known {
    /// When the traffic began.
    pub start: Instant,
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// Backends whose processes run.
    pub alive: BTreeMap<String, bool>,
    /// Deaths, oldest first.
    pub kills: Vec<Kill>,
    /// Backends that were drained, and when that was over.
    pub drains: BTreeMap<String, Wish>,
    /// Backends that were added or enabled again, and when they served.
    pub arrivals: BTreeMap<String, Wish>,
    /// Drained backends whose users finish at some time.
    pub farewells: Vec<(Instant, String)>,
    /// Deaths of the daemon, and when its successor answered.
    pub restarts: Vec<Wish>,
    /// Mistakes, and when the state before them was back.
    pub rollbacks: Vec<Wish>,
    /// Floods of a tenant beside: what its limit dropped of each, packets/s.
    pub floods: Vec<f64>,
    /// What the balancer said last.
    pub status: Option<StatusView>,
    /// Whether the daemon answers.
    pub is_daemon_up: bool,
}

impl Known {
    /// Whether nothing that was done is still to be seen: deaths and arrivals, the latter for at least `since`. (A
    /// drain takes as long as its flows last.)
    #[must_use]
    pub fn is_settled(&self, since: Duration) -> bool {
        let seen = |wish: &Wish| wish.seen.is_some_and(|seen| seen.elapsed() >= since);
        let out = |kill: &Kill| kill.back.is_some() || kill.moved.len() >= SERVED.len();
        self.is_daemon_up && self.kills.iter().all(out) && self.arrivals.values().all(seen)
    }
}

/// The shared board.
#[derive(Clone, Debug)]
pub struct Board {
    known: Arc<Mutex<Known>>,
    /// Whether events are also told on stderr.
    tells: Arc<AtomicBool>,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// A board with nothing on it, whose events are also told on stderr.
    #[must_use]
    pub fn new() -> Self {
        let known = Known {
            start: Instant::now(),
            events: Vec::new(),
            alive: BTreeMap::new(),
            kills: Vec::new(),
            drains: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            farewells: Vec::new(),
            restarts: Vec::new(),
            rollbacks: Vec::new(),
            floods: Vec::new(),
            status: None,
            is_daemon_up: true,
        };
        Self { known: Arc::new(Mutex::new(known)), tells: Arc::new(AtomicBool::new(true)) }
    }

    /// Whether events are told on stderr from now on: not while a screen is there.
    pub fn tell(&self, tells: bool) {
        self.tells.store(tells, Ordering::Relaxed);
    }

    /// Everything, to read and write; hold it for moments only.
    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of everything.
    #[must_use]
    pub fn read(&self) -> Known {
        self.lock().clone()
    }

    /// Notes what happened.
    pub fn say(&self, text: impl Into<String>) {
        self.note(text.into(), false);
    }

    /// Notes what should not have happened.
    pub fn complain(&self, text: impl Into<String>) {
        self.note(text.into(), true);
    }

    fn note(&self, text: String, is_problem: bool) {
        let mut known = self.lock();
        let at_ms = u64::try_from(known.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.tells.load(Ordering::Relaxed) {
            let mark = if is_problem { "PROBLEM: " } else { "" };
            eprintln!("{:>7.3} s  {mark}{text}", at_ms as f64 / 1e3);
        }
        known.events.push(Event { at_ms, text, is_problem });
    }
}

impl Known {
    /// The problems among the events.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter(|event| event.is_problem).map(|event| event.text.as_str())
    }
}
