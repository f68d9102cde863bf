//! The read side: views of the projections and of what was observed. No reader meets the writer: `cargo xtask tidy` sees
//! that nothing here names the engine or its state.

mod answer;
mod history;
mod inventory;
mod lines;
mod observed;
mod projections;
mod status;
mod vips;
mod way;

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use lb_common::abi::counter::Counter;
use lb_common::reason::{Class, Reason};
use lb_control::projection::tenant_usage::Usage;

use super::params::Params;
use super::views::{DropView, TenantView, TrafficView};
use super::{Node, blocking};
use crate::config;
use crate::problem::Problem;
use crate::samples::Samples;
use answer::{basis, basis_at};
pub(super) use history::{act, audit, blame, diff, history};
pub(super) use inventory::inventory;
pub(super) use observed::health;
pub(super) use projections::{projections, rebuild};
use vips::Snapshot;
pub(super) use vips::device_name;
pub(super) use way::stale;

pub(super) async fn status(State(node): State<Arc<Node>>, mut params: Params) -> Result<Response, Problem> {
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    blocking(move || basis.mixed(&status::view(&node, &basis))).await
}

/// Without `at`: intent and what is observed. With it: what was wanted then, since nothing else is known of the past.
pub(super) async fn vips(State(node): State<Arc<Node>>, mut params: Params) -> Result<Response, Problem> {
    let basis = basis_at(&node, &mut params).await?;
    params.end()?;
    if basis.past {
        let past = basis.inventory(&node).await?;
        return Ok(basis.pure(&basis.list(inventory::vips(&past))));
    }
    blocking(move || basis.mixed(&basis.list(Snapshot::of(&node, &basis.model).vips()))).await
}

/// As [`vips`].
pub(super) async fn backends(State(node): State<Arc<Node>>, mut params: Params) -> Result<Response, Problem> {
    let basis = basis_at(&node, &mut params).await?;
    params.end()?;
    if basis.past {
        let past = basis.inventory(&node).await?;
        let backends = inventory::vips(&past).into_iter().flat_map(|vip| vip.backends);
        return Ok(basis.pure(&basis.list(backends.collect())));
    }
    blocking(move || {
        let vips = Snapshot::of(&node, &basis.model).vips();
        basis.mixed(&basis.list(vips.into_iter().flat_map(|vip| vip.backends).collect()))
    })
    .await
}

pub(super) async fn tenants(State(node): State<Arc<Node>>, mut params: Params) -> Result<Response, Problem> {
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    blocking(move || {
        let snapshot = Snapshot::of(&node, &basis.model);
        let tenant = |(name, usage): (&Arc<str>, &Arc<Usage>)| {
            let own = usage.vips.keys().filter_map(|vip| basis.model.inventory.vips.get(vip));
            TenantView {
                name: name.to_string(),
                vips: usage.vips.keys().map(|name| name.to_string()).collect(),
                backends: usage.backends(),
                changes: usage.changes,
                traffic: own.map(|vip| snapshot.vip_traffic(vip.id)).fold(TrafficView::default(), sum),
                limits: basis.model.inventory.tenants.get(name).map(|own| own.limits).unwrap_or_default(),
                usage: snapshot.tenant_usage(name),
            }
        };
        basis.mixed(&basis.list(basis.model.usage.tenants.iter().map(tenant).collect()))
    })
    .await
}

/// Every reason that counted anything, not only drops: their sum is the packets seen.
pub(super) async fn drops(State(node): State<Arc<Node>>, mut params: Params) -> Result<Response, Problem> {
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    blocking(move || {
        let samples = node.samples.borrow().clone().and_now(&*node.dataplane);
        let counted = Reason::ALL.iter().map(|reason| drop_view(&samples, *reason));
        basis.mixed(&basis.list(counted.filter(|view| view.packets > 0).collect()))
    })
    .await
}

/// The document that, applied, changes nothing; or that which would have changed nothing then.
pub(super) async fn document(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let basis = basis_at(&node, &mut params).await?;
    params.end()?;
    if let Some(unchanged) = basis.unchanged(&headers) {
        return Ok(unchanged);
    }
    Ok(basis.pure(&config::export(&*basis.inventory(&node).await?)))
}

fn drop_view(samples: &Samples, reason: Reason) -> DropView {
    let of =
        |counters: &crate::dataplane::Counters| counters.reasons.get(&reason).copied().unwrap_or_default();
    DropView {
        reason: reason.name().to_owned(),
        text: reason.text().to_owned(),
        class: match reason.class() {
            Class::Forward => "forward",
            Class::Pass => "pass",
            Class::Drop => "drop",
        }
        .to_owned(),
        packets: of(&samples.newest()).packets,
        last_minute_packets: samples.last_minute(of).packets,
        rate_pps: samples.rate(of).pps,
    }
}

fn traffic(samples: &Samples, of: impl Fn(&crate::dataplane::Counters) -> Counter) -> TrafficView {
    let (total, rate) = (of(&samples.newest()), samples.rate(of));
    TrafficView { packets: total.packets, bytes: total.bytes, rate_pps: rate.pps, rate_bps: rate.bps }
}

fn sum(one: TrafficView, other: TrafficView) -> TrafficView {
    TrafficView {
        packets: one.packets + other.packets,
        bytes: one.bytes + other.bytes,
        rate_pps: one.rate_pps + other.rate_pps,
        rate_bps: one.rate_bps + other.rate_bps,
    }
}
