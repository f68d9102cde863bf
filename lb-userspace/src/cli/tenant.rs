//! `lb tenant`.

use std::time::Duration;

use clap::Subcommand;
use lb_control::command::{Command, TenantRemove, TenantSet, TenantSpec};
use lb_control::tenant::{Limit, TenantLimits};

use super::limits::LimitFlags;
use super::mutation::Flags;
use super::number::within;
use super::text::{count, packet_rate, rate, share};
use super::{Done, Session};
use crate::api::SCHEMA;
use crate::api::views::{ListView, TenantUsageView, TenantView};
use crate::problem::{Code, Problem};
use crate::suggest;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a tenant.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        flags: Flags,
    },
    /// Change what a tenant may take of the node. No flow that is under way is lost by it.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show all tenants.
    List,
    /// Show a tenant: its limits and what it takes.
    Show {
        /// Its name.
        name: String,
    },
    /// Show what each tenant takes now, again and again.
    Top {
        /// Show it once and end.
        #[arg(long)]
        once: bool,
        /// Between two looks, milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 1_000, allow_negative_numbers = true, value_parser = within::<100, 3_600_000>)]
        every_ms: u32,
    },
    /// Remove a tenant that has no vips.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        flags: Flags,
    },
}

pub(super) async fn run(session: &mut Session<'_>, verb: Verb) -> Done {
    match verb {
        Verb::Add { name, limits, flags } => {
            let spec = TenantSpec { name, limits: limits.given() };
            session.change(&Command::TenantAdd(spec), flags).await
        }
        Verb::Set { name, limits, flags } => {
            session.change(&Command::TenantSet(TenantSet { name, limits: limits.0 }), flags).await
        }
        Verb::Remove { name, flags } => {
            session.change(&Command::TenantRemove(TenantRemove { name }), flags).await
        }
        Verb::List => list(session).await,
        Verb::Show { name } => show(session, &name).await,
        Verb::Top { once, every_ms } => top(session, once, Duration::from_millis(every_ms.into())).await,
    }
}

async fn tenants(session: &mut Session<'_>) -> Result<ListView<TenantView>, Problem> {
    session.client.read("/v1/views/tenants").await
}

async fn list(session: &mut Session<'_>) -> Done {
    let list = tenants(session).await?;
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    let row = |tenant: &TenantView| {
        vec![
            tenant.name.clone(),
            tenant.vips.join(", "),
            tenant.backends.to_string(),
            words(&tenant.limits),
            rate(&tenant.traffic),
        ]
    };
    let rows = list.items.iter().map(row).collect();
    session.out.table(&["tenant", "vips", "backends", "limits", "rate"], rows);
    Ok(None)
}

/// Limits in one line.
fn words(limits: &TenantLimits) -> String {
    let each = limits.iter().map(|(limit, value)| format!("{limit} {value}"));
    let text = each.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}

/// One tenant, as JSON.
#[derive(serde::Serialize)]
struct One<'a> {
    schema: &'static str,
    #[serde(flatten)]
    tenant: &'a TenantView,
}

async fn show(session: &mut Session<'_>, name: &str) -> Done {
    let list = tenants(session).await?;
    let Some(tenant) = list.items.iter().find(|tenant| tenant.name == name) else {
        let hint = suggest::hint(name, list.items.iter().map(|tenant| tenant.name.as_str()));
        return Err(Problem::new(Code::UnknownTenant, format!("there is no tenant `{name}`{hint}")));
    };
    if session.out.json {
        session.out.value(&One { schema: SCHEMA, tenant })?;
        return Ok(None);
    }
    session.out.heading(&format!("tenant {name}  {}", rate(&tenant.traffic)));
    let rows = Limit::ALL.into_iter().map(|limit| {
        let value = match tenant.limits.of(limit) {
            // It is never without one.
            None if limit == Limit::BurstMs => count(tenant.limits.burst_ms()),
            value => value.map_or("unlimited".to_owned(), count),
        };
        vec![limit.to_string(), value, taken(tenant, limit)]
    });
    session.out.table(&["limit", "value", "taken"], rows.collect());
    if let Some(usage) = &tenant.usage {
        drops(session, usage);
    }
    Ok(None)
}

