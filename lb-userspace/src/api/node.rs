//! What the routes share, and the routes about the node itself: devices, self-test, is it alive, is it ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::rates::CommandRates;
use super::stream::Followers;
use super::views::{AttachView, CheckView, DeviceView, SelftestView};
use super::{SCHEMA, blocking, parsed};
use crate::breakers::SeenBreakers;
use crate::dataplane::{AttachMode, Attached, AttachedMode, Dataplane, LiveSlots};
use crate::engine::Engine;
use crate::journal::LogReader;
use crate::journal::observation::ObservationJournal;
use crate::probe::SeenHealth;
use crate::probe::via::Addresses;
use crate::problem::{Code, Problem};
use crate::projection::Projections;
use crate::reconcile::{Standing, Ways};
use crate::samples::Samples;
use crate::suspects::Suspects;
use lb_control::plan::{Actual, Slots, TableMemo};

/// Longest wait for the reconciler to see a device come or go.
const SEEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The running node, as the routes see it.
pub struct Node {
    /// The writer.
    pub engine: Engine,
    /// The log, for readers.
    pub log: Arc<dyn LogReader>,
    /// What the log says, folded for questions.
    pub projections: Projections,
    /// Who follows the events.
    pub followers: Followers,
    /// What the node observed, if it is kept.
    pub observations: Option<ObservationJournal>,
    /// The maps and devices, for readers and for attaching; only the reconciler writes rows.
    pub dataplane: Arc<dyn Dataplane>,
    /// How many commands a second each tenant and each actor may send.
    pub rates: CommandRates,
    /// Tables of late, for those who are told what their change does.
    pub tables: Arc<TableMemo>,
    /// How far the maps are.
    pub standing: watch::Receiver<Standing>,
    /// Health of the backends.
    pub health: watch::Receiver<SeenHealth>,
    /// Breakers of the backends.
    pub breakers: watch::Receiver<SeenBreakers>,
    /// Backends against which their traffic speaks.
    pub suspects: watch::Receiver<Suspects>,
    /// Ways to the backends.
    pub ways: watch::Receiver<Ways>,
    /// What probes by the vips' own paths are asked from.
    pub probe_addresses: Addresses,
    /// Counters of the last minute.
    pub samples: watch::Receiver<Samples>,
    /// Rung when a device was attached or detached.
    pub nudge: Arc<Notify>,
    /// When the daemon started.
    pub started: Instant,
    /// What a person should know of the start, such as a journal's tail that was cut.
    pub notes: Vec<String>,
}

/// Body of `POST /v1/attach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Name of the device.
    pub device: String,
    /// How.
    #[serde(default)]
    pub mode: AttachMode,
    /// A foreign XDP program goes.
    #[serde(default)]
    pub replace: bool,
}

/// Body of `POST /v1/detach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Name of the device.
    pub device: String,
}

pub(super) async fn attach(State(node): State<Arc<Node>>, body: Bytes) -> Result<Json<AttachView>, Problem> {
    let Attach { device, mode, replace } = parsed(&body)?;
    let dataplane = node.dataplane.clone();
    let attached = blocking(move || dataplane.attach(&device, mode, replace)).await??;
    told(&node, |devices| devices.iter().any(|one| one.ifindex == attached.ifindex)).await;
    let warnings = attached.warnings.clone();
    Ok(Json(AttachView { schema: SCHEMA.to_owned(), device: device_view(&attached), warnings }))
}

pub(super) async fn detach(State(node): State<Arc<Node>>, body: Bytes) -> Result<Json<Value>, Problem> {
    let Detach { device } = parsed(&body)?;
    let (dataplane, name) = (node.dataplane.clone(), device.clone());
    blocking(move || dataplane.detach(&name)).await??;
    told(&node, |devices| devices.iter().all(|one| one.name != device)).await;
    Ok(Json(json!({ "schema": SCHEMA, "device": device })))
}

/// Has the reconciler look at the devices and waits for it, so that whoever asks for the status next sees what he
/// did. What takes too long is seen later: the device itself is done.
async fn told(node: &Node, seen: impl Fn(&[Attached]) -> bool) {
    node.nudge.notify_one();
    let mut standing = node.standing.clone();
    let told = standing.wait_for(|standing| seen(&standing.attached));
    let _ = tokio::time::timeout(SEEN_TIMEOUT, told).await;
}

pub(super) async fn selftest(State(node): State<Arc<Node>>) -> Result<Json<SelftestView>, Problem> {
    let dataplane = node.dataplane.clone();
    let checks = blocking(move || dataplane.selftest()).await??;
    let view = |check: crate::dataplane::Check| CheckView {
        name: check.name,
        expected: check.expected,
        found: check.found,
        ok: check.ok,
    };
    let ok = checks.iter().all(|check| check.ok);
    let checks = checks.into_iter().map(view).collect();
    Ok(Json(SelftestView { schema: SCHEMA.to_owned(), ok, checks }))
}

/// The daemon runs: it answers.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({ "schema": SCHEMA, "alive": true }))
}

/// The maps have been brought to some whole state of this daemon, nothing is in the way of the next, and of the vips, if
/// there are any, one serves: some slot of it has a backend.
pub(super) async fn readyz(State(node): State<Arc<Node>>) -> Result<Json<Value>, Problem> {
    let (passes, fault, actual) = {
        let standing = node.standing.borrow();
        (standing.passes, standing.fault.clone(), standing.actual.clone())
    };
    let unready = |text| Err(Problem::new(Code::Unhealthy, text));
    match fault {
        Some(fault) => Err(fault.into()),
        None if passes == 0 => unready("the maps were not compared yet"),
        None if !blocking(move || actual.is_none_or(|actual| serves(&actual))).await? => {
            unready("no vip has a backend that takes new flows")
        }
        None => Ok(Json(json!({ "schema": SCHEMA, "ready": true }))),
    }
}

pub(crate) fn device_view(attached: &Attached) -> DeviceView {
    DeviceView {
        name: attached.name.clone(),
        ifindex: attached.ifindex,
        mode: match attached.mode {
            AttachedMode::Native => "native".to_owned(),
            AttachedMode::Generic => "generic".to_owned(),
        },
        why: attached.why.clone(),
        present: attached.device.is_some(),
        mtu: attached.device.map(|device| device.mtu),
    }
}

/// Whether some vip has a backend for new flows, or there is none to have one.
fn serves(actual: &Actual<LiveSlots>) -> bool {
    let served = |(first, count): (u32, u32)| {
        (first..first.saturating_add(count)).any(|index| actual.slots.slot(index).current() != 0)
    };
    actual.vips.is_empty() || actual.vips.values().any(|vip| served(vip.extent))
}
