//! A slot: one entry of a vip's table, with what it was before if that changed a short while ago.
//!
//! | bits | field |
//! |---|---|
//! | 0-15 | `current`: backend row for new flows; 0 = none |
//! | 16-31 | `previous`: backend row of flows that began before the change; 0 = none |
//! | 32-61 | `deadline_s`: end of the window, seconds of the monotonic clock since boot |
//! | 62-63 | phase: 0 stable, 1 moving, 2 pinned |
//!
//! Who writes: the daemon, by [`Slot::transition`] for a change and by compare-and-swap for pinned -> stable.

use super::word::field;
use crate::limits::WINDOW_SLACK_S;

/// What the data plane does with a slot's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing moved: every flow of the slot is `current`'s. No lookup, no insert.
    Stable = 0,
    /// It changed within the window: look up; on a miss new flows go to `current` and older ones to `previous`,
    /// remembered.
    Moving = 1,
    /// The window is over but remembered flows live on: look up; a miss is `current`'s.
    Pinned = 2,
}

/// A slot's value. 0 is a stable slot without a backend.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Slot(pub u64);

impl Slot {
    /// A stable slot.
    pub const fn stable(current: u16) -> Self {
        Self(current as u64)
    }
    /// A moving slot; `deadline_s` is cut to 30 bits (34 years of uptime).
    pub const fn moving(current: u16, previous: u16, deadline_s: u32) -> Self {
        Self(current as u64 | (previous as u64) << 16 | ((deadline_s & 0x3fff_ffff) as u64) << 32 | 1 << 62)
    }
    /// A pinned slot.
    pub const fn pinned(current: u16) -> Self {
        Self(current as u64 | 2 << 62)
    }
    /// Backend row for new flows; 0 = none.
    #[inline(always)]
    pub const fn current(self) -> u16 {
        self.0 as u16
    }
    /// Backend row of older flows; 0 = none.
    #[inline(always)]
    pub const fn previous(self) -> u16 {
        (self.0 >> 16) as u16
    }
    /// End of the window, seconds since boot.
    #[inline(always)]
    pub const fn deadline_s(self) -> u32 {
        field(self.0, 32, 30) as u32
    }
    /// Whether nothing moved: the common case, one comparison.
    #[inline(always)]
    pub const fn is_stable(self) -> bool {
        self.0 >> 62 == 0
    }
    /// The phase at a time. The data plane evaluates the deadline itself, so that a dead daemon changes nothing.
    #[inline(always)]
    pub const fn phase(self, now_s: u32) -> Phase {
        match self.0 >> 62 {
            0 => Phase::Stable,
            1 if now_s < self.deadline_s() => Phase::Moving,
            _ => Phase::Pinned,
        }
    }
    /// Whether a value that was planned a while ago may still be written: a moving one only while its window is open.
    /// When that is over, flows have begun that nobody remembers, and the slot wants another plan.
    pub const fn is_timely(self, now_s: u32) -> bool {
        self.0 >> 62 != 1 || now_s < self.deadline_s()
    }
    /// What the slot becomes when its new flows shall go to `current` (rule 1 of the tracking rules).
    ///
    /// `alive(row)` says whether a backend still serves the flows that it has. A change while moving replaces
    /// only `current`: whoever began in between is remembered. From stable or pinned the old `current` becomes
    /// `previous`. A dead `previous` has no flows worth a window: the slot is pinned. Nor is it stable where it was
    /// before: flows of a time when it moved may be remembered at the dead backend, and would meet it once it is back.
    ///
    /// A window has [`WINDOW_SLACK_S`] more than `window_s`, in which a change opens the next: it could not be written
    /// before the end that it was planned for, and flows that begin at or after a window's end are not remembered.
    pub fn transition(self, current: u16, now_s: u32, window_s: u32, alive: impl Fn(u16) -> bool) -> Self {
        let lives = |row: u16| row != 0 && alive(row);
        match self.phase(now_s.saturating_add(WINDOW_SLACK_S)) {
            Phase::Moving if lives(self.previous()) => {
                Self::moving(current, self.previous(), self.deadline_s())
            }
            // While `previous` was dead new flows began at the old `current` unremembered: it is the next `previous`.
            Phase::Moving => Self::pinned(self.current()).transition(current, now_s, window_s, alive),
            _ if current == self.current() => self,
            Phase::Stable | Phase::Pinned if lives(self.current()) => {
                let deadline_s = now_s.saturating_add(window_s).saturating_add(WINDOW_SLACK_S);
                Self::moving(current, self.current(), deadline_s)
            }
            Phase::Stable if self.current() == 0 => Self::stable(current),
            Phase::Stable | Phase::Pinned => Self::pinned(current),
        }
    }
}

