//! Arbitrary commands for property tests: out of few names and addresses, so that they meet, and often wrong.

use crate::backend::Intent;
use crate::balancing::{Algorithm, BalancingWish};
use crate::command::{
    Apply, BackendAdd, BackendRemove, BackendSet, BackendSpec, BreakerReset, BreakerTrip, BypassSet, Command,
    Document, TenantRemove, TenantSet, TenantSpec, VipRemove, VipSet, VipSpec,
};
use crate::degradation::LadderWish;
use crate::probe::{ProbeKind, ProbeWish};
use crate::tenant::Limit;
use crate::vip::{Mode, Protocol, Tracking};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Now and then a value that is never accepted.
fn mostly<T: std::fmt::Debug>(
    good: impl Strategy<Value = T> + 'static,
    bad: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![60 => good, 1 => bad]
}

fn one_of(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    mostly(select(names).prop_map(str::to_string), Just("Bad name".to_string()))
}

fn vip_name() -> impl Strategy<Value = String> {
    one_of(&["web", "dns", "mail", "all"])
}

fn backend_name() -> impl Strategy<Value = String> {
    one_of(&["b1", "b2", "b3", "b4", "b5", "b6"])
}

/// A limit with a value that it may have, or nearly; small enough to be met.
fn limit() -> impl Strategy<Value = (Limit, Option<u64>)> {
    let limit = proptest::sample::select(Limit::ALL.to_vec());
    (limit, proptest::option::weighted(0.8, 0_u64..200))
}

fn tenant_spec() -> impl Strategy<Value = TenantSpec> {
    (tenant(), proptest::collection::vec(limit(), 0..2)).prop_map(|(name, limits)| {
        let given = limits.into_iter().filter_map(|(limit, value)| Some((limit, value?)));
        TenantSpec { name, limits: given.collect::<BTreeMap<_, _>>().into() }
    })
}

fn tenant_set() -> impl Strategy<Value = TenantSet> {
    (tenant(), proptest::collection::vec(limit(), 1..3))
        .prop_map(|(name, limits)| TenantSet { name, limits: limits.into_iter().collect() })
}

fn tenant() -> impl Strategy<Value = String> {
    select(&["default", "default", "default", "default", "default", "red"][..]).prop_map(str::to_string)
}

fn address(texts: &'static [&'static str]) -> impl Strategy<Value = IpAddr> {
    select(texts).prop_map(|text| text.parse().unwrap())
}

fn vip_address() -> impl Strategy<Value = IpAddr> {
    const GOOD: &[&str] = &["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "::ffff:203.0.113.1"];
    prop_oneof![
        20 => address(GOOD),
        2 => address(&["2001:db8::1"]),
        1 => address(&["127.0.0.1", "10.0.0.1"]),
    ]
}

fn backend_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        30 => (1u8..60).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        2 => (1u16..4).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])),
        1 => vip_address(),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    select(&[80, 80, 80, 443, 0][..])
}

fn mode() -> impl Strategy<Value = Mode> {
    select(&[Mode::L2, Mode::Ipip, Mode::Nat][..])
}

fn tracking() -> impl Strategy<Value = Tracking> {
    select(&[Tracking::Auto, Tracking::Always, Tracking::Never][..])
}

fn weight() -> impl Strategy<Value = u32> {
    mostly(select(&[0, 1, 50, 100, 100, 65_535][..]), Just(65_536))
}

fn intent() -> impl Strategy<Value = Intent> {
    select(&[Intent::Enabled, Intent::Enabled, Intent::Draining, Intent::Disabled][..])
}

fn probe() -> impl Strategy<Value = ProbeWish> {
    let kind = select(&[ProbeKind::None, ProbeKind::Tcp, ProbeKind::Http, ProbeKind::Icmp][..]);
    let range = (mostly(200u32..5_000, Just(0)), mostly(1u8..5, Just(0)), weighted(0.3, 0u8..3));
    // An empty path is the default again.
    let path = weighted(0.7, select(&["/", "/health", ""][..]).prop_map(str::to_string));
    (weighted(0.5, kind), range, weighted(0.3, port()), path).prop_map(
        |(kind, (interval_ms, fall, retries), port, path)| ProbeWish {
            kind,
            interval_ms: Some(interval_ms),
            fall: Some(fall),
            retries,
            port,
            path: path.filter(|_| kind == Some(ProbeKind::Http)),
            ..ProbeWish::default()
        },
    )
}

fn balancing() -> impl Strategy<Value = BalancingWish> {
    let times = (weighted(0.3, mostly(1_u32..300, Just(0))), weighted(0.3, mostly(1_u32..250, Just(256))));
    (weighted(0.8, select(&Algorithm::ALL[..])), times).prop_map(|(algorithm, (affinity_s, syn_s))| {
        BalancingWish { algorithm, affinity_s, syn_s, closing_s: syn_s }
    })
}

fn ladder() -> impl Strategy<Value = LadderWish> {
    let flag = || weighted(0.7, any::<bool>());
    let fallback = weighted(0.3, prop_oneof![1 => Just(String::new()), 2 => vip_name()]);
    (flag(), flag(), fallback).prop_map(|(fail_fast, last_known_good, fallback)| LadderWish {
        fail_fast,
        last_known_good,
        fallback,
    })
}

