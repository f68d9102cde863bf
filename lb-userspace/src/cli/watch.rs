//! `lb watch`: every change as it happens, and what the node observes. It comes back by itself when the daemon was away, and
//! goes on where it was.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method};
use lb_control::event::Change;
use lb_control::observation::{Object as Seen, Observation};
use lb_control::projection::object::Object;

use super::number::{whole, within};
use super::object::when;
use super::{Done, Session};
use crate::api::views::past::RecordView;
use crate::problem::{Code, Problem};
use crate::projection::moment::rfc3339;

/// Until it tries again when the daemon does not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Longest line of an event, bytes: the largest record and its escapes.
const LINE_MAX: usize = 256 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// First show what came after this revision; without it, only what comes from now on.
    #[arg(long, value_name = "REV", allow_negative_numbers = true, value_parser = whole::<u64>("from 0 on"))]
    after: Option<u64>,
    /// End after so many records; observations do not count.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = within::<1, { u32::MAX }>)]
    count: Option<u32>,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let (mut after, mut left, mut away) = (args.after, args.count, false);
    loop {
        match follow(session, &mut after, &mut left).await {
            Ok(true) => return Ok(None),
            Ok(false) => session.out.say("the daemon ended the stream; trying again"),
            // What it never saw running is no daemon to wait for.
            Err(problem) if after.is_none() && !away => return Err(problem),
            Err(problem) if problem.is(Code::NoDaemon) || problem.is(Code::NoAnswer) => {
                if !away {
                    session.out.say(&format!("{}; trying again", problem.message));
                }
                away = true;
            }
            Err(problem) => return Err(problem),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One connection. True: enough was seen.
async fn follow(
    session: &mut Session<'_>,
    after: &mut Option<u64>,
    left: &mut Option<u32>,
) -> Result<bool, Problem> {
    let query = after.map_or_else(String::new, |after| format!("&after={after}"));
    let path = format!("/v1/events?observations=true{query}");
    let answer = session.client.open(Method::GET, &path, HeaderMap::new(), Bytes::new()).await?;
    let mut lines = Lines { body: answer.into_body(), read: Vec::new() };
    let (mut kind, mut text) = (String::new(), String::new());
    while let Some(line) = lines.next().await? {
        match line.split_once(':').map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value))) {
            Some(("event", value)) => kind = value.to_owned(),
            Some(("data", value)) => text.push_str(value),
            Some(_) => {}
            None => {
                if told(session, &kind, &text, after, left)? {
                    return Ok(true);
                }
                (kind, text) = Default::default();
            }
        }
    }
    Ok(false)
}

/// Shows one event. True: enough was seen.
fn told(
    session: &mut Session<'_>,
    kind: &str,
    text: &str,
    after: &mut Option<u64>,
    left: &mut Option<u32>,
) -> Result<bool, Problem> {
    let unread =
        |error: serde_json::Error| Problem::new(Code::NoAnswer, format!("an event cannot be read: {error}"));
    if kind == "overflow" {
        session.out.warn("too slow: the daemon let go of this stream; going on where it was");
    }
    if kind == "observation" {
        let observation: Observation = serde_json::from_str(text).map_err(unread)?;
        if session.out.json {
            session.out.line(text);
        } else {
            session.out.line(&seen(&observation));
        }
    }
    if kind != "record" {
        return Ok(false);
    }
    let record: RecordView = serde_json::from_str(text).map_err(unread)?;
    if session.out.json {
        session.out.line(text);
    } else {
        people(session, &record);
    }
    *after = Some(record.act.revision);
    let Some(left) = left else { return Ok(false) };
    *left = left.saturating_sub(1);
    Ok(*left == 0)
}

/// An observation in words. It has no revision, and nobody asked for it.
fn seen(observation: &Observation) -> String {
    let Observation { object, change, evidence, .. } = observation;
    let evidence = if evidence.is_empty() { String::new() } else { format!("  ({evidence})") };
    let at = when(&rfc3339(observation.at_ms));
    let object = match object {
        Seen::Node => object.to_string(),
        Seen::Vip { .. } | Seen::Pool { .. } => format!("vip {object}"),
        Seen::Backend { .. } => format!("backend {object}"),
    };
    format!("{:>7}  {at}  seen  {object}: {change}{evidence}", "")
}

fn people(session: &mut Session<'_>, record: &RecordView) {
    let act = &record.act;
    let why = act.reason.as_ref().map_or_else(String::new, |why| format!("  ({why})"));
    for (index, event) in record.events.iter().enumerate() {
        let head = format!("{:>7}  {}  {}", act.revision, when(&act.at), act.actor);
        let head = if index == 0 { head } else { " ".repeat(head.chars().count()) };
        let why = if index == 0 { why.as_str() } else { "" };
        session.out.line(&format!("{head}  {}{why}", said(&event.change)));
    }
}

/// An event in words.
fn said(change: &Change) -> String {
    let object = Object::of(change).map_or_else(String::new, |object| object.to_string());
    match change {
        Change::TenantAdded { .. } => format!("{object} made"),
        Change::VipAdded { served, tenant, .. } => format!("{object} made: {served} tenant {tenant}"),
        Change::TenantLimitsChanged { limits, .. } => {
            let each = limits.iter().map(|(limit, value)| format!("{limit} {value}"));
            let text = each.collect::<Vec<_>>().join(", ");
            format!("{object} limits: {}", if text.is_empty() { "none" } else { &text })
        }
        Change::VipSettingsChanged { .. } => format!("{object} has new settings"),
        Change::TenantRemoved { .. } | Change::VipRemoved { .. } | Change::BackendRemoved { .. } => {
            format!("{object} removed")
        }
        Change::BackendAdded { address, port, weight, intent, .. } => {
            format!("{object} made: {address} port {port} weight {weight} {intent}")
        }
        Change::BackendWeightChanged { weight, .. } => format!("{object} weight {weight}"),
        Change::BackendIntentChanged { intent, .. } => format!("{object} {intent}"),
        Change::BreakerTripped { .. } => format!("{object} breaker tripped"),
        Change::BreakerReset { .. } => format!("{object} breaker reset"),
        Change::BypassChanged { on } => format!("{object} {}", if *on { "on" } else { "off" }),
        Change::CommandAccepted { command } => format!("{command}: it was so already"),
    }
}

/// The lines of a body.
struct Lines {
    body: Incoming,
    read: Vec<u8>,
}

impl Lines {
    /// The next line without its end; none when the body is over.
    async fn next(&mut self) -> Result<Option<String>, Problem> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()));
            }
            if self.read.len() > LINE_MAX {
                return Err(Problem::new(Code::NoAnswer, "the daemon sent a line without an end"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Problem::new(Code::NoAnswer, format!("the stream broke off: {error}")));
                }
                Some(Ok(frame)) => self.read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
        }
    }
}