impl core::fmt::Debug for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 >> 62 {
            0 => write!(f, "stable({})", self.current()),
            1 => write!(f, "moving({} <- {} until {})", self.current(), self.previous(), self.deadline_s()),
            _ => write!(f, "pinned({})", self.current()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIVE: fn(u16) -> bool = |_| true;

    #[test]
    fn fields_do_not_overlap() {
        let slot = Slot::moving(0xfffe, 0x1234, 0x3fff_ffff);
        assert_eq!((slot.current(), slot.previous(), slot.deadline_s()), (0xfffe, 0x1234, 0x3fff_ffff));
        assert_eq!(slot.phase(0x3fff_fffe), Phase::Moving);
        assert_eq!(slot.phase(0x3fff_ffff), Phase::Pinned);
    }

    #[test]
    fn a_change_while_moving_keeps_previous_and_deadline() {
        let first = Slot::stable(1).transition(2, 100, 10, ALIVE);
        assert_eq!(first, Slot::moving(2, 1, 111));
        assert_eq!(first.transition(3, 105, 10, ALIVE), Slot::moving(3, 1, 111));
        assert_eq!(first.transition(1, 105, 10, ALIVE), Slot::moving(1, 1, 111));
    }

    #[test]
    fn after_the_window_the_old_current_is_previous() {
        let slot = Slot::moving(2, 1, 110);
        assert_eq!(slot.transition(3, 110, 10, ALIVE), Slot::moving(3, 2, 121));
        assert_eq!(slot.transition(2, 110, 10, ALIVE), slot);
        assert_eq!(Slot::pinned(2).transition(2, 110, 10, ALIVE), Slot::pinned(2));
    }

    #[test]
    fn a_change_in_the_last_second_opens_the_next_window() {
        let slot = Slot::moving(2, 1, 111);
        assert_eq!(slot.transition(3, 109, 10, ALIVE), Slot::moving(3, 1, 111));
        assert_eq!(slot.transition(3, 110, 10, ALIVE), Slot::moving(3, 2, 121));
    }

    #[test]
    fn a_window_that_is_over_is_not_written_any_more() {
        assert!(Slot::moving(2, 1, 111).is_timely(110) && !Slot::moving(2, 1, 111).is_timely(111));
        assert!(Slot::pinned(2).is_timely(111) && Slot::stable(2).is_timely(111));
    }

    #[test]
    fn a_dead_previous_leaves_no_window() {
        assert_eq!(Slot::stable(1).transition(2, 0, 10, |row| row != 1), Slot::pinned(2));
        assert_eq!(Slot::stable(1).transition(0, 0, 10, |row| row != 1), Slot::pinned(0));
        assert_eq!(Slot::pinned(1).transition(2, 0, 10, |row| row != 1), Slot::pinned(2));
        assert_eq!(Slot::moving(2, 1, 10).transition(2, 0, 10, |row| row != 1), Slot::pinned(2));
        assert_eq!(Slot::moving(2, 1, 10).transition(3, 5, 10, |row| row != 1), Slot::moving(3, 2, 16));
        assert_eq!(Slot::moving(2, 1, 10).transition(3, 5, 10, |row| row == 3), Slot::pinned(3));
        assert_eq!(Slot::stable(0).transition(2, 0, 10, ALIVE), Slot::stable(2));
    }
}
