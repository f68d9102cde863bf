//! The circuit breaker of a backend, as a pure machine: Closed (traffic flows), Open (no new flows, for a backoff),
//! HalfOpen (a limited trial). Time and chance enter as arguments.
//!
//! It is fed with successes and failures, whoever saw them, and knows nothing of intent, which is a person's, nor of
//! health, which probes alone decide: three things that never change each other. What a state means for the maps is the
//! plan's business, what is on trial the data plane's.
//!
//! Invariants:
//! - a backend that fails while it is tried is open again at once, for longer;
//! - a breaker that is open closes by way of a trial only, or by a person's order;
//! - what a person tripped stays open until a person resets it.

mod settings;
mod window;

pub use settings::{BreakerSettings, BreakerWish};
use window::Window;

use crate::backoff;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Traffic flows.
    #[default]
    Closed,
    /// No new flows.
    Open,
    /// A limited trial: new connections at a permitted rate.
    HalfOpen,
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

/// Why a breaker changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnCause {
    /// So many failures in a row as its settings name.
    InARow,
    /// Too large a share of failures in its window.
    Ratio,
    /// Its backoff is over.
    BackoffOver,
    /// A failure during the trial.
    TrialFailed,
    /// Enough successes in a row during the trial.
    TrialPassed,
    /// A person ordered it.
    Operator,
}

impl fmt::Display for TurnCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InARow => "failures in a row",
            Self::Ratio => "share of failures",
            Self::BackoffOver => "the backoff is over",
            Self::TrialFailed => "a failure during the trial",
            Self::TrialPassed => "the trial succeeded",
            Self::Operator => "ordered by a person",
        })
    }
}

/// A change of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What it was.
    pub from: BreakerState,
    /// What it is.
    pub to: BreakerState,
    /// Why.
    pub cause: TurnCause,
    /// When, on the clock of the caller, milliseconds.
    pub at_ms: u64,
    /// Open: how long until the next trial, milliseconds. 0 otherwise, and where only a person ends it.
    pub backoff_ms: u64,
}

/// The breaker of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    state: BreakerState,
    /// When it came to its state.
    since_ms: u64,
    /// When it left Closed last.
    opened_ms: u64,
    /// Open: when its backoff ends.
    until_ms: u64,
    /// Closed: failures in a row. HalfOpen: successes in a row.
    in_a_row: u16,
    window: Window,
    /// How often it opened, less what it has forgotten since: each doubles the backoff.
    level: u8,
    tripped: bool,
    /// Closed after a trial: its slow start has begun then.
    ramp_from_ms: Option<u64>,
}

impl Breaker {
    /// One that is open as a former daemon left it: tried after the shortest backoff.
    pub fn adopted(settings: &BreakerSettings, now_ms: u64, seed: u64) -> Self {
        let mut breaker = Self::default();
        breaker.open(settings, TurnCause::InARow, now_ms, seed);
        breaker
    }
    /// Where it stands.
    pub const fn state(&self) -> BreakerState {
        self.state
    }
    /// Since when, on the caller's clock, milliseconds.
    pub const fn since_ms(&self) -> u64 {
        self.since_ms
    }
    /// When it left Closed last, on the caller's clock, milliseconds: the order of ejections.
    pub const fn opened_ms(&self) -> u64 {
        self.opened_ms
    }
    /// Open: when its backoff ends, on the caller's clock, milliseconds.
    pub const fn until_ms(&self) -> u64 {
        self.until_ms
    }
    /// Whether a person tripped it.
    pub const fn is_tripped(&self) -> bool {
        self.tripped
    }

