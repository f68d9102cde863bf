//! What all changes have in common: send the command, say what it did, the revision and how to undo it, and wait.

use std::time::Duration;

use lb_control::backend::Intent;
use lb_control::command::Command;
use lb_control::event::Change;
use tokio::time::Instant;

use super::number::{whole, within};
use super::text::{count, share};
use super::{Done, Session};
use crate::api::client::is_in_doubt;
use crate::api::envelope::Envelope;
use crate::api::views::{BackendView, CommandView, ListView};
use crate::problem::{Code, Exit, Problem};

/// Between two looks while waiting.
const POLL: Duration = Duration::from_millis(200);

/// Flags of every change.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Flags {
    /// Only say what it would do.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Why, for whoever reads the history.
    #[arg(short = 'm', long, value_name = "WHY")]
    pub(super) reason: Option<String>,
    /// Only if what it changes was last changed by this revision; 0: only if there is no such thing yet.
    #[arg(long, value_name = "REVISION", allow_negative_numbers = true, value_parser = whole::<u64>("from 0 on"))]
    pub(super) if_match: Option<u64>,
    /// Idempotency key: a command that is repeated with its key is applied once. A new one unless named.
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
}

/// Flags of a change whose effect takes time.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Wait {
    /// Wait until it has taken effect: a backend serves, or a drained one has no flows left.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, seconds; exit status 5 after that.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, allow_negative_numbers = true, value_parser = within::<0, 31_536_000>)]
    timeout_s: u32,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// It has slots: new flows go there.
    Serves,
    /// It takes no new flows and no flow is left.
    Drained,
}

