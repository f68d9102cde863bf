//! `lb breaker`: what the circuit breakers of backends do, and orders to them. An order is intent: durable, audited, and
//! shown with who gave it.

use clap::Subcommand;
use lb_control::command::{BreakerReset, BreakerTrip, Command};

use super::mutation::Flags;
use super::{Done, Session};
use crate::address;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
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
