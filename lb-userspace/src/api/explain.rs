//! What would happen to a packet: the packet path runs on a made-up one over the live tables, and its answer is told
//! in plain words, with names instead of rows.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use lb_common::ids::BackendId;
use lb_common::reason::Reason;
use lb_control::state::State as Intent;
use lb_control::vip::Protocol;
use serde::Deserialize;

use super::queries::{device_name, stale};
use super::views::ExplainView;
use super::{Node, SCHEMA, blocking};
use crate::address;
use crate::dataplane::{ExplainedSlot, Explanation, Question, QuestionPacket};
use crate::problem::{Code, Problem};
use crate::suggest;

/// The client's port where the question names none: one of the ephemeral ones.
const CLIENT_PORT: u16 = 40_001;

/// Query of an explanation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// `ADDRESS` or `ADDRESS:PORT`.
    client: String,
    /// A vip's name, `ADDRESS:PORT` or `ADDRESS:PORT/PROTOCOL`.
    vip: String,
    /// A UDP datagram instead of a TCP segment.
    #[serde(default)]
    udp: bool,
    /// A later segment instead of the first.
    #[serde(default)]
    established: bool,
}

pub(super) async fn explain(
    State(node): State<Arc<Node>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<ExplainView>, Problem> {
    let asked = super::asked(query)?;
    blocking(move || view(&node, &asked)).await?.map(Json)
}

fn view(node: &Node, asked: &Asked) -> Result<ExplainView, Problem> {
    let state = node.engine.state();
    let question = question(&state, asked)?;
    let explanation = node.dataplane.explain(&question)?;
    let names = Names { state: &state, node };
    let detail = serde_json::to_value(&explanation).map_err(|error| Problem::bug(error.to_string()))?;
    Ok(ExplainView { schema: SCHEMA.to_owned(), story: names.story(&question, &explanation), detail })
}

fn question(state: &Intent, asked: &Asked) -> Result<Question, Problem> {
    let (client, port) = address::host(&asked.client)?;
    let client = SocketAddr::new(client, port.unwrap_or(CLIENT_PORT));
    let (vip, protocol) = target(state, &asked.vip)?;
    let packet = match (asked.udp || protocol == Some(Protocol::Udp), asked.established) {
        (true, _) => QuestionPacket::Udp,
        (false, true) => QuestionPacket::TcpEstablished,
        (false, false) => QuestionPacket::TcpSyn,
    };
    Ok(Question { client, vip, packet })
}

/// Where the packet goes: to a vip by its name, or to any address.
fn target(state: &Intent, text: &str) -> Result<(SocketAddr, Option<Protocol>), Problem> {
    if let Some(vip) = state.vips.get(text) {
        // A vip on all ports: any will do.
        let port = if vip.served.port == 0 { 80 } else { vip.served.port };
        return Ok((SocketAddr::new(vip.served.address, port), Some(vip.served.protocol)));
    }
    if !text.contains(['.', ':']) {
        let hint = suggest::hint(text, state.vips.keys().map(String::as_str));
        return Err(Problem::new(Code::UnknownVip, format!("vip `{text}` does not exist{hint}")).at("vip"));
    }
    if text.contains('/') {
        let served = address::served(text)?;
        return Ok((SocketAddr::new(served.address, served.port), Some(served.protocol)));
    }
    match address::host(text)? {
        (address, Some(port)) => Ok((SocketAddr::new(address, port), None)),
        (_, None) => {
            Err(Problem::new(Code::BadAddress, format!("`{text}` has no port; a packet goes to one"))
                .at("vip"))
        }
    }
}

/// Names of what rows hold.
struct Names<'a> {
    state: &'a Intent,
    node: &'a Node,
}

