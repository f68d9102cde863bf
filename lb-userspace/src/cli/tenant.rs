//! `lb tenant`.

use clap::Subcommand;
use lb_control::command::{Command, TenantSpec};

use super::mutation::Flags;
use super::text::rate;
use super::{Done, Session};
use crate::api::views::{ListView, TenantView};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a tenant.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show all tenants.
    List,
    /// Remove a tenant that has no vips.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        flags: Flags,
    },
}

pub(super) async fn run(session: &mut Session<'_>, verb: Verb) -> Done {
    match verb {
        Verb::Add { name, flags } => session.change(&Command::TenantAdd(TenantSpec { name }), flags).await,
        Verb::Remove { name, flags } => {
            session.change(&Command::TenantRemove(TenantSpec { name }), flags).await
        }
        Verb::List => {
            let list: ListView<TenantView> = session.client.read("/v1/views/tenants").await?;
            if session.out.json {
                session.out.value(&list)?;
                return Ok(None);
            }
            let row = |tenant: &TenantView| {
                vec![tenant.name.clone(), tenant.vips.join(", "), rate(&tenant.traffic)]
            };
            let rows = list.items.iter().map(row).collect();
            session.out.table(&["tenant", "vips", "rate"], rows);
            Ok(None)
        }
    }
}
