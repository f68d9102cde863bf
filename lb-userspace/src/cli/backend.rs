//! `lb backend`. A backend is named `VIP/BACKEND`; where one is made, `VIP BACKEND` does as well.

use clap::{Subcommand, ValueEnum};
use lb_control::backend::Intent;
use lb_control::command::{BackendAdd, BackendRemove, BackendSet, Command, DEFAULT_WEIGHT};

use super::mutation::{Flags, Until, Wait};
use super::number::whole;
use super::{Done, Session};
use crate::address;
use crate::api::views::{BackendView, ListView};
use crate::problem::{Code, Problem};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Add a backend to a vip: `lb backend add web b1 10.0.0.11`, or `web/b1 10.0.0.11:8080`.
    Add {
        /// The vip and the backend, as VIP/BACKEND or in two words, then ADDRESS or ADDRESS:PORT.
        #[arg(num_args = 2..=3, required = true, value_names = ["VIP/BACKEND", "ADDRESS"])]
        words: Vec<String>,
        /// Its share of new flows, relative to the others: 0 to 65535.
        #[arg(long, allow_negative_numbers = true, default_value_t = DEFAULT_WEIGHT, value_parser = whole::<u32>("from 0 to 65535"))]
        weight: u32,
        /// What is intended with it.
        #[arg(long, default_value = "enabled")]
        intent: IntentWord,
        /// It serves only when nobody of the pool does; that never changes.
        #[arg(long)]
        backup: bool,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show backends, of one vip or of all.
    List {
        /// Name of the vip.
        vip: Option<String>,
    },
    /// Take no new flows, keep those that it has.
    Drain {
        #[command(flatten)]
        change: Change,
    },
    /// Take new flows.
    Enable {
        #[command(flatten)]
        change: Change,
    },
    /// Take nothing; its flows end.
    Disable {
        #[command(flatten)]
        change: Change,
    },
    /// Set its share of new flows.
    Weight {
        /// VIP/BACKEND.
        target: String,
        /// 0 to 65535, relative to the other backends of the vip.
        #[arg(allow_negative_numbers = true, value_parser = whole::<u32>("from 0 to 65535"))]
        weight: u32,
        /// Do it even if it ends traffic.
        #[arg(long)]
        allow_disruption: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Remove a backend; flows that it still has end.
    Remove {
        /// VIP/BACKEND.
        target: String,
        /// Do it even if it ends traffic.
        #[arg(long)]
        allow_disruption: bool,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum IntentWord {
    /// Takes new flows.
    Enabled,
    /// Takes no new flows, keeps those that it has.
    Draining,
    /// Takes nothing.
    Disabled,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Change {
    /// VIP/BACKEND.
    target: String,
    /// Do it even if it ends traffic.
    #[arg(long)]
    allow_disruption: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    flags: Flags,
}

pub(super) async fn run(session: &mut Session<'_>, verb: Verb) -> Done {
    match verb {
        Verb::Add { words, weight, intent, backup, wait, flags } => {
            let (vip, name, address) = named_with_address(&words)?;
            let (address, port) = address::host(&address)?;
            let intent = intent.into();
            let add = BackendAdd { vip, name, address, port, weight, intent, backup };
            let (vip, name) = (add.vip.clone(), add.name.clone());
            session
                .change_and_wait(&Command::BackendAdd(add), flags, wait, (&vip, &name), Until::Serves)
                .await
        }
        Verb::List { vip } => list(session, vip.as_deref()).await,
        Verb::Drain { change } => set_intent(session, change, Intent::Draining).await,
        Verb::Enable { change } => set_intent(session, change, Intent::Enabled).await,
        Verb::Disable { change } => set_intent(session, change, Intent::Disabled).await,
        Verb::Weight { target, weight, allow_disruption, flags } => {
            let (vip, name) = address::backend(&target)?;
            let set = BackendSet { vip, name, weight: Some(weight), intent: None, allow_disruption };
            session.change(&Command::BackendSet(set), flags).await
        }
        Verb::Remove { target, allow_disruption, flags } => {
            let (vip, name) = address::backend(&target)?;
            let remove = BackendRemove { vip, name, allow_disruption };
            session.change(&Command::BackendRemove(remove), flags).await
        }
    }
}

async fn set_intent(session: &mut Session<'_>, change: Change, intent: Intent) -> Done {
    let (vip, name) = address::backend(&change.target)?;
    let (set_vip, set_name, allow_disruption) = (vip.clone(), name.clone(), change.allow_disruption);
    let set =
        BackendSet { vip: set_vip, name: set_name, weight: None, intent: Some(intent), allow_disruption };
    let until = if intent == Intent::Enabled { Until::Serves } else { Until::Drained };
    let command = Command::BackendSet(set);
    session.change_and_wait(&command, change.flags, change.wait, (&vip, &name), until).await
}

/// `VIP/BACKEND ADDRESS` or `VIP BACKEND ADDRESS`.
fn named_with_address(words: &[String]) -> Result<(String, String, String), Problem> {
    match words {
        [target, address] => {
            let (vip, name) = address::backend(target)?;
            Ok((vip, name, address.clone()))
        }
        [vip, name, address] => Ok((vip.clone(), name.clone(), address.clone())),
        _ => Err(Problem::new(Code::BadTarget, "a backend is added as VIP/BACKEND ADDRESS")),
    }
}

impl Session<'_> {
    /// The list of all backends, or of those of one vip, which must exist.
    pub(super) async fn backends(&self, vip: Option<&str>) -> Result<ListView<BackendView>, Problem> {
        let mut list: ListView<BackendView> = self.client.read("/v1/views/backends").await?;
        if let Some(vip) = vip {
            self.vip(vip).await?;
            list.items.retain(|backend| backend.vip == vip);
        }
        Ok(list)
    }
}

async fn list(session: &mut Session<'_>, vip: Option<&str>) -> Done {
    let list = session.backends(vip).await?;
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    super::status::backends(session, &list.items);
    Ok(None)
}

impl From<IntentWord> for Intent {
    fn from(word: IntentWord) -> Self {
        match word {
            IntentWord::Enabled => Self::Enabled,
            IntentWord::Draining => Self::Draining,
            IntentWord::Disabled => Self::Disabled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_in_one_word_or_two() {
        let named =
            |words: &[&str]| named_with_address(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let wanted = ("web".to_owned(), "b1".to_owned(), "10.0.0.11".to_owned());
        assert_eq!(named(&["web/b1", "10.0.0.11"]).unwrap(), wanted);
        assert_eq!(named(&["web", "b1", "10.0.0.11"]).unwrap(), wanted);
        assert!(named(&["web", "10.0.0.11"]).is_err());
    }
}
