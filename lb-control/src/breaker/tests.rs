//! The breaker against a straightforward reference that keeps everything it was told, and each of its rules of time.

use super::*;
use proptest::prelude::*;

const SETTINGS: BreakerSettings = BreakerSettings {
    consecutive: 3,
    ratio_percent: 50,
    volume: 6,
    window_s: 10,
    backoff_ms: 1_000,
    backoff_max_ms: 8_000,
    calm_s: 20,
    trial_cps: 10,
    trial_successes: 2,
    slow_start_s: 10,
    floor_percent: 10,
    ejection_max_percent: 50,
};
const SEED: u64 = 7;

/// What a breaker is, told by its whole history: no counter, no ring, no reset of either.
#[derive(Default)]
struct Reference {
    /// Every turn so far.
    turns: Vec<Turn>,
    /// Every signal since the last turn.
    signals: Vec<(u64, bool)>,
    tripped: bool,
    /// Where the count of turns that make the backoff longer begins.
    forgotten: usize,
}

impl Reference {
    fn state(&self) -> BreakerState {
        self.turns.last().map_or(BreakerState::Closed, |turn| turn.to)
    }
    fn since_ms(&self) -> u64 {
        self.turns.last().map_or(0, |turn| turn.at_ms)
    }
    fn failures_in_a_row(&self) -> usize {
        self.signals.iter().rev().take_while(|(_, success)| !success).count()
    }
    fn ratio(&self, now_ms: u64) -> bool {
        let part = |at_ms: u64| at_ms / (SETTINGS.window_ms() / window::PARTS as u64);
        let recent = self.signals.iter().filter(|(at, _)| part(*at) + window::PARTS as u64 > part(now_ms));
        let (all, failed) =
            recent.fold((0, 0), |(all, failed), (_, success)| (all + 1, failed + usize::from(!success)));
        all >= usize::from(SETTINGS.volume) && failed * 100 >= all * usize::from(SETTINGS.ratio_percent)
    }
    fn observe(&mut self, success: bool, now_ms: u64) -> Option<(BreakerState, TurnCause)> {
        if self.tripped {
            return None;
        }
        self.signals.push((now_ms, success));
        let over = || now_ms >= self.since_ms() + self.turns.last().map_or(0, |turn| turn.backoff_ms);
        match self.state() {
            BreakerState::Closed if success => None,
            BreakerState::Closed if self.failures_in_a_row() >= SETTINGS.consecutive.into() => {
                Some((BreakerState::Open, TurnCause::InARow))
            }
            BreakerState::Closed => self.ratio(now_ms).then_some((BreakerState::Open, TurnCause::Ratio)),
            BreakerState::Open => {
                (success && over()).then_some((BreakerState::HalfOpen, TurnCause::BackoffOver))
            }
            BreakerState::HalfOpen if !success => Some((BreakerState::Open, TurnCause::TrialFailed)),
            BreakerState::HalfOpen => (self.signals.len() >= SETTINGS.trial_successes.into())
                .then_some((BreakerState::Closed, TurnCause::TrialPassed)),
        }
    }
    /// Openings that count, as of an opening now, less one for each calm time that it was closed.
    fn level(&self, now_ms: u64) -> usize {
        self.openings() - self.forgotten_by(now_ms)
    }
    fn openings(&self) -> usize {
        let opening = |turn: &&Turn| turn.to == BreakerState::Open && turn.cause != TurnCause::Operator;
        self.turns.iter().filter(opening).count()
    }
    fn forgotten_by(&self, now_ms: u64) -> usize {
        if self.state() != BreakerState::Closed {
            return self.forgotten;
        }
        let quiet = (now_ms - self.since_ms()) / (u64::from(SETTINGS.calm_s) * 1_000);
        self.openings().min(self.forgotten + quiet as usize)
    }
    fn take(&mut self, turn: Turn) {
        if turn.to == BreakerState::Open && turn.cause != TurnCause::Operator {
            self.forgotten = self.forgotten_by(turn.at_ms);
        }
        self.signals.clear();
        self.turns.push(turn);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Signal { success: bool },
    Trip,
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let signal = |success| Just(Step::Signal { success });
    let step = prop_oneof![
        12 => signal(true),
        12 => signal(false),
        1 => Just(Step::Trip),
        1 => Just(Step::Reset),
    ];
    // Mostly a little later, now and then by the length of a backoff, of the window or of the calm time.
    let later = prop_oneof![10 => 0_u64..400, 3 => 400_u64..4_000, 1 => 4_000_u64..90_000];
    proptest::collection::vec((later, step), 0..200)
}

proptest! {
    #[test]
    fn it_is_the_reference_s_at_every_step(steps in steps()) {
        let (mut breaker, mut reference, mut now_ms) = (Breaker::default(), Reference::default(), 0);
        for (later, step) in steps {
            now_ms += later;
            let before = reference.state();
            let (turn, expected) = match step {
                Step::Signal { success } => {
                    let level = reference.level(now_ms);
                    let expected = reference.observe(success, now_ms);
                    let turn = breaker.observe(&SETTINGS, success, now_ms, SEED);
                    if let Some(Turn { to: BreakerState::Open, backoff_ms, .. }) = turn {
                        let whole = (1_000_u64 << level.min(20)).min(8_000);
                        prop_assert!((whole * 4 / 5..=whole).contains(&backoff_ms), "{backoff_ms} of {whole}");
                    }
                    (turn, expected)
                }
                Step::Trip => {
                    let expected = (!reference.tripped).then_some((BreakerState::Open, TurnCause::Operator));
                    reference.tripped = true;
                    (breaker.trip(now_ms), expected)
                }
                Step::Reset => {
                    reference.tripped = false;
                    reference.signals.clear();
                    reference.forgotten = reference.openings();
                    let expected = (before != BreakerState::Closed)
                        .then_some((BreakerState::Closed, TurnCause::Operator));
                    (breaker.reset(&SETTINGS, now_ms), expected)
                }
            };
            prop_assert_eq!(turn.map(|turn| (turn.to, turn.cause)), expected);
            if let Some(turn) = turn {
                prop_assert_eq!((turn.from, turn.at_ms), (before, now_ms));
                reference.take(turn);
            }
            prop_assert_eq!((breaker.state(), breaker.since_ms()), (reference.state(), reference.since_ms()));
            let share = breaker.share_permille(&SETTINGS, now_ms);
            match breaker.state() {
                BreakerState::Open => prop_assert_eq!(share, 0),
                BreakerState::HalfOpen => prop_assert_eq!(share, 100),
                BreakerState::Closed => prop_assert!((100..=1_000).contains(&share)),
            }
        }
    }
}

/// A breaker that opened at a time by failures in a row.
fn opened(at_ms: u64) -> (Breaker, Turn) {
    let mut breaker = Breaker::default();
    assert_eq!(breaker.observe(&SETTINGS, false, at_ms, SEED), None);
    assert_eq!(breaker.observe(&SETTINGS, false, at_ms, SEED), None);
    let turn = breaker.observe(&SETTINGS, false, at_ms, SEED).expect("three in a row");
    assert_eq!((turn.to, turn.cause), (BreakerState::Open, TurnCause::InARow));
    (breaker, turn)
}

#[test]
fn an_open_one_is_tried_by_the_first_success_after_its_backoff_and_not_a_moment_sooner() {
    let (mut breaker, turn) = opened(5_000);
    let end = 5_000 + turn.backoff_ms;
    assert_eq!(breaker.observe(&SETTINGS, true, end - 1, SEED), None);
    assert_eq!(breaker.observe(&SETTINGS, false, end + 50_000, SEED), None, "a dead one is not tried");
    let tried = breaker.observe(&SETTINGS, true, end + 60_000, SEED).unwrap();
    assert_eq!((tried.to, tried.cause), (BreakerState::HalfOpen, TurnCause::BackoffOver));
}

#[test]
fn without_probes_time_alone_begins_the_trial_and_ends_it() {
    let (mut breaker, turn) = opened(0);
    assert_eq!(breaker.tick(&SETTINGS, true, 100_000), None, "probes would say so");
    assert_eq!(breaker.tick(&SETTINGS, false, turn.backoff_ms - 1), None);
    assert_eq!(breaker.tick(&SETTINGS, false, turn.backoff_ms).unwrap().to, BreakerState::HalfOpen);
    assert_eq!(breaker.tick(&SETTINGS, false, turn.backoff_ms + 999), None);
    assert_eq!(breaker.tick(&SETTINGS, false, turn.backoff_ms + 1_000).unwrap().to, BreakerState::Closed);
}

#[test]
fn outcomes_leave_the_window_by_tenths() {
    let mut breaker = Breaker::default();
    let feed = |breaker: &mut Breaker, now_ms, success| breaker.observe(&SETTINGS, success, now_ms, SEED);
    for at_ms in [0, 900] {
        assert_eq!(feed(&mut breaker, at_ms, false), None);
        assert_eq!(feed(&mut breaker, at_ms, true), None);
    }
    // Five outcomes of which three failed are too few; the sixth makes them enough.
    assert_eq!(feed(&mut breaker, 9_999, false), None);
    let mut later = breaker.clone();
    assert_eq!(feed(&mut breaker, 9_999, true), None, "a success opens nothing");
    assert_eq!(feed(&mut breaker, 9_999, false).unwrap().cause, TurnCause::Ratio);
    assert_eq!(feed(&mut later, 10_000, true), None);
    assert_eq!(feed(&mut later, 10_000, false), None, "the first second is forgotten");
}

#[test]
fn a_failing_trial_doubles_the_backoff_up_to_its_cap() {
    let (mut breaker, mut turn) = opened(0);
    let mut now_ms = 0;
    for whole in [1_000, 2_000, 4_000, 8_000, 8_000] {
        assert!((whole * 4 / 5..=whole).contains(&turn.backoff_ms), "{} of {whole}", turn.backoff_ms);
        now_ms += turn.backoff_ms;
        assert_eq!(breaker.observe(&SETTINGS, true, now_ms, SEED).unwrap().to, BreakerState::HalfOpen);
        turn = breaker.observe(&SETTINGS, false, now_ms, SEED).unwrap();
        assert_eq!((turn.to, turn.cause), (BreakerState::Open, TurnCause::TrialFailed));
    }
}

/// A breaker that closed at some time after its first opening.
fn closed_again() -> (Breaker, u64) {
    let (mut breaker, turn) = opened(0);
    for _ in 0..3 {
        breaker.observe(&SETTINGS, true, turn.backoff_ms, SEED);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    (breaker, turn.backoff_ms)
}

#[test]
fn what_flaps_is_out_for_longer_and_what_held_for_the_calm_time_is_forgiven() {
    let (breaker, now_ms) = closed_again();
    for (after_ms, whole) in [(19_999, 2_000), (20_000, 1_000)] {
        let mut breaker = breaker.clone();
        let fail = |breaker: &mut Breaker| breaker.observe(&SETTINGS, false, now_ms + after_ms, SEED);
        let turn = (0..3).filter_map(|_| fail(&mut breaker)).next().unwrap();
        assert!((whole * 4 / 5..=whole).contains(&turn.backoff_ms), "{} of {whole}", turn.backoff_ms);
    }
}

#[test]
fn a_slow_start_goes_from_its_floor_to_the_whole_in_a_line() {
    let (breaker, now_ms) = closed_again();
    let share = |after_ms| breaker.share_permille(&SETTINGS, now_ms + after_ms);
    assert_eq!([0, 5_000, 9_999, 10_000, 90_000].map(share), [100, 550, 999, 1_000, 1_000]);
    let at_once = BreakerSettings { slow_start_s: 0, ..SETTINGS };
    assert_eq!(breaker.share_permille(&at_once, now_ms), 1_000);
    assert_eq!(Breaker::default().share_permille(&SETTINGS, 0), 1_000, "what never opened has no slow start");
}

#[test]
fn what_a_person_tripped_stays_open_until_a_person_resets_it() {
    let mut breaker = Breaker::default();
    assert_eq!(breaker.trip(10).unwrap().cause, TurnCause::Operator);
    assert_eq!(breaker.trip(11), None);
    assert_eq!(breaker.observe(&SETTINGS, true, 1_000_000, SEED), None);
    assert_eq!(breaker.tick(&SETTINGS, false, 1_000_000), None);
    assert_eq!(breaker.tick(&BreakerSettings::off(), false, 1_000_000), None);
    let reset = breaker.reset(&SETTINGS, 2_000_000).unwrap();
    assert_eq!((reset.from, reset.to), (BreakerState::Open, BreakerState::Closed));
    assert_eq!(breaker.share_permille(&SETTINGS, 2_000_000), 100, "it comes back gently");
}

#[test]
fn one_that_is_turned_off_closes_at_once_and_never_opens() {
    let (mut breaker, _) = opened(0);
    let off = BreakerSettings::off();
    assert_eq!(breaker.tick(&off, true, 1).unwrap().to, BreakerState::Closed);
    assert_eq!(breaker.share_permille(&off, 1), 1_000);
    assert!((0..100).all(|at_ms| breaker.observe(&off, false, at_ms, SEED).is_none()));
}
