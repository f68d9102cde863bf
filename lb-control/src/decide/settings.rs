//! A vip's settings: what is wished, over what is there or the defaults, within their ranges.

use super::draft::{Draft, path};
use super::{balancing, breaker, probe};
use crate::balancing::{Algorithm, BalancingWish};
use crate::breaker::BreakerWish;
use crate::code::Code;
use crate::command::{VipSet, VipSpec};
use crate::degradation::LadderWish;
use crate::probe::{Probe, ProbeWish};
use crate::vip::{Mode, Protocol, Served, Tracking, VipSettings};
use lb_common::limits::{SLOTS_PER_VIP, SLOTS_PER_VIP_MAX, SLOTS_PER_VIP_MIN};
use lb_common::maglev::{is_prime, prime_at_least};

/// Longest window, seconds: a day.
const WINDOW_MAX_S: u32 = 86_400;

/// The settings that a command or a document names.
#[derive(Default)]
pub(super) struct Wish {
    mode: Option<Mode>,
    tracking: Option<Tracking>,
    udp_stateless: Option<bool>,
    window_s: Option<u32>,
    idle_s: Option<u32>,
    table_size: Option<u32>,
    probe: Option<ProbeWish>,
    /// The probe that there is.
    probe_now: Option<Probe>,
    breaker: Option<BreakerWish>,
    balancing: Option<BalancingWish>,
    ladder: Option<LadderWish>,
}

impl From<&VipSpec> for Wish {
    fn from(spec: &VipSpec) -> Self {
        Self {
            mode: spec.mode,
            tracking: spec.tracking,
            udp_stateless: spec.udp_stateless,
            window_s: spec.window_s,
            idle_s: spec.idle_s,
            table_size: spec.table_size,
            probe: spec.probe.clone(),
            probe_now: None,
            breaker: spec.breaker,
            balancing: spec.balancing,
            ladder: spec.ladder.clone(),
        }
    }
}

impl From<&VipSet> for Wish {
    fn from(set: &VipSet) -> Self {
        Self {
            mode: set.mode,
            tracking: set.tracking,
            udp_stateless: set.udp_stateless,
            window_s: set.window_s,
            idle_s: set.idle_s,
            table_size: set.table_size,
            probe: set.probe.clone(),
            probe_now: None,
            breaker: set.breaker,
            balancing: set.balancing,
            ladder: set.ladder.clone(),
        }
    }
}

impl Wish {
    /// The same for a vip that has settings already: what stays as it is was accepted once, by the rules of its day.
    pub(super) fn beside(self, now: &VipSettings) -> Self {
        Self { probe_now: Some(now.probe.clone()), ..self }
    }

