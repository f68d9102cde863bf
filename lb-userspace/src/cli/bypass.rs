//! `lb bypass`: the emergency exit. On, every packet passes to the node's own network stack, untouched.

use clap::Subcommand;
use lb_control::command::{BypassSet, Command};

use super::mutation::Flags;
use super::{Done, Session};
use crate::api::views::StatusView;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Let every packet pass: nothing is balanced.
    On(Flags),
    /// Balance again.
    Off(Flags),
    /// Show whether it is on.
    Status,
}

pub(super) async fn run(session: &mut Session<'_>, verb: Verb) -> Done {
    match verb {
        Verb::On(flags) => session.change(&Command::BypassSet(BypassSet { on: true }), flags).await,
        Verb::Off(flags) => session.change(&Command::BypassSet(BypassSet { on: false }), flags).await,
        Verb::Status => {
            let status: StatusView = session.client.read("/v1/views/status").await?;
            if session.out.json {
                let value = serde_json::json!({ "schema": status.schema, "bypass": status.bypass });
                session.out.value(&value)?;
            } else if status.bypass {
                session.out.line("the bypass is on: every packet passes, nothing is balanced");
            } else {
                session.out.line("the bypass is off: vips are balanced");
            }
            Ok(None)
        }
    }
}
