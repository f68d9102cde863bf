//! Which vips may have flows on whose backends, over time. A fallback that is ended, by a command, leaves flows behind: who
//! could borrow then can have them for as long as any of its slots is not settled.

use lb_control::plan::Borrowers;

use crate::dataplane::SweepReport;

/// By the row of the vip that lends: the rows of those that borrow, or did.
#[derive(Debug, Default)]
pub(super) struct Lent(Borrowers);

impl Lent {
    /// Adds those who may borrow now.
    pub(super) fn with(&mut self, now: Borrowers) -> &Borrowers {
        for (lender, borrowers) in now {
            self.0.entry(lender).or_default().extend(borrowers);
        }
        &self.0
    }

    /// Forgets those of whom a sweep found every slot settled. Who may borrow still is added again before the next.
    pub(super) fn forget_settled(&mut self, report: &SweepReport) {
        let unsettled =
            |row: &u16| report.moving_slots.contains_key(row) || report.pinned_slots.contains_key(row);
        self.0.values_mut().for_each(|borrowers| borrowers.retain(unsettled));
        self.0.retain(|_, borrowers| !borrowers.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_borrowed_is_known_until_its_slots_are_settled() {
        let mut lent = Lent::default();
        let asked = Borrowers::from([(3, [4, 5].into())]);
        assert_eq!(lent.with(asked.clone()), &asked);
        lent.forget_settled(&SweepReport { moving_slots: [(4, 7)].into(), ..SweepReport::default() });
        // Nobody falls back on it any more: 5 had nothing of it, 4 may.
        let left = Borrowers::from([(3, [4].into())]);
        assert_eq!(lent.with(Borrowers::new()), &left);
        lent.forget_settled(&SweepReport { pinned_slots: [(4, 1)].into(), ..SweepReport::default() });
        assert_eq!(lent.with(Borrowers::new()), &left);
        lent.forget_settled(&SweepReport::default());
        assert_eq!(lent.with(Borrowers::new()), &Borrowers::new());
    }
}