fn table_size() -> impl Strategy<Value = u32> {
    mostly(select(&[251, 251, 257, 1_009][..]), Just(65_536))
}

fn backend_spec() -> impl Strategy<Value = BackendSpec> {
    let who = (backend_name(), backend_address(), weighted(0.05, port()));
    (who, weight(), intent(), proptest::bool::weighted(0.2)).prop_map(
        |((name, address, port), weight, intent, backup)| BackendSpec {
            name,
            address,
            port,
            weight,
            intent,
            backup,
        },
    )
}

fn vip_spec() -> impl Strategy<Value = VipSpec> {
    let who = (vip_name(), tenant(), vip_address(), port(), any::<bool>());
    let window_s = mostly(1u32..1_000, Just(0));
    let how = (mode(), weighted(0.1, tracking()), window_s, weighted(0.2, probe()), table_size());
    let ways = (weighted(0.5, balancing()), weighted(0.3, ladder()));
    let more = (proptest::collection::vec(backend_spec(), 0..4), ways);
    (who, how, more).prop_map(|(who, how, (backends, (balancing, ladder)))| {
        let protocol = if who.4 { Protocol::Tcp } else { Protocol::Udp };
        VipSpec {
            tenant: who.1,
            mode: Some(how.0),
            tracking: how.1,
            window_s: Some(how.2),
            probe: how.3,
            table_size: Some(how.4),
            balancing,
            ladder,
            backends,
            ..VipSpec::new(who.0, who.2, who.3, protocol)
        }
    })
}

fn vip_set() -> impl Strategy<Value = VipSet> {
    let flags = (any::<bool>(), weighted(0.3, any::<bool>()));
    let parts = (weighted(0.5, balancing()), weighted(0.5, probe()), ladder());
    let how = (weighted(0.1, mode()), weighted(0.3, tracking()), weighted(0.1, table_size()));
    (vip_name(), how, flags, parts).prop_map(|(name, how, flags, (balancing, probe, ladder))| VipSet {
        name,
        mode: how.0,
        tracking: how.1,
        table_size: how.2,
        udp_stateless: flags.1,
        balancing,
        probe,
        ladder: Some(ladder),
        allow_disruption: flags.0,
        ..VipSet::default()
    })
}

fn backend_set() -> impl Strategy<Value = BackendSet> {
    (vip_name(), backend_name(), weighted(0.5, weight()), weighted(0.5, intent()), any::<bool>()).prop_map(
        |(vip, name, weight, intent, allow_disruption)| BackendSet {
            vip,
            name,
            weight,
            intent,
            allow_disruption,
        },
    )
}

fn apply() -> impl Strategy<Value = Apply> {
    let tenants = proptest::collection::vec(tenant_spec(), 0..3);
    let vips = proptest::collection::vec(vip_spec(), 0..4);
    let bypass = weighted(0.1, any::<bool>());
    let target = (vip_name(), backend_name()).prop_map(|(vip, name)| format!("{vip}/{name}"));
    let trips = weighted(0.1, proptest::collection::btree_set(target, 0..2));
    (tenants, vips, any::<[bool; 3]>(), bypass, trips).prop_map(
        |(tenants, vips, [prune, replace, allow_disruption], bypass, trips)| Apply {
            document: Document { tenants, vips },
            prune,
            replace,
            bypass,
            trips,
            allow_disruption,
        },
    )
}

/// Any command.
pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let backend_add = (vip_name(), backend_spec()).prop_map(|(vip, spec)| {
        let BackendSpec { name, address, port, weight, intent, backup } = spec;
        Command::BackendAdd(BackendAdd { vip, name, address, port, weight, intent, backup })
    });
    let breaker = (vip_name(), backend_name(), any::<bool>(), any::<bool>()).prop_map(
        |(vip, name, tripped, allow_disruption)| {
            if tripped {
                Command::BreakerTrip(BreakerTrip { vip, name, allow_disruption })
            } else {
                Command::BreakerReset(BreakerReset { vip, name })
            }
        },
    );
    let backend_remove =
        (vip_name(), backend_name(), any::<bool>()).prop_map(|(vip, name, allow_disruption)| {
            Command::BackendRemove(BackendRemove { vip, name, allow_disruption })
        });
    let vip_remove = (vip_name(), any::<bool>())
        .prop_map(|(name, allow_disruption)| Command::VipRemove(VipRemove { name, allow_disruption }));
    prop_oneof![
        1 => tenant_spec().prop_map(Command::TenantAdd),
        2 => tenant_set().prop_map(Command::TenantSet),
        1 => tenant().prop_map(|name| Command::TenantRemove(TenantRemove { name })),
        5 => vip_spec().prop_map(Command::VipAdd),
        2 => vip_set().prop_map(Command::VipSet),
        1 => vip_remove,
        12 => backend_add,
        6 => backend_set().prop_map(Command::BackendSet),
        3 => backend_remove,
        2 => breaker,
        1 => any::<bool>().prop_map(|on| Command::BypassSet(BypassSet { on })),
        2 => apply().prop_map(Command::Apply),
    ]
}
