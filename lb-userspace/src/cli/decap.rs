//! `lb decap`: on a backend, takes the tunnel's outer header off. No daemon: what is attached stays.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::device::ModeWord;
use super::text::{count, several};
use super::{Done, Session};
use crate::api::SCHEMA;
use crate::dataplane::decap::{self, Accepted, PIN_DIR, Status};
use crate::dataplane::{AttachedMode, Fault};
use crate::problem::{Code, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Device that the tunnelled packets come in by; alone, shows what is done there.
    #[arg(long, value_name = "DEVICE")]
    dev: Option<String>,
    /// A balancer's own address, the outer source of its tunnels; may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    peer: Vec<IpAddr>,
    /// A vip's address; may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    vip: Vec<IpAddr>,
    /// Take it off the device again.
    #[arg(long, conflicts_with_all = ["peer", "vip", "mode", "replace"], requires = "dev")]
    off: bool,
    /// How to attach.
    #[arg(long, default_value = "auto")]
    mode: ModeWord,
    /// Put it in the place of another XDP program.
    #[arg(long)]
    replace: bool,
    /// Directory of its pins, in a BPF file system.
    #[arg(long, value_name = "PATH", default_value = PIN_DIR)]
    pin_dir: PathBuf,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    match &args.dev {
        Some(device) if args.off => {
            decap::detach(&args.pin_dir, device).map_err(not_unwrapped)?;
            if session.out.json {
                session.out.value(&json!({ "schema": SCHEMA, "device": device }))?;
            } else {
                session.out.line(&format!("detached from {device}: its tunnels are the kernel's alone"));
            }
            Ok(None)
        }
        Some(device) if !(args.peer.is_empty() && args.vip.is_empty()) => attach(session, &args, device),
        None if !(args.peer.is_empty() && args.vip.is_empty()) => {
            Err(Problem::new(Code::Usage, "on which device is not said: name it with --dev"))
        }
        _ => show(session, &args),
    }
}

/// What is attached for decapsulation is not in the daemon's status.
fn not_unwrapped(fault: Fault) -> Problem {
    let problem = Problem::from(fault);
    match problem.is(Code::NotAttached) {
        true => problem.with_help("`lb decap` shows the devices on which tunnels are unwrapped."),
        false => problem,
    }
}

fn attach(session: &mut Session<'_>, args: &Args, device: &str) -> Done {
    if args.peer.is_empty() || args.vip.is_empty() {
        let text =
            "packets are unwrapped from known peers and for known vips only: name both, --peer and --vip";
        return Err(Problem::new(Code::Usage, text));
    }
    let set = |list: &[IpAddr]| list.iter().map(IpAddr::to_canonical).collect::<BTreeSet<_>>();
    let accepted = Accepted { peers: set(&args.peer), vips: set(&args.vip) };
    let attached = decap::attach(&args.pin_dir, device, &accepted, args.mode.into(), args.replace)?;
    if session.out.json {
        let view = crate::api::device_view(&attached);
        let value = json!({ "schema": SCHEMA, "device": view, "warnings": attached.warnings });
        session.out.value(&value)?;
        return Ok(None);
    }
    let (peers, vips) = (several(accepted.peers.len(), "peer"), several(accepted.vips.len(), "vip"));
    session.out.line(&format!(
        "unwraps on {device}, {}: from {peers} for {vips}",
        match attached.mode {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
        }
    ));
    session.out.line(&format!("undo: lb decap --dev {device} --off"));
    for warning in &attached.warnings {
        session.out.warn(warning);
    }
    Ok(None)
}

fn show(session: &mut Session<'_>, args: &Args) -> Done {
    let status = match decap::status(&args.pin_dir) {
        Ok(status) => status,
        Err(Fault { code: Code::NotAttached, .. }) => Status::default(),
        Err(fault) => return Err(fault.into()),
    };
    if session.out.json {
        session.out.value(&value(&status))?;
        return Ok(None);
    }
    if status.attached.is_empty() {
        session.out.line("nothing is unwrapped here: `lb decap --dev DEVICE --peer ADDRESS --vip ADDRESS`");
        return Ok(None);
    }
    let list =
        |addresses: &BTreeSet<IpAddr>| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let devices: Vec<&str> = status.attached.iter().map(|attached| attached.name.as_str()).collect();
    session.out.line(&format!("unwraps on {}", devices.join(", ")));
    session.out.line(&format!("  from peers {}", list(&status.accepted.peers)));
    session.out.line(&format!("  for vips {}", list(&status.accepted.vips)));
    let row = |(reason, counter): (&lb_common::reason::Reason, &lb_common::abi::counter::Counter)| {
        vec![reason.name().to_owned(), count(counter.packets), reason.text().to_owned()]
    };
    session.out.table(&["reason", "packets", "meaning"], status.reasons.iter().map(row).collect());
    Ok(None)
}

fn value(status: &Status) -> Value {
    let reasons = status.reasons.iter().map(|(reason, counter)| {
        json!({ "reason": reason.name(), "packets": counter.packets, "bytes": counter.bytes })
    });
    json!({
        "schema": SCHEMA,
        "devices": status.attached.iter().map(crate::api::device_view).collect::<Vec<_>>(),
        "peers": status.accepted.peers,
        "vips": status.accepted.vips,
        "reasons": reasons.collect::<Vec<_>>(),
    })
}
