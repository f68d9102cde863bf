//! Watches the balancer over its API and writes on the board what it sees of deaths, drains and arrivals.
//!
//! What counts is what the balancer *says*: a backend is out when it is down and has no slots, in every vip;
//! it is drained when the balancer says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_control::backend::Intent;
use lb_control::health::Health;
use lb_userspace::api::client::Client;
use lb_userspace::api::views::{BackendView, StatusView};

use super::account::Death;
use super::board::{Board, Known};
use super::cast::SERVED;
use crate::balancer::view;

/// Between two looks while something is awaited.
const CLOSE_LOOK: Duration = Duration::from_millis(10);
/// Between two looks while nothing is.
const LOOK: Duration = Duration::from_millis(250);

/// After how long a dead backend that is not out yet is spoken of.
const LATE: Duration = Duration::from_secs(3);

/// The watching thread; dropping it ends it.
#[derive(Debug)]
pub struct Observer {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Starts watching.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(client: Client, board: Board) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let watch = move || {
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let awaited = look(&client, &board);
                let pause = if awaited { CLOSE_LOOK } else { LOOK };
                std::thread::sleep(pause.saturating_sub(begun.elapsed()).max(CLOSE_LOOK));
            }
        };
        let thread = std::thread::Builder::new().name("observer".to_owned()).spawn(watch);
        Ok(Self { over, thread: Some(thread.context("start the observer")?) })
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It holds nothing but a view; a panic in it has been told already.
            let _ = thread.join();
        }
    }
}

/// One look; whether the next should come soon.
fn look(client: &Client, board: &Board) -> bool {
    let seen = view::<StatusView>(client, "/v1/views/status");
    let at = Instant::now();
    let mut known = board.lock();
    let Ok(status) = seen else {
        known.is_daemon_up = false;
        return true;
    };
    known.is_daemon_up = true;
    let said = [see_deaths(&mut known, &status, at), see_wishes(&mut known, &status, at)].concat();
    known.status = Some(status);
    let awaited = known.kills.iter().any(|kill| kill.back.is_none() && kill.moved.len() < SERVED.len());
    drop(known);
    said.into_iter().for_each(|text| board.say(text));
    awaited
}

/// All rows of one backend, one for each vip that has it.
pub(super) fn rows<'s>(status: &'s StatusView, backend: &str) -> impl Iterator<Item = &'s BackendView> {
    status.vips.iter().flat_map(|vip| &vip.backends).filter(move |row| row.name == backend)
}

fn see_deaths(known: &mut Known, status: &StatusView, at: Instant) -> Vec<String> {
    let mut said = Vec::new();
    for kill in known.kills.iter_mut().filter(|kill| kill.back.is_none() && kill.moved.len() < SERVED.len()) {
        for row in rows(status, &kill.backend) {
            let is_out = row.health == Health::Down && row.share == 0.0 && row.former_slots == 0;
            if is_out {
                kill.moved.entry(row.vip.clone()).or_insert(at);
            }
        }
        if let Some(took) = kill.detected_after(SERVED.len()) {
            let (backend, ms) = (&kill.backend, took.as_millis());
            let what = if kill.death == Death::Hung { "it hung" } else { "its death" };
            said.push(format!("{backend} is down and out of every vip, {ms} ms after {what}"));
        } else if !kill.is_late && at.duration_since(kill.at) > LATE {
            kill.is_late = true;
            said.extend(
                rows(status, &kill.backend).filter(|row| !kill.moved.contains_key(&row.vip)).map(late),
            );
        }
    }
    said
}

/// What still keeps a dead backend in a vip.
fn late(row: &BackendView) -> String {
    let (vip, name, health) = (&row.vip, &row.name, row.health);
    let (share, former) = (row.share * 100.0, row.former_slots);
    format!("{vip}/{name} is {health} and not out: {share:.1} % of the slots, {former} former")
}

fn see_wishes(known: &mut Known, status: &StatusView, at: Instant) -> Vec<String> {
    let mut said = Vec::new();
    let drained = |row: &BackendView| row.intent != Intent::Enabled && row.drained;
    for (backend, wish) in known.drains.iter_mut().filter(|(_, wish)| wish.seen.is_none()) {
        if rows(status, backend).count() == SERVED.len() && rows(status, backend).all(drained) {
            wish.seen = Some(at);
            let seconds = at.duration_since(wish.at).as_secs_f64();
            said.push(format!("{backend} is drained after {seconds:.1} s: nothing is left on it"));
        }
    }
    for (backend, wish) in known.arrivals.iter_mut().filter(|(_, wish)| wish.seen.is_none()) {
        let serves = |row: &BackendView| row.health == Health::Up && row.way.known && row.share > 0.0;
        if rows(status, backend).count() == SERVED.len() && rows(status, backend).all(serves) {
            wish.seen = Some(at);
            let share = rows(status, backend).map(|row| row.share).sum::<f64>() / SERVED.len() as f64;
            let ms = at.duration_since(wish.at).as_millis();
            said.push(format!("{backend} is up and has {:.1} % of the slots, after {ms} ms", share * 100.0));
        }
    }
    said
}
