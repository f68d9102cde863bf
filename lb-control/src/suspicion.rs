//! What a backend's traffic says against it, as a pure judgement over readings of its counters. Suspicion is no verdict:
//! it has the backend probed at once, and the probe decides. Clients' packets can be forged, so nothing else follows from
//! them.
//!
//! A client whose SYN is answered sends at least one packet more. So a backend with more SYNs than other packets answers
//! some of them with nothing, or with what does not come this way; and SYNs that come again were not answered.
//!
//! Where flows are not remembered, only those of one flow in [`SYN_SAMPLE`] are seen to come again. As many of them as of the
//! others are a sign, so a single one, though it stands for many, is none; and they must stand for a share of all SYNs, since a
//! sample is of a backend with so many that some are lost on any way.

use std::collections::VecDeque;

use lb_common::limits::SYN_SAMPLE;

/// Counters of a backend at one time. All only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// SYNs that were sent to it.
    pub syns: u64,
    /// Those of them that came again, of flows that are remembered.
    pub repeated: u64,
    /// Those of them that came again, of one in [`SYN_SAMPLE`] of the other flows.
    pub sampled_repeated: u64,
    /// Its resets for an answer to a SYN.
    pub resets: u64,
    /// ICMP errors that say that it cannot be reached.
    pub unreachable: u64,
    /// All packets that were sent to it, or came back from it.
    pub packets: u64,
}

/// Readings that are compared: with one every quarter of a second, a second of traffic.
const READINGS: usize = 5;
/// Signs that it takes within that time: one SYN may be lost, and one client may be odd.
const SIGNS: u64 = 3;
/// One SYN in so many must have come again to be a sign by the sample. Of a way that loses one in a hundred, a second in three
/// hundred looks like this at worst (1,920 SYNs, 30 sampled, 3 of them lost), and brings a probe.
const SAMPLED_SHARE: u64 = 10;

/// The latest readings of one backend.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    readings: VecDeque<Reading>,
}

impl Watch {
    /// The last reading.
    pub fn last(&self) -> Option<Reading> {
        self.readings.back().copied()
    }

