//! What goes in and out of a [`Dataplane`](super::Dataplane) besides operations and rows: plain values.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::counter::Counter;
use lb_common::abi::tenant::TenantCounts;
use lb_common::ids::TenantId;
use lb_common::reason::Reason;
use lb_control::plan::{Device, Sweep};
use serde::{Deserialize, Serialize};

/// How to attach, as asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// In the driver, or, where that is not possible, in the kernel's stack, with a warning.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's stack.
    Generic,
}

/// How it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's stack, after an allocation for each packet: a fraction of the speed.
    Generic,
}

/// A device as the kernel has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// Its name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// Whether it is up.
    pub up: bool,
    /// MTU and MAC, for the plan.
    pub device: Device,
}

/// A device that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Name of the device, as it was when it was attached if it has vanished.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// The device as it is now, for the plan; `None` if it has vanished.
    pub device: Option<Device>,
    /// In the driver or not.
    pub mode: AttachedMode,
    /// Why this mode, one sentence.
    pub why: String,
    /// What may go wrong there and what to do about it, one sentence each.
    pub warnings: Vec<String>,
}

/// What a sweep did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// For the plan: which watched rows are still named.
    pub sweep: Sweep,
    /// Live flows by backend row, tracked and NAT together. (A flow of a stable slot is not tracked.)
    pub flows: BTreeMap<u16, u64>,
    /// Entries of the flow table that are left.
    pub tracked_flows: u64,
    /// Rows of the NAT table that are in use.
    pub nat_flows: u64,
    /// Entries that were deleted.
    pub forgotten_flows: u64,
    /// NAT rows that were freed.
    pub freed_nat_flows: u64,
    /// Slots within their window, by vip row; a vip without any is absent.
    pub moving_slots: BTreeMap<u16, u32>,
    /// Slots whose window is over but that remembered flows still need, by vip row.
    pub pinned_slots: BTreeMap<u16, u32>,
    /// Slots that became stable by this sweep.
    pub settled_slots: u64,
}

/// Packets and bytes, summed over CPUs. Rows that counted nothing are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By reason; every packet is under exactly one.
    pub reasons: BTreeMap<Reason, Counter>,
    /// By vip row.
    pub vips: BTreeMap<u16, Counter>,
    /// By backend row.
    pub backends: BTreeMap<u16, Counter>,
    /// Tenants with limits.
    pub tenants: BTreeMap<TenantId, TenantCount>,
}

/// What a tenant with limits did since its row was made, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantCount {
    /// What passed and what was dropped.
    pub counts: TenantCounts,
    /// Entries of the flow table.
    pub connections: u64,
    /// NAT ports.
    pub nat_ports: u64,
}

/// A question to [`Dataplane::explain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port that it sends to.
    pub vip: SocketAddr,
    /// What it sends.
    pub packet: QuestionPacket,
}

/// What the client of a [`Question`] sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionPacket {
    /// The first segment of a TCP connection.
    #[default]
    TcpSyn,
    /// A later segment of a TCP connection.
    TcpEstablished,
    /// A UDP datagram.
    Udp,
}

/// What the packet path says about a made-up packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `pass`, `drop`, `transmit` or `redirect`.
    pub verdict: &'static str,
    /// The reason's stable name.
    pub reason: &'static str,
    /// What the reason means.
    pub reason_text: &'static str,
    /// The vip, if one was found.
    pub vip: Option<ExplainedVip>,
    /// The slot, if the flow was hashed.
    pub slot: Option<ExplainedSlot>,
    /// The flow's entry in the flow table, if there is one.
    pub entry: Option<ExplainedEntry>,
    /// The backend, if one was chosen.
    pub backend: Option<ExplainedBackend>,
    /// How the frame leaves, if it does.
    pub egress: Option<ExplainedEgress>,
    /// Bytes of the frame that went in and of the one that came out.
    pub bytes: (u32, u32),
}

/// The vip of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedVip {
    /// Its row.
    pub row: u32,
    /// Its serial number.
    pub id: u32,
    /// Its tenant's serial number.
    pub tenant_id: u32,
    /// `auto`, `always` or `never`.
    pub tracking: &'static str,
}

/// The slot of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedSlot {
    /// Flow hash.
    pub hash: u64,
    /// Number within the vip's table.
    pub number: u32,
    /// `stable`, `moving` or `pinned`.
    pub phase: &'static str,
    /// Backend row of new flows.
    pub current: u16,
    /// Backend row of flows that began before the change, while moving.
    pub previous: Option<u16>,
    /// Seconds until the window ends, while moving.
    pub window_left_s: Option<u32>,
}

/// The flow entry of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedEntry {
    /// Backend row.
    pub backend_row: u16,
    /// `probation`, `syn`, `closing` or `confirmed`.
    pub state: &'static str,
    /// Seconds since its last packet.
    pub age_s: u32,
}

/// The backend of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedBackend {
    /// Its row.
    pub row: u32,
    /// Its serial number.
    pub id: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 = as in the packet.
    pub port: u16,
    /// `l2`, `ipip` or `nat`.
    pub mode: &'static str,
    /// Whether it serves the flows that it has.
    pub alive: bool,
    /// Whether it takes new flows.
    pub takes_new: bool,
    /// How it was chosen: `slot`, `remembered`, `inserted` or `previous`.
    pub choice: &'static str,
}

/// How the frame of an [`Explanation`] leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedEgress {
    /// Row of the egress table; `None`: by the device that it came in by.
    pub row: Option<u16>,
    /// Interface index.
    pub ifindex: Option<u32>,
    /// MAC of the next hop.
    pub next_hop: String,
    /// VLAN ids, outer first.
    pub vlans: Vec<u16>,
}

/// One known packet of [`Dataplane::selftest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was sent.
    pub name: String,
    /// What should become of it.
    pub expected: String,
    /// What became of it.
    pub found: String,
    /// Whether they agree.
    pub ok: bool,
}
