//! The read side: views of published snapshots. No reader waits for the writer, and none holds it up.

mod status;
mod vips;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use lb_common::abi::counter::Counter;
use lb_common::reason::{Class, Reason};
use lb_control::command::Document;

use super::views::{BackendView, DropView, ListView, StatusView, TenantView, TrafficView, VipView};
use super::{Node, SCHEMA, blocking};
use crate::config;
use crate::engine::Published;
use crate::problem::Problem;
use crate::samples::Samples;
use vips::Snapshot;
pub(super) use vips::device_name;

fn list<T>(state: &Published, items: Vec<T>) -> Json<ListView<T>> {
    Json(ListView { schema: SCHEMA.to_owned(), revision: state.revision, items })
}

pub(super) async fn status(State(node): State<Arc<Node>>) -> Result<Json<StatusView>, Problem> {
    blocking(move || status::view(&node)).await.map(Json)
}

pub(super) async fn vips(State(node): State<Arc<Node>>) -> Result<Json<ListView<VipView>>, Problem> {
    blocking(move || {
        let snapshot = Snapshot::of(&node);
        list(&snapshot.state, snapshot.vips())
    })
    .await
}

pub(super) async fn backends(State(node): State<Arc<Node>>) -> Result<Json<ListView<BackendView>>, Problem> {
    blocking(move || {
        let snapshot = Snapshot::of(&node);
        let backends = snapshot.vips().into_iter().flat_map(|vip| vip.backends).collect();
        list(&snapshot.state, backends)
    })
    .await
}

pub(super) async fn tenants(State(node): State<Arc<Node>>) -> Result<Json<ListView<TenantView>>, Problem> {
    blocking(move || {
        let snapshot = Snapshot::of(&node);
        let tenant = |name: &String| {
            let own = snapshot.state.vips.iter().filter(|(_, vip)| vip.tenant == *name);
            let traffic = own.clone().map(|(_, vip)| snapshot.vip_traffic(vip.id));
            TenantView {
                name: name.clone(),
                vips: own.map(|(name, _)| name.clone()).collect(),
                traffic: traffic.fold(TrafficView::default(), sum),
            }
        };
        list(&snapshot.state, snapshot.state.tenants.keys().map(tenant).collect())
    })
    .await
}

/// Every reason that counted anything, not only drops: their sum is the packets seen.
pub(super) async fn drops(State(node): State<Arc<Node>>) -> Result<Json<ListView<DropView>>, Problem> {
    blocking(move || {
        let samples = node.samples.borrow().clone().and_now(&*node.dataplane);
        let counted = Reason::ALL.iter().map(|reason| drop_view(&samples, *reason));
        list(&node.engine.state(), counted.filter(|view| view.packets > 0).collect())
    })
    .await
}

/// The document that, applied, changes nothing.
pub(super) async fn document(State(node): State<Arc<Node>>) -> Json<Document> {
    Json(config::export(&node.engine.state()))
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
