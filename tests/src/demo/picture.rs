//! What the screen shows, as plain words and numbers: one picture of one moment, out of board and traffic.

use std::time::Duration;

use lb_control::backend::Intent;
use lb_control::health::Health;
use lb_userspace::api::views::BackendView;

use super::account::Death;
use super::board::{Event, Known};
use super::cast::SERVED;
use super::load::Tally;
use super::observer::rows;
use super::rates::{Beat, Rates};

/// Steps of the curve of requests, at most; a step is a quarter of a second.
const BEATS: usize = 200;

/// One backend, over all vips.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BackendPicture {
    pub(super) name: String,
    /// Whether its processes run.
    pub(super) is_alive: bool,
    pub(super) intent: String,
    pub(super) health: String,
    pub(super) breaker: String,
    /// Share of the slots, 0 to 1, mean over the vips.
    pub(super) share: f64,
    pub(super) requests_per_s: f64,
    pub(super) datagrams_per_s: f64,
    pub(super) long_lived: u64,
    pub(super) tracked_flows: u64,
    pub(super) note: String,
}

impl BackendPicture {
    /// Whether a key should enable it rather than drain it.
    pub(super) fn is_enabled(&self) -> bool {
        self.intent == Intent::Enabled.to_string()
    }
}

/// One moment.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) mode: &'static str,
    pub(super) running: Duration,
    pub(super) daemon: Result<String, String>,
    pub(super) device: String,
    pub(super) tally: Tally,
    pub(super) requests_per_s: f64,
    pub(super) datagrams_per_s: f64,
    pub(super) beats: Vec<Beat>,
    pub(super) backends: Vec<BackendPicture>,
    /// Drops within the last minute, reason and packets.
    pub(super) drops: Vec<(String, u64)>,
    pub(super) events: Vec<Event>,
}

impl Picture {
    pub(super) fn new(mode: &'static str, known: &Known, rates: &Rates) -> Self {
        let status = known.status.as_ref();
        let device = status.and_then(|status| status.devices.first());
        let drops = status.map_or(&[][..], |status| &status.drops);
        Self {
            mode,
            running: known.start.elapsed(),
            daemon: daemon(known),
            device: device
                .map_or_else(String::new, |device| format!("{} XDP on {}", device.mode, device.name)),
            tally: rates.now().cloned().unwrap_or_default(),
            requests_per_s: rates.per_second(|tally| tally.requests_ok),
            datagrams_per_s: rates.per_second(|tally| tally.udp_answered),
            beats: rates.beats(BEATS),
            backends: known.alive.iter().map(|(name, alive)| backend(name, *alive, known, rates)).collect(),
            drops: drops.iter().map(|drop| (drop.reason.clone(), drop.last_minute_packets)).collect(),
            events: known.events.clone(),
        }
    }
}

/// What is said of the daemon: well, or not.
fn daemon(known: &Known) -> Result<String, String> {
    match &known.status {
        Some(status) if known.is_daemon_up => {
            Ok(format!("lb {}, revision {}", status.node.version, status.revision))
        }
        _ => Err("lb serve is dead, packets go on".to_owned()),
    }
}

fn backend(name: &str, is_alive: bool, known: &Known, rates: &Rates) -> BackendPicture {
    let of = |counts: &std::collections::BTreeMap<String, u64>| counts.get(name).copied().unwrap_or_default();
    let views: Vec<&BackendView> = known.status.iter().flat_map(|status| rows(status, name)).collect();
    let first = views.first();
    BackendPicture {
        name: name.to_owned(),
        is_alive,
        intent: first.map_or_else(|| "not added".to_owned(), |view| view.intent.to_string()),
        health: health(&views),
        breaker: first.and_then(|view| view.breaker.clone()).unwrap_or_else(|| "-".to_owned()),
        share: views.iter().map(|view| view.share).sum::<f64>() / SERVED.len() as f64,
        requests_per_s: rates.per_second(|tally| of(&tally.per_backend)),
        datagrams_per_s: rates.per_second(|tally| of(&tally.udp_per_backend)),
        long_lived: rates.now().map_or(0, |tally| of(&tally.long_lived_per_backend)),
        tracked_flows: views.iter().map(|view| view.tracked_flows).sum(),
        note: note(name, is_alive, known),
    }
}

/// The health in all vips, or in how many it is down.
fn health(views: &[&BackendView]) -> String {
    let down = views.iter().filter(|view| view.health == Health::Down).count();
    match views.first() {
        None => "-".to_owned(),
        Some(first) if views.iter().all(|view| view.health == first.health) => first.health.to_string(),
        Some(_) if down == 0 => "coming up".to_owned(),
        Some(_) => format!("down {down}/{}", views.len()),
    }
}

/// What is going on with it, in few words.
fn note(name: &str, is_alive: bool, known: &Known) -> String {
    let kill = known.kills.iter().rev().find(|kill| kill.backend == name && kill.back.is_none());
    if let (false, Some(kill)) = (is_alive, kill) {
        let what = if kill.death == Death::Hung { "hangs" } else { "killed" };
        return match kill.detected_after(SERVED.len()) {
            Some(took) => format!("{what}; out after {} ms", took.as_millis()),
            None => format!("{what}; out of {} of {} vips", kill.moved.len(), SERVED.len()),
        };
    }
    if let Some(wish) = known.drains.get(name) {
        return match wish.took() {
            Some(took) => format!("drained after {:.1} s", took.as_secs_f64()),
            None => format!("draining for {:.0} s", wish.at.elapsed().as_secs_f64()),
        };
    }
    match known.arrivals.get(name).map(|wish| wish.took()) {
        Some(Some(took)) => format!("joined after {} ms", took.as_millis()),
        Some(None) => "joining".to_owned(),
        None => String::new(),
    }
}