    /// Takes a success or a failure. A success ends an Open whose backoff is over, and begins the trial.
    pub fn observe(
        &mut self,
        settings: &BreakerSettings,
        success: bool,
        now_ms: u64,
        seed: u64,
    ) -> Option<Turn> {
        if !settings.is_on() || self.tripped {
            return None;
        }
        match (self.state, success) {
            (BreakerState::Closed, _) => self.observe_closed(settings, success, now_ms, seed),
            (BreakerState::Open, true) if now_ms >= self.until_ms => {
                Some(self.turn(BreakerState::HalfOpen, TurnCause::BackoffOver, now_ms))
            }
            (BreakerState::Open, _) => None,
            (BreakerState::HalfOpen, false) => {
                Some(self.open(settings, TurnCause::TrialFailed, now_ms, seed))
            }
            (BreakerState::HalfOpen, true) => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                (self.in_a_row >= settings.trial_successes.into())
                    .then(|| self.close(settings, TurnCause::TrialPassed, now_ms))
            }
        }
    }

    fn observe_closed(
        &mut self,
        settings: &BreakerSettings,
        success: bool,
        now_ms: u64,
        seed: u64,
    ) -> Option<Turn> {
        self.window.count(settings.window_ms(), success, now_ms);
        self.in_a_row = if success { 0 } else { self.in_a_row.saturating_add(1) };
        if success {
            return None;
        }
        let (all, failed) = self.window.sums(settings.window_ms(), now_ms);
        let in_a_row = settings.consecutive > 0 && self.in_a_row >= settings.consecutive;
        let ratio = settings.ratio_percent > 0
            && all >= settings.volume.into()
            && failed * 100 >= all * u64::from(settings.ratio_percent);
        match (in_a_row, ratio) {
            (true, _) => Some(self.open(settings, TurnCause::InARow, now_ms, seed)),
            (false, true) => Some(self.open(settings, TurnCause::Ratio, now_ms, seed)),
            (false, false) => None,
        }
    }

    /// What time alone brings: the trial of a backend without probes, which nothing else could begin; and that a breaker
    /// that is turned off closes.
    pub fn tick(&mut self, settings: &BreakerSettings, probed: bool, now_ms: u64) -> Option<Turn> {
        if self.tripped || self.state == BreakerState::Closed {
            return None;
        }
        if !settings.is_on() {
            return Some(self.close(settings, TurnCause::Operator, now_ms));
        }
        if probed {
            return None;
        }
        match self.state {
            BreakerState::Open if now_ms >= self.until_ms => {
                Some(self.turn(BreakerState::HalfOpen, TurnCause::BackoffOver, now_ms))
            }
            // Nobody tells of successes: no failure for as long as the shortest backoff is one.
            BreakerState::HalfOpen
                if now_ms.saturating_sub(self.since_ms) >= u64::from(settings.backoff_ms) =>
            {
                Some(self.close(settings, TurnCause::TrialPassed, now_ms))
            }
            _ => None,
        }
    }

    /// Opens it until a person resets it.
    pub fn trip(&mut self, now_ms: u64) -> Option<Turn> {
        if std::mem::replace(&mut self.tripped, true) {
            return None;
        }
        if self.state == BreakerState::Closed {
            self.opened_ms = now_ms;
        }
        Some(self.turn(BreakerState::Open, TurnCause::Operator, now_ms))
    }

    /// Closes it, whatever opened it, and forgets what it has seen.
    pub fn reset(&mut self, settings: &BreakerSettings, now_ms: u64) -> Option<Turn> {
        self.tripped = false;
        (self.level, self.in_a_row, self.window) = (0, 0, Window::default());
        (self.state != BreakerState::Closed).then(|| self.close(settings, TurnCause::Operator, now_ms))
    }

    /// The share of its slots that the backend shall have, permille: all when closed, the floor of the slow start when
    /// tried, and in between as the slow start goes. An open one has none.
    pub fn share_permille(&self, settings: &BreakerSettings, now_ms: u64) -> u16 {
        let floor = if settings.slow_start_s == 0 { 1_000 } else { u64::from(settings.floor_percent) * 10 };
        let share = match (self.state, self.ramp_from_ms) {
            (BreakerState::Open, _) => 0,
            (BreakerState::HalfOpen, _) => floor,
            (BreakerState::Closed, None) => 1_000,
            (BreakerState::Closed, Some(from_ms)) => {
                let (gone, whole) =
                    (now_ms.saturating_sub(from_ms), u64::from(settings.slow_start_s) * 1_000);
                if gone >= whole { 1_000 } else { floor + (1_000 - floor) * gone / whole }
            }
        };
        u16::try_from(share.min(1_000)).unwrap_or(1_000)
    }

    fn open(&mut self, settings: &BreakerSettings, cause: TurnCause, now_ms: u64, seed: u64) -> Turn {
        if self.state == BreakerState::Closed {
            // Flap damping: what fails again soon is left out for longer; what held is forgiven step by step.
            let quiet = now_ms.saturating_sub(self.since_ms) / (u64::from(settings.calm_s.max(1)) * 1_000);
            self.level = self.level.saturating_sub(u8::try_from(quiet).unwrap_or(u8::MAX));
            self.opened_ms = now_ms;
        }
        let seed = seed ^ now_ms.rotate_left(32);
        let backoff_ms = backoff::delay_ms(settings.backoff_ms, settings.backoff_max_ms, self.level, seed);
        self.level = (self.level + 1).min(backoff::LEVEL_MAX);
        self.until_ms = now_ms + backoff_ms;
        Turn { backoff_ms, ..self.turn(BreakerState::Open, cause, now_ms) }
    }

    fn close(&mut self, settings: &BreakerSettings, cause: TurnCause, now_ms: u64) -> Turn {
        let turn = self.turn(BreakerState::Closed, cause, now_ms);
        self.ramp_from_ms = (settings.slow_start_s > 0 && settings.is_on()).then_some(now_ms);
        turn
    }

    fn turn(&mut self, to: BreakerState, cause: TurnCause, at_ms: u64) -> Turn {
        let from = std::mem::replace(&mut self.state, to);
        (self.since_ms, self.in_a_row, self.ramp_from_ms) = (at_ms, 0, None);
        self.window = Window::default();
        Turn { from, to, cause, at_ms, backoff_ms: 0 }
    }
}

#[cfg(test)]
mod tests;
