//! The live view: draws four times a second and does what the keys say.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::board::Board;
use super::conductor::{Act, Conductor};
use super::load::Traffic;
use super::picture::{BackendPicture, Picture};
use super::rates::Rates;
use super::screen::{Footer, draw};
use crate::interrupt::Interrupt;

/// Between two looks at the keys.
const KEYS: Duration = Duration::from_millis(50);
/// Between two tallies.
const BEAT: Duration = Duration::from_millis(250);
/// How long there is no daemon when it is killed.
const WITHOUT_DAEMON: Duration = Duration::from_secs(4);

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Choose(usize),
    Do(Act),
    End,
    Interrupt,
}

/// Everything that the live view shows and asks.
pub(super) struct Live<'a> {
    pub(super) mode: &'static str,
    pub(super) board: &'a Board,
    pub(super) conductor: &'a Conductor,
    pub(super) traffic: &'a Traffic,
    pub(super) interrupt: &'a Interrupt,
    pub(super) footer: Footer,
    /// When to end by itself.
    pub(super) length: Option<Duration>,
}

impl Live<'_> {
    /// Shows it until a key, a signal or the clock ends it. The terminal is as before afterwards, also after a
    /// panic.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub(super) fn show(&self) -> Result<()> {
        let mut terminal = ratatui::try_init().context("take over the terminal")?;
        let shown = self.run(&mut terminal);
        ratatui::restore();
        shown
    }

    fn run(&self, terminal: &mut DefaultTerminal) -> Result<()> {
        let (mut rates, mut chosen, mut next_beat) = (Rates::default(), 0, Instant::now());
        let start = self.board.lock().start;
        while !self.interrupt.is_requested() && self.length.is_none_or(|length| start.elapsed() < length) {
            super::say_farewells(self.board, self.traffic);
            let known = self.board.read();
            if Instant::now() >= next_beat {
                next_beat = Instant::now() + BEAT;
                rates.add(Instant::now(), self.traffic.snapshot().tally(&known.kills));
            }
            let picture = Picture::new(self.mode, &known, &rates);
            chosen = chosen.min(picture.backends.len().saturating_sub(1));
            terminal.draw(|frame| draw(frame, &picture, chosen, &self.footer))?;
            if !event::poll(KEYS)? {
                continue;
            }
            let Event::Key(key) = event::read()? else { continue };
            match wanted(key, &picture.backends, chosen) {
                Wanted::Nothing => {}
                Wanted::Choose(index) => chosen = index,
                Wanted::Do(act) => self.conductor.ask(act),
                Wanted::End => return Ok(()),
                Wanted::Interrupt => self.interrupt.request(),
            }
        }
        Ok(())
    }
}

/// What a key means with these backends, the `chosen`-th of them chosen.
fn wanted(key: KeyEvent, backends: &[BackendPicture], chosen: usize) -> Wanted {
    if key.kind != KeyEventKind::Press {
        return Wanted::Nothing;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Wanted::Interrupt } else { Wanted::Nothing };
    }
    let backend = backends.get(chosen);
    let act = |act: fn(&BackendPicture) -> Act| backend.map_or(Wanted::Nothing, |one| Wanted::Do(act(one)));
    match key.code {
        KeyCode::Up => Wanted::Choose(chosen.saturating_sub(1)),
        KeyCode::Down => Wanted::Choose(chosen + 1),
        KeyCode::Char(digit @ '0'..='9') => Wanted::Choose(digit as usize - '0' as usize),
        KeyCode::Char('k') => act(|one| {
            let name = one.name.clone();
            if one.is_alive { Act::Kill(name) } else { Act::Revive(name) }
        }),
        KeyCode::Char('h') => act(|one| Act::Hang(one.name.clone())),
        KeyCode::Char('d') => act(|one| {
            let name = one.name.clone();
            if one.is_enabled() { Act::Drain(name) } else { Act::Enable(name) }
        }),
        KeyCode::Char('a') => Wanted::Do(Act::Add),
        KeyCode::Char('r') => Wanted::Do(Act::RestartDaemon(WITHOUT_DAEMON)),
        KeyCode::Char('f') => Wanted::Do(Act::Flood),
        KeyCode::Char('t') => act(|one| Act::TravelBack(one.name.clone())),
        KeyCode::Char('q') | KeyCode::Esc => Wanted::End,
        _ => Wanted::Nothing,
    }
}
