//! Successes and failures of the last moments, in a ring of counts: a tenth of the window is forgotten at a time.

/// Parts of a window.
pub(super) const PARTS: usize = 10;

/// Outcomes of the last moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Length of a part, milliseconds: a window of another length begins anew.
    part_ms: u64,
    /// Number of the newest part: the time in parts.
    newest: u64,
    /// Outcomes and failures of each part, by its number modulo [`PARTS`].
    parts: [(u32, u32); PARTS],
}

impl Window {
    /// Counts an outcome.
    pub(super) fn count(&mut self, window_ms: u64, success: bool, now_ms: u64) {
        self.advance(window_ms, now_ms);
        let (all, failed) = &mut self.parts[(self.newest % PARTS as u64) as usize];
        *all = all.saturating_add(1);
        *failed = failed.saturating_add(u32::from(!success));
    }

    /// Outcomes and failures within the window that ends now.
    pub(super) fn sums(&mut self, window_ms: u64, now_ms: u64) -> (u64, u64) {
        self.advance(window_ms, now_ms);
        self.parts
            .iter()
            .fold((0, 0), |(all, failed), part| (all + u64::from(part.0), failed + u64::from(part.1)))
    }

    /// Forgets what is over. A clock that went back counts as standing still.
    fn advance(&mut self, window_ms: u64, now_ms: u64) {
        let part_ms = (window_ms / PARTS as u64).max(1);
        if part_ms != self.part_ms {
            *self = Self { part_ms, newest: now_ms / part_ms, ..Self::default() };
        }
        let now = now_ms / part_ms;
        for part in self.newest + 1..=now.min(self.newest + PARTS as u64) {
            self.parts[(part % PARTS as u64) as usize] = (0, 0);
        }
        self.newest = self.newest.max(now);
    }
}