impl Session<'_> {
    /// Sends a command and tells what came of it.
    pub(super) async fn change(&mut self, command: &Command, flags: Flags) -> Done {
        let answer = self.send("/v1/commands", command, &flags).await?;
        self.tell(&answer)
    }

    /// Sends what changes something, in its envelope.
    pub(super) async fn send(
        &mut self,
        path: &str,
        body: &impl serde::Serialize,
        flags: &Flags,
    ) -> Result<CommandView, Problem> {
        let made = || (!flags.dry_run).then(|| uuid::Uuid::now_v7().to_string());
        let key = flags.key.clone().or_else(made);
        // What stands around a command is looked at in a dry run, too: what that says holds for the command.
        let envelope = Envelope {
            key: key.clone(),
            if_match: flags.if_match,
            reason: flags.reason.clone(),
            ..Envelope::default()
        };
        let path = if flags.dry_run { format!("{path}?dry_run=true") } else { path.to_owned() };
        let (client, out) = (self.client.clone(), &mut self.out);
        let answer = client.send_in(&path, &envelope, body, |text| out.say(text)).await;
        answer.map_err(|problem| match key {
            Some(key) if is_in_doubt(&problem) => problem.with_help(format!(
                "Repeat the command with --key {key}: it is applied once, whatever became of it."
            )),
            _ => problem,
        })
    }

    /// The same, and then waits if asked to.
    pub(super) async fn change_and_wait(
        &mut self,
        command: &Command,
        flags: Flags,
        wait: Wait,
        backend: (&str, &str),
        until: Until,
    ) -> Done {
        let dry_run = flags.dry_run;
        let done = self.change(command, flags).await?;
        if !wait.wait || dry_run {
            return Ok(done);
        }
        self.wait_for(backend, until, Duration::from_secs(u64::from(wait.timeout_s))).await?;
        // Who serves is in the maps by now; one that has no flows need not be.
        Ok(done.filter(|_| until == Until::Drained))
    }

    /// Tells what a change did, or would do.
    pub(super) fn tell(&mut self, answer: &CommandView) -> Done {
        if self.out.json {
            self.out.value(answer)?;
        } else {
            self.tell_people(answer);
        }
        Ok((!answer.dry_run && !answer.applied).then_some(Exit::Error))
    }

    fn tell_people(&mut self, answer: &CommandView) {
        for line in &answer.effects.lines {
            let verb = match (answer.dry_run, line.change.as_str()) {
                (false, verb) => verb.to_owned(),
                (true, verb) => format!("would be {verb}"),
            };
            let text = if line.text.is_empty() { String::new() } else { format!(": {}", line.text) };
            self.out.line(&format!("{} {verb}{text}", line.object));
        }
        for moved in &answer.effects.slots {
            let verb = if answer.dry_run { "would move" } else { "move" };
            self.out.line(&format!(
                "{} of {} slots of vip {} {verb} ({}){}; flows that began before stay where they are",
                count(u64::from(moved.moved)),
                count(u64::from(moved.slots)),
                moved.vip,
                share(moved.share),
                once_they_serve(answer, &moved.vip)
            ));
        }
        if answer.effects.lines.is_empty() {
            self.out.line("nothing to change");
        }
        if answer.dry_run {
            self.out.line("dry run: nothing was changed");
            return;
        }
        self.out.line(&format!("revision {}", answer.revision));
        if !answer.undo.is_empty() {
            self.out.line(&format!("undo: {}", answer.undo.join("; ")));
        }
        if !answer.applied {
            self.out.warn("accepted and durable, but not in the maps yet; the daemon goes on trying");
            for problem in &answer.pending {
                self.out.problem(problem);
            }
        }
    }

    /// Polls until a backend is as wished, with a line of talk whenever something changed.
    async fn wait_for(
        &mut self,
        (vip, name): (&str, &str),
        until: Until,
        timeout: Duration,
    ) -> Result<(), Problem> {
        let deadline = Instant::now() + timeout;
        let mut said = String::new();
        loop {
            let list: ListView<BackendView> = self.client.read("/v1/views/backends").await?;
            let found = list.items.into_iter().find(|backend| backend.vip == vip && backend.name == name);
            let Some(backend) = found else {
                let text = format!("backend `{vip}/{name}` was removed meanwhile");
                return Err(Problem::new(Code::UnknownBackend, text));
            };
            if is_so(&backend, until) {
                self.out.say(&format!(
                    "backend {vip}/{name} {}",
                    if until == Until::Serves { "serves" } else { "is drained" }
                ));
                return Ok(());
            }
            let progress = progress(&backend, until);
            if progress != said {
                self.out.say(&progress);
                said = progress;
            }
            if Instant::now() + POLL > deadline {
                let verb = if until == Until::Serves { "does not serve" } else { "is not drained" };
                // People have been told what is in the way.
                let why = if self.out.json { format!(": {said}") } else { String::new() };
                let text = format!("backend {vip}/{name} {verb} after {} s{why}", timeout.as_secs());
                return Err(Problem::new(Code::WaitTimeout, text));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Where all that moves goes to new backends: each takes its slots only once there is a way to it and its probe passes, which
/// nobody knows yet. Where something else of the vip changes too, slots move at once.
fn once_they_serve(answer: &CommandView, vip: &str) -> String {
    let (mut new, mut others) = (Vec::new(), false);
    for change in answer.events.iter().map(|event| &event.change).filter(|change| change.vip() == Some(vip)) {
        match change {
            Change::BackendAdded { backend, intent: Intent::Enabled, weight: 1.., backup: false, .. } => {
                new.push(backend)
            }
            // It takes none.
            Change::BackendAdded { .. } => {}
            _ => others = true,
        }
    }
    match new[..] {
        _ if others => String::new(),
        [] => String::new(),
        [one] => format!(" once backend {vip}/{one} serves"),
        ref many => format!(" once the {} new backends serve", many.len()),
    }
}

fn is_so(backend: &BackendView, until: Until) -> bool {
    match until {
        Until::Serves => backend.share > 0.0 && backend.way.known,
        Until::Drained => backend.drained,
    }
}

fn progress(backend: &BackendView, until: Until) -> String {
    let name = format!("backend {}/{}", backend.vip, backend.name);
    match until {
        Until::Serves => {
            let way = backend.way.why_not.as_ref().map_or_else(String::new, |why| format!("; no way: {why}"));
            format!("{name} does not serve yet: {}{way}", backend.why)
        }
        Until::Drained => format!(
            "{name} still has {} tracked flows and {} slots within their window",
            count(backend.tracked_flows),
            count(u64::from(backend.former_slots))
        ),
    }
}
