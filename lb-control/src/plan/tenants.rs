//! Rows of tenants with limits: what is in one, and how limits become words.

use crate::limits::Limits;
use crate::tenant::{Limit, TenantLimits};
use lb_common::abi::tenant::Caps;
use lb_common::ids::TenantId;

/// The limits in a tenant's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowLimits {
    /// Packets, bits and new connections a second; 0 = no limit.
    pub rates: [u64; 3],
    /// How much may come at once, nanoseconds of each rate.
    pub burst_ns: u64,
    /// Entries of the flow table, and NAT ports.
    pub caps: Caps,
}

/// Content of a tenant's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantContent {
    /// Serial of the tenant.
    pub id: TenantId,
    /// Its live limits.
    pub limits: RowLimits,
}

impl RowLimits {
    /// The limits on a node with tables of these sizes. A share that comes to less than one entry is one.
    pub fn of(limits: &TenantLimits, node: &Limits) -> Self {
        let rate = |limit| limits.of(limit).unwrap_or(0);
        let share = |limit, of: u32| limits.of(limit).map(|percent| (u64::from(of) * percent / 100).max(1));
        let of_table = share(Limit::FlowSharePercent, node.flow_entries);
        let connections = limits.of(Limit::Connections).into_iter().chain(of_table).min().unwrap_or(0);
        let nat_ports = share(Limit::NatSharePercent, node.nat_ports).unwrap_or(0);
        Self {
            rates: [rate(Limit::PacketsPerS), rate(Limit::BitsPerS), rate(Limit::NewConnectionsPerS)],
            burst_ns: limits.burst_ms() * 1_000_000,
            caps: Caps::new(
                u32::try_from(connections).unwrap_or(u32::MAX),
                u32::try_from(nat_ports).unwrap_or(u32::MAX),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;
    use crate::plan::Op;
    use crate::plan::testing::{Node, accept, world};

    const LIMIT: &str = r#"{"kind":"tenant_set","name":"default","packets_per_s":50,"connections":9}"#;

    #[test]
    fn a_first_limit_makes_a_row_before_anything_names_it_and_tracks_every_flow() {
        let mut node = Node::up(world(&["10.0.0.1", "10.0.0.2"]));
        node.accept(LIMIT);
        let plan = node.settle();
        let written = plan.ops.iter().position(|op| matches!(op, Op::WriteTenant { row: 1, .. }));
        assert_eq!(written, Some(0), "{:?}", plan.ops);
        let maps = &node.memory.actual;
        assert_eq!(maps.tenants[&1].limits.rates, [50, 0, 0]);
        assert!(maps.vips.values().all(|vip| vip.policy.tenant() == 1 && vip.policy.always()));
        assert!(maps.backends.values().all(|backend| backend.tenant == 1));
        // Other limits are one operation, and no slot moves.
        node.accept(r#"{"kind":"tenant_set","name":"default","packets_per_s":70}"#);
        assert!(matches!(&node.settle().ops[..], [Op::SetTenantLimits { row: 1, .. }]));
        // None at all: nothing names the row before it is freed.
        node.accept(r#"{"kind":"tenant_set","name":"default","packets_per_s":null,"connections":null}"#);
        let plan = node.settle();
        assert!(
            matches!(plan.ops[plan.ops.len() - 2..], [Op::Barrier, Op::FreeTenant { row: 1 }]),
            "{:?}",
            plan.ops
        );
        assert!(node.memory.actual.vips.values().all(|vip| vip.policy.tenant() == 0 && !vip.policy.always()));
    }

    #[test]
    fn quotas_make_no_row_and_a_row_stays_as_long_as_a_dead_backend_counts_for_it() {
        let mut state = world(&["10.0.0.1", "10.0.0.2"]);
        accept(&mut state, r#"{"kind":"tenant_set","name":"default","vips":3,"commands_per_s":5}"#);
        let mut node = Node::up(state);
        assert!(node.memory.actual.tenants.is_empty());
        node.accept(LIMIT);
        node.settle();
        node.accept(r#"{"kind":"backend_remove","vip":"web","name":"b1","allow_disruption":true}"#);
        node.settle();
        node.accept(r#"{"kind":"tenant_set","name":"default","packets_per_s":null,"connections":null}"#);
        node.settle();
        assert_eq!(node.memory.actual.tenants.len(), 1, "entries may name the removed backend");
        node.now_s += 10_000;
        node.sweep(|_| false);
        node.pass();
        assert!(node.memory.actual.tenants.is_empty() && node.memory.actual.backends.len() == 1);
    }

    #[test]
    fn a_tenant_that_finds_no_row_is_named_and_not_limited() {
        // The log of a node with more room: here the last one would be refused.
        let mut state = world(&["10.0.0.1"]);
        for number in 0..4 {
            accept(&mut state, &format!(r#"{{"kind":"tenant_add","name":"t{number}","bits_per_s":9}}"#));
        }
        accept(&mut state, LIMIT);
        let mut node = Node::up(state);
        let plan = node.plan();
        let full: Vec<_> =
            plan.problems.iter().map(|problem| (problem.code, problem.object.as_str())).collect();
        assert_eq!(full, [(Code::TenantRowsFull, "tenant t3")]);
        assert_eq!(node.memory.actual.tenants.len(), 4);
    }

    #[test]
    fn the_narrower_cap_counts_and_a_share_is_never_nothing() {
        let node = Limits { flow_entries: 1_000, nat_ports: 50, ..Limits::default() };
        let limits = TenantLimits::default()
            .with(Limit::Connections, Some(300))
            .with(Limit::FlowSharePercent, Some(25))
            .with(Limit::NatSharePercent, Some(1))
            .with(Limit::BitsPerS, Some(7));
        let row = RowLimits::of(&limits, &node);
        assert_eq!((row.caps.connections(), row.caps.nat_ports()), (250, 1));
        assert_eq!((row.rates, row.burst_ns), ([0, 7, 0], 100_000_000));
        let row = RowLimits::of(&limits.with(Limit::FlowSharePercent, None), &node);
        assert_eq!(row.caps.connections(), 300);
    }
}