    /// Takes the next reading; what the latest ones say against the backend, one sentence, if they do.
    pub fn read(&mut self, now: Reading) -> Option<String> {
        // A counter that went back is another backend's.
        if self.readings.back().is_some_and(|last| now.syns < last.syns || now.packets < last.packets) {
            self.readings.clear();
        }
        if !self.readings.is_empty() && self.readings.iter().all(|one| *one == now) {
            // Nothing came for as long as is looked at: one reading says so, and most backends of most nodes rest.
            self.readings.truncate(1);
            self.readings.shrink_to_fit();
            return None;
        }
        self.readings.push_back(now);
        if self.readings.len() > READINGS {
            self.readings.pop_front();
        }
        let first = self.readings.front()?;
        // A SYN of the last reading's time may still be answered.
        let before = self.readings.iter().rev().nth(1)?;
        let syns = before.syns - first.syns;
        let others = (now.packets - first.packets).saturating_sub(now.syns - first.syns);
        let (repeated, resets) = (now.repeated - first.repeated, now.resets - first.resets);
        let unreachable = now.unreachable - first.unreachable;
        if resets >= SIGNS {
            return Some(format!("it refused {resets} connections of clients within a second"));
        }
        if unreachable >= SIGNS {
            return Some(format!("{unreachable} ICMP errors within a second say that it cannot be reached"));
        }
        if repeated >= SIGNS {
            return Some(format!("{repeated} SYNs of clients came again within a second, unanswered"));
        }
        let sampled = now.sampled_repeated - first.sampled_repeated;
        let standing_for = sampled * u64::from(SYN_SAMPLE);
        if sampled >= SIGNS && standing_for * SAMPLED_SHARE >= now.syns - first.syns {
            return Some(format!(
                "{sampled} SYNs of clients came again within a second, unanswered, in a sample of one flow in {SYN_SAMPLE}"
            ));
        }
        (syns >= SIGNS && others < syns)
            .then(|| format!("{syns} SYNs of clients within a second were followed by {others} packets"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the last of these readings says, each the growth since the one before.
    fn says(growth: &[Reading]) -> Option<String> {
        let (mut watch, mut sum, mut said) = (Watch::default(), Reading::default(), None);
        watch.read(sum);
        for one in growth {
            sum.syns += one.syns;
            sum.repeated += one.repeated;
            sum.sampled_repeated += one.sampled_repeated;
            sum.resets += one.resets;
            sum.unreachable += one.unreachable;
            sum.packets += one.packets;
            said = watch.read(sum);
        }
        said
    }

    const NONE: Reading =
        Reading { syns: 0, repeated: 0, sampled_repeated: 0, resets: 0, unreachable: 0, packets: 0 };

    #[test]
    fn silence_is_seen_when_there_was_time_to_answer() {
        let deaf = Reading { syns: 3, packets: 3, ..NONE };
        assert_eq!(says(&[deaf]), None);
        let said = says(&[deaf, NONE]).unwrap();
        assert_eq!(said, "3 SYNs of clients within a second were followed by 0 packets");
        assert_eq!(says(&[deaf, Reading { packets: 3, ..NONE }]), None);
        assert_eq!(says(&[Reading { syns: 2, packets: 2, ..NONE }, NONE]), None);
        // After a second it is forgotten.
        assert_eq!(says(&[deaf, NONE, NONE, NONE, NONE, NONE]), None);
    }

    #[test]
    fn each_sign_is_told_by_its_name() {
        let well = Reading { syns: 10, packets: 100, ..NONE };
        assert_eq!(says(&[well, well]), None);
        assert!(says(&[well, Reading { repeated: 3, ..well }]).unwrap().contains("came again"));
        assert!(says(&[well, Reading { resets: 3, ..well }]).unwrap().contains("refused 3"));
        assert!(says(&[well, Reading { unreachable: 3, ..well }]).unwrap().contains("cannot be reached"));
        assert_eq!(says(&[well, Reading { repeated: 2, resets: 2, unreachable: 2, ..well }]), None);
    }

    #[test]
    fn a_sample_speaks_for_a_share_of_all_syns_and_never_by_one_flow() {
        let well = |syns| Reading { syns, packets: 10 * syns, ..NONE };
        let sampled = |syns, sampled_repeated| Reading { sampled_repeated, ..well(syns) };
        let said = says(&[well(10), sampled(600, 3)]).unwrap();
        assert_eq!(
            said,
            "3 SYNs of clients came again within a second, unanswered, in a sample of one flow in 64"
        );
        assert_eq!(says(&[well(10), sampled(600, 2)]), None);
        // Three times 64 are a tenth of 1,920: the SYNs of the whole second, those before the repeated ones too.
        assert!(says(&[well(10), sampled(1_910, 3)]).is_some());
        assert_eq!(says(&[well(10), sampled(1_911, 3)]), None);
        assert!(says(&[well(10), well(1_000), sampled(910, 3)]).is_some());
        assert_eq!(says(&[well(10), well(1_000), sampled(911, 3)]), None);
        // One a second says nothing, however long; nor do those of both kinds together.
        assert_eq!(says(&[sampled(20, 1), well(20), well(20), well(20), sampled(20, 1), well(20)]), None);
        assert_eq!(says(&[well(10), Reading { repeated: 2, ..sampled(100, 2) }]), None);
    }

    #[test]
    fn counters_that_begin_anew_say_nothing() {
        let mut watch = Watch::default();
        assert_eq!(watch.read(Reading { syns: 1_000, packets: 1_000, ..NONE }), None);
        assert_eq!(watch.read(Reading { syns: 5, packets: 5, ..NONE }), None);
        assert_eq!(watch.read(Reading { syns: 6, packets: 20, ..NONE }), None);
    }

    proptest! {
        /// Whoever answers every SYN is never suspected, however many there are, whenever the answer comes in time.
        #[test]
        fn who_answers_is_not_suspected(syns in proptest::collection::vec(0_u64..50, 1..30)) {
            let (mut watch, mut sum, mut answered) = (Watch::default(), NONE, 0);
            watch.read(sum);
            for count in syns {
                // Those of the time before are answered now.
                sum.packets += count + answered;
                sum.syns += count;
                answered = count;
                prop_assert_eq!(watch.read(sum), None);
            }
        }
    }
}