impl Names<'_> {
    fn story(&self, question: &Question, explanation: &Explanation) -> Vec<String> {
        let what = match question.packet {
            QuestionPacket::TcpSyn => "The first segment (SYN) of a TCP connection",
            QuestionPacket::TcpEstablished => "A later segment of a TCP connection",
            QuestionPacket::Udp => "A UDP datagram",
        };
        let mut story = vec![format!("{what} from {} to {} comes in.", question.client, question.vip)];
        story.extend(self.vip(explanation));
        story.extend(explanation.slot.as_ref().map(|slot| self.slot(explanation, slot)));
        story.extend(explanation.entry.as_ref().map(|entry| {
            format!(
                "The flow is remembered ({}, last packet {} s ago): it belongs to {}.",
                entry.state,
                entry.age_s,
                self.backend_of_row(entry.backend_row)
            )
        }));
        story.extend(self.backend(explanation));
        story.extend(self.egress(explanation));
        story.extend(self.stale_way(explanation));
        let (verdict, text) = (explanation.verdict, explanation.reason_text);
        story.push(match verdict {
            "pass" => format!("It passes to the node's own network stack: {text} ({}).", explanation.reason),
            "drop" => format!("It is dropped: {text} ({}).", explanation.reason),
            _ if explanation.reason == Reason::Forwarded.name() => {
                format!("So it is sent to that backend ({}).", explanation.reason)
            }
            _ if explanation.reason.ends_with("_replied") => {
                format!("The node answers it: {text} ({}).", explanation.reason)
            }
            _ => format!("It is sent on: {text} ({}).", explanation.reason),
        });
        story
    }

    fn vip(&self, explanation: &Explanation) -> Option<String> {
        let found = explanation.vip.as_ref()?;
        let (name, vip) = self.state.vips.iter().find(|(_, vip)| vip.id.0 == found.id)?;
        Some(format!("It is for vip {name} ({}) of tenant {}.", vip.served, vip.tenant))
    }

    fn slot(&self, explanation: &Explanation, slot: &ExplainedSlot) -> String {
        let current = self.backend_of_row(slot.current);
        let id = explanation.vip.as_ref().map(|vip| vip.id);
        let vip = self.state.vips.values().find(|vip| Some(vip.id.0) == id);
        let of = vip.map_or_else(String::new, |vip| format!(" of {}", vip.settings.table_size));
        let number = slot.number;
        match (slot.phase, slot.previous, slot.window_left_s) {
            ("stable", ..) if slot.current == 0 => {
                format!("Its flow hash leads to slot {number}{of}, which no backend has.")
            }
            ("moving", Some(previous), Some(left_s)) => format!(
                "Its flow hash leads to slot {number}{of}, which is moving for another {left_s} s: new flows go to \
                 {current}, older ones to {}.",
                self.backend_of_row(previous)
            ),
            ("pinned", ..) if slot.current == 0 => format!(
                "Its flow hash leads to slot {number}{of}, which no backend has; remembered flows stay where they are."
            ),
            ("pinned", ..) => format!(
                "Its flow hash leads to slot {number}{of}, which is pinned: new flows go to {current}, remembered \
                 ones stay where they are."
            ),
            (phase, ..) => format!("Its flow hash leads to slot {number}{of}, which is {phase}: {current}."),
        }
    }

    fn backend(&self, explanation: &Explanation) -> Option<String> {
        let backend = explanation.backend.as_ref()?;
        let name = self.backend_of_id(backend.id);
        let how = match backend.mode {
            "l2" => "with its addresses untouched (l2)".to_owned(),
            "ipip" => format!("inside a tunnel to {} (ipip)", backend.address),
            _ => format!("translated to {} (nat)", SocketAddr::new(backend.address, backend.port)),
        };
        let because = match backend.choice {
            "slot" => "because the slot is its",
            "remembered" => "because the flow is remembered there",
            "inserted" => "because the slot is its, and the flow is remembered from now on",
            "picked" => "because the vip's algorithm picked it, and the flow is remembered from now on",
            "set_aside" => {
                "because its first choice is on trial and has had its connections for now; the flow is remembered here"
            }
            "previous" => "because flows from before the change stay there",
            other => other,
        };
        let state = match (backend.alive, backend.takes_new) {
            (true, true) => "",
            (true, false) => " It is draining: it takes no new flows.",
            (false, _) => " It is out: it takes nothing.",
        };
        Some(format!("It goes to {name} ({}) {how}, {because}.{state}", backend.address))
    }

    fn egress(&self, explanation: &Explanation) -> Option<String> {
        let egress = explanation.egress.as_ref()?;
        let device = egress.ifindex.map_or_else(|| "the device that it came in by".to_owned(), device_name);
        let vlans = match egress.vlans.as_slice() {
            [] => String::new(),
            vlans => format!(" with VLAN {vlans:?}"),
        };
        let (before, after) = explanation.bytes;
        let size =
            if before == after { String::new() } else { format!(", {after} bytes instead of {before}") };
        Some(format!("It leaves by {device}{vlans}; the next hop is {}{size}.", egress.next_hop))
    }

    /// What the packet path cannot know: that nobody answers any more where it sends.
    fn stale_way(&self, explanation: &Explanation) -> Option<String> {
        explanation.egress.as_ref()?;
        let id = BackendId(explanation.backend.as_ref()?.id);
        let why = stale(self.node.ways.borrow().get(&id))?;
        Some(format!("But that way is from before, and used on: {why}, so the packet may be lost."))
    }

    fn backend_of_row(&self, row: u16) -> String {
        if row == 0 {
            return "nobody".to_owned();
        }
        let standing = self.node.standing.borrow();
        let content = standing.actual.as_ref().and_then(|actual| actual.backends.get(&row));
        content.map_or_else(|| format!("backend row {row}"), |content| self.backend_of_id(content.id.0))
    }

    fn backend_of_id(&self, id: u32) -> String {
        let found = self.state.backends().find(|(.., backend)| backend.id.0 == id);
        found.map_or_else(
            || format!("a backend that was removed (serial {id})"),
            |(vip, _, name, _)| format!("backend {vip}/{name}"),
        )
    }
}
