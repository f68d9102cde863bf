//! `lb breaker`: what the circuit breakers of backends do, and orders to them. An order is intent: durable, audited, and
//! shown with who gave it.

use clap::Subcommand;
use lb_control::command::{BreakerReset, BreakerTrip, Command};

use super::mutation::Flags;
use super::text::{packet_rate, share};
use super::{Done, Session};
use crate::address;
use crate::api::views::BackendView;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show what the breakers do, of one vip or of all.
    Show {
        /// Name of the vip.
        vip: Option<String>,
    },
    /// Open a backend's breaker until it is reset: it takes no new flows, and keeps those that it has.
    Trip {
        /// VIP/BACKEND.
        target: String,
        /// Do it even if it ends traffic.
        #[arg(long)]
        allow_disruption: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Close a backend's breaker, whatever opened it; it comes back by a slow start.
    Reset {
        /// VIP/BACKEND.
        target: String,
        #[command(flatten)]
        flags: Flags,
    },
}

pub(super) async fn run(session: &mut Session<'_>, verb: Verb) -> Done {
    match verb {
        Verb::Show { vip } => show(session, vip.as_deref()).await,
        Verb::Trip { target, allow_disruption, flags } => {
            let (vip, name) = address::backend(&target)?;
            session.change(&Command::BreakerTrip(BreakerTrip { vip, name, allow_disruption }), flags).await
        }
        Verb::Reset { target, flags } => {
            let (vip, name) = address::backend(&target)?;
            session.change(&Command::BreakerReset(BreakerReset { vip, name }), flags).await
        }
    }
}

async fn show(session: &mut Session<'_>, vip: Option<&str>) -> Done {
    let list = session.backends(vip).await?;
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    let row = |backend: &BackendView| {
        vec![
            format!("{}/{}", backend.vip, backend.name),
            backend.intent.to_string(),
            backend.health.to_string(),
            backend.breaker.clone().unwrap_or_else(|| "-".to_owned()),
            share(backend.share),
            packet_rate(backend.traffic.rate_pps),
            backend.breaker_why.clone(),
            backend.suspicion.clone(),
        ]
    };
    let headings = [
        "backend",
        "intent",
        "health",
        "breaker",
        "slots",
        "rate",
        "last change of the breaker",
        "its traffic says",
    ];
    session.out.table(&headings, list.items.iter().map(row).collect());
    Ok(None)
}