    /// Whether it names nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.mode.is_none()
            && self.tracking.is_none()
            && self.udp_stateless.is_none()
            && self.window_s.is_none()
            && self.idle_s.is_none()
            && self.table_size.is_none()
            && self.probe.as_ref().is_none_or(|probe| *probe == ProbeWish::default())
            && self.breaker.is_none_or(|breaker| breaker == BreakerWish::default())
            && self.balancing.is_none_or(|balancing| balancing == BalancingWish::default())
            && self.ladder.as_ref().is_none_or(|ladder| *ladder == LadderWish::default())
    }

    /// The settings of a vip that is new, or that a document describes whole.
    pub(super) fn over_defaults(&self, draft: &mut Draft, served: &Served, prefix: &str) -> VipSettings {
        let mode = self.mode.unwrap_or(Mode::Nat);
        self.over(draft, VipSettings::defaults(served.protocol, served.port, mode), served, prefix)
    }

    /// Mode and table size of a vip that a document describes whole: they stay while it has backends.
    pub(super) fn fixed_over_defaults(&self) -> (Mode, u32) {
        (self.mode.unwrap_or(Mode::Nat), self.table_size.unwrap_or(SLOTS_PER_VIP))
    }

    /// The settings that result over `base`.
    pub(super) fn over(
        &self,
        draft: &mut Draft,
        base: VipSettings,
        served: &Served,
        prefix: &str,
    ) -> VipSettings {
        let mode = self.mode.unwrap_or(base.mode);
        let balancing = balancing::over(draft, self.balancing, &base.balancing, prefix);
        VipSettings {
            mode,
            tracking: self.tracking(draft, &base, mode, balancing.algorithm, prefix),
            udp_stateless: self.udp_stateless(draft, &base, served.protocol, prefix),
            window_s: self.window_s(draft, &base, prefix),
            idle_s: self.idle_s(draft, &base, prefix),
            table_size: self.table_size(draft, &base, prefix),
            probe: self.probe(draft, &base, mode, served, prefix),
            breaker: breaker::settings(draft, self.breaker, base.breaker, prefix),
            balancing,
            ladder: self.ladder.clone().unwrap_or_default().over(&base.ladder),
        }
    }

    fn tracking(
        &self,
        draft: &mut Draft,
        base: &VipSettings,
        mode: Mode,
        algorithm: Algorithm,
        prefix: &str,
    ) -> Tracking {
        if algorithm.picks() {
            return balancing::tracking(draft, self.tracking, algorithm, prefix);
        }
        match (mode, self.tracking) {
            (Mode::Nat, None | Some(Tracking::Always)) => Tracking::Always,
            (Mode::Nat, Some(_)) => {
                let message = "mode nat with a tracking other than `always`";
                draft.fault(Code::TrackingConflict, path(prefix, "tracking"), message);
                Tracking::Always
            }
            (_, Some(wished)) => wished,
            (_, None) if base.mode == Mode::Nat => Tracking::Auto,
            (_, None) => base.tracking,
        }
    }

    fn udp_stateless(&self, draft: &mut Draft, base: &VipSettings, protocol: Protocol, prefix: &str) -> bool {
        let wished = self.udp_stateless.unwrap_or(base.udp_stateless);
        if wished && protocol == Protocol::Tcp {
            draft.fault(Code::StatelessTcp, path(prefix, "udp_stateless"), "udp_stateless on a TCP vip");
        }
        wished
    }

    fn window_s(&self, draft: &mut Draft, base: &VipSettings, prefix: &str) -> u32 {
        let wished = self.window_s.unwrap_or(base.window_s);
        if !(1..=WINDOW_MAX_S).contains(&wished) {
            draft.fault(
                Code::WindowRange,
                path(prefix, "window_s"),
                format!("window_s is {wished}, but must be from 1 to {WINDOW_MAX_S}"),
            );
        }
        wished
    }

    fn idle_s(&self, draft: &mut Draft, base: &VipSettings, prefix: &str) -> u16 {
        let wished = self.idle_s.unwrap_or(base.idle_s.into());
        match u16::try_from(wished) {
            Ok(idle_s) if idle_s > 0 => idle_s,
            _ => {
                draft.fault(
                    Code::IdleRange,
                    path(prefix, "idle_s"),
                    format!("idle_s is {wished}, but must be from 1 to {}", u16::MAX),
                );
                base.idle_s
            }
        }
    }

    fn table_size(&self, draft: &mut Draft, base: &VipSettings, prefix: &str) -> u32 {
        let wished = self.table_size.unwrap_or(base.table_size);
        let range = SLOTS_PER_VIP_MIN..=SLOTS_PER_VIP_MAX;
        if !range.contains(&wished) || !is_prime(wished) {
            let next = prime_at_least(wished.clamp(*range.start(), *range.end()));
            let message = format!("table_size = {wished}; {next} would do");
            draft.fault(Code::BadTableSize, path(prefix, "table_size"), message);
        }
        wished
    }

    fn probe(
        &self,
        draft: &mut Draft,
        base: &VipSettings,
        mode: Mode,
        served: &Served,
        prefix: &str,
    ) -> Probe {
        let probe = match &self.probe {
            Some(wish) => wish.over(base.probe.clone()),
            None => base.probe.clone(),
        };
        if self.probe_now.as_ref() != Some(&probe) {
            probe::check(draft, &probe, served, &path(prefix, "probe"));
        }
        probe::path_of_mode(draft, &probe, mode, &path(prefix, "probe"));
        probe
    }
}