/// What a tenant takes of a limit, where that is known.
fn taken(tenant: &TenantView, limit: Limit) -> String {
    let usage = tenant.usage.as_ref();
    let of = |value: fn(&TenantUsageView) -> String| usage.map(value).unwrap_or_default();
    match limit {
        Limit::PacketsPerS => of(|usage| packet_rate(usage.passed.rate_pps)),
        Limit::BitsPerS => of(|usage| rate(&usage.passed)),
        Limit::NewConnectionsPerS => of(|usage| format!("{:.0}/s", usage.new_connections_per_s)),
        Limit::Connections | Limit::FlowSharePercent => {
            of(|usage| held(usage.connections, usage.connections_max))
        }
        Limit::NatSharePercent => of(|usage| held(usage.nat_ports, usage.nat_ports_max)),
        Limit::Vips => count(tenant.vips.len() as u64),
        Limit::Backends => count(tenant.backends as u64),
        Limit::BurstMs | Limit::CommandsPerS | Limit::ProbeWorkers => String::new(),
    }
}

/// `12 of 100 (12.0 %)`, or `12`.
fn held(number: u64, most: Option<u32>) -> String {
    match most {
        Some(most) if most != 0 => {
            let part = share(number as f64 / f64::from(most));
            format!("{} of {} ({part})", count(number), count(most.into()))
        }
        _ => count(number),
    }
}

fn drops(session: &mut Session<'_>, usage: &TenantUsageView) {
    if usage.drops.is_empty() {
        session.out.line("  its limits dropped nothing");
        return;
    }
    let row = |drop: &crate::api::views::TenantDropView| {
        vec![drop.reason.clone(), packet_rate(drop.traffic.rate_pps), count(drop.traffic.packets)]
    };
    let rows = usage.drops.iter().map(row).collect();
    session.out.table(&["dropped for", "now", "since the limits are there"], rows);
}

async fn top(session: &mut Session<'_>, once: bool, every: Duration) -> Done {
    loop {
        let mut list = tenants(session).await?;
        list.items.sort_by(|one, other| other.traffic.rate_pps.total_cmp(&one.traffic.rate_pps));
        if session.out.json {
            session.out.value(&list)?;
        } else {
            if !once && session.out.coloured {
                session.out.bytes(b"\x1b[H\x1b[2J");
            }
            table(session, &list);
        }
        if once {
            return Ok(None);
        }
        tokio::time::sleep(every).await;
    }
}

fn table(session: &mut Session<'_>, list: &ListView<TenantView>) {
    let row = |tenant: &TenantView| {
        let usage = tenant.usage.as_ref();
        let dropped = |usage: &TenantUsageView| {
            let drops = usage.drops.iter().filter(|drop| drop.traffic.rate_pps > 0.0);
            let each = drops.map(|drop| format!("{} {}", drop.reason, packet_rate(drop.traffic.rate_pps)));
            each.collect::<Vec<_>>().join(", ")
        };
        vec![
            tenant.name.clone(),
            rate(&tenant.traffic),
            of_limit(tenant, Limit::PacketsPerS, |usage| usage.passed.rate_pps),
            of_limit(tenant, Limit::BitsPerS, |usage| usage.passed.rate_bps),
            usage.map_or(String::new(), |usage| format!("{:.0}/s", usage.new_connections_per_s)),
            usage.map_or(String::new(), |usage| held(usage.connections, usage.connections_max)),
            usage.map_or(String::new(), |usage| held(usage.nat_ports, usage.nat_ports_max)),
            usage.map_or(String::new(), dropped),
        ]
    };
    let rows = list.items.iter().map(row).collect();
    let headings =
        ["tenant", "arriving", "of packets/s", "of bits/s", "new", "tracked", "nat ports", "dropping for"];
    session.out.table(&headings, rows);
}

/// What passed of a rate that the tenant may have, as a share; empty without a limit.
fn of_limit(tenant: &TenantView, limit: Limit, passed: fn(&TenantUsageView) -> f64) -> String {
    match (&tenant.usage, tenant.limits.of(limit)) {
        (Some(usage), Some(per_s)) => share(passed(usage) / per_s as f64),
        _ => String::new(),
    }
}
