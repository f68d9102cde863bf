//! How many commands a second each tenant and each actor may send: decided here, before the writer, so that whoever
//! hammers costs an answer and not a place in the writer's queue.
//!
//! A command counts for the actor who sends it and for every tenant whose vips it touches. Changes of a tenant itself do
//! not count for it: its limits can be raised however much it hammers. A whole document counts once for each tenant
//! that it names. One that comes back with its key, because its sender does not know what became of it, does not count
//! again: it may be in force, and is not to be told otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lb_control::command::Command;
use lb_control::state::State;
use lb_control::tenant::Limit;

use super::client::ATTEMPTS;
use crate::engine::Request;
use crate::problem::{Code, Problem};

/// Commands that may come at once, as time of the rate.
const BURST: Duration = Duration::from_secs(1);
/// Meters that are kept before the idle ones go: more actors than a machine has people.
const METERS_MAX: usize = 4_096;
/// Counted keys that are kept: those of a minute in which many commands come.
const KEYS_MAX: usize = 4_096;

/// Whose commands are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sender {
    Actor(String),
    Tenant(String),
}

/// The meters. An actor's rate is the daemon's setting, a tenant's is its own limit.
#[derive(Debug, Default)]
pub struct CommandRates {
    /// Commands a second of one actor; `None` = as many as the writer takes.
    per_actor: Option<u32>,
    meters: Mutex<Meters>,
}

#[derive(Debug, Default)]
struct Meters {
    /// Until when the rate of each is used up.
    due: BTreeMap<Sender, Instant>,
    counted: Counted,
}

/// An actor and a key of his.
type Pair = (String, String);

/// Commands with a key that were counted, and how often each may come again for nothing: as often as `lb` asks by itself,
/// so that a key is no way around the rate.
#[derive(Debug, Default)]
struct Counted {
    left: BTreeMap<Pair, u32>,
    order: VecDeque<Pair>,
}

impl Counted {
    fn add(&mut self, pair: Pair) {
        if self.left.insert(pair.clone(), ATTEMPTS - 1).is_none() {
            self.order.push_back(pair);
        }
        if self.order.len() > KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.left.remove(&oldest);
        }
    }

    /// Whether it comes again for nothing.
    fn again(&mut self, pair: &Pair) -> bool {
        let left = self.left.get_mut(pair).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }
}

impl CommandRates {
    /// Meters with this rate for each actor.
    pub fn new(per_actor: Option<u32>) -> Self {
        Self { per_actor, meters: Mutex::default() }
    }

    /// Counts a command that comes now.
    ///
    /// # Errors
    /// It is one too many for its actor or one of its tenants; nothing is counted then.
    pub(super) fn admit(&self, state: &State, request: &Request, now: Instant) -> Result<(), Problem> {
        let Request { command, actor, key, .. } = request;
        let rate = |tenant: &str| state.tenants.get(tenant)?.limits.of(Limit::CommandsPerS);
        let tenants = tenants(state, command).into_iter();
        let tenants = tenants.filter_map(|tenant| Some((Sender::Tenant(tenant.to_owned()), rate(tenant)?)));
        let of_actor = self.per_actor.map(|rate| (Sender::Actor(actor.clone()), rate.into()));
        let senders: Vec<(Sender, u64)> = of_actor.into_iter().chain(tenants).collect();
        if senders.is_empty() {
            return Ok(());
        }
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let Meters { due, counted } = &mut *meters;
        let pair = key.as_ref().map(|key| (actor.clone(), key.clone()));
        if pair.as_ref().is_some_and(|pair| counted.again(pair)) {
            return Ok(());
        }
        if due.len() >= METERS_MAX {
            due.retain(|_, due| *due > now);
        }
        let mut next = Vec::new();
        for (sender, rate) in senders {
            let step = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX);
            let after = due.get(&sender).copied().map_or(now, |due| due.max(now)) + step;
            // A rate below one a second lets a single command through all the same.
            let early = after.saturating_duration_since(now + BURST.max(step));
            if !early.is_zero() {
                return Err(too_many(&sender, rate, early));
            }
            next.push((sender, after));
        }
        due.extend(next);
        if let Some(pair) = pair {
            counted.add(pair);
        }
        Ok(())
    }
}

fn too_many(sender: &Sender, rate: u64, early: Duration) -> Problem {
    let who = match sender {
        Sender::Actor(name) => format!("{name} may send"),
        Sender::Tenant(name) => format!("tenant `{name}` may get"),
    };
    let mut problem = Problem::new(Code::CommandRate, format!("{who} {rate} commands a second"));
    problem.retry_after_ms = Some(u64::try_from(early.as_millis()).unwrap_or(u64::MAX).max(1));
    problem
}

/// The tenants whose vips a command touches.
fn tenants<'a>(state: &'a State, command: &'a Command) -> BTreeSet<&'a str> {
    let of_vip = |vip: &str| state.vips.get(vip).map(|vip| vip.tenant.as_str());
    match command {
        Command::TenantAdd(_) | Command::TenantSet(_) | Command::TenantRemove(_) | Command::BypassSet(_) => {
            BTreeSet::new()
        }
        Command::VipAdd(spec) => [spec.tenant.as_str()].into(),
        Command::VipSet(set) => of_vip(&set.name).into_iter().collect(),
        Command::VipRemove(remove) => of_vip(&remove.name).into_iter().collect(),
        Command::BackendAdd(add) => of_vip(&add.vip).into_iter().collect(),
        Command::BackendSet(set) => of_vip(&set.vip).into_iter().collect(),
        Command::BreakerTrip(trip) => of_vip(&trip.vip).into_iter().collect(),
        Command::BreakerReset(reset) => of_vip(&reset.vip).into_iter().collect(),
        Command::BackendRemove(remove) => of_vip(&remove.vip).into_iter().collect(),
        Command::Apply(apply) => apply.document.vips.iter().map(|spec| spec.tenant.as_str()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::decide::{Now, rehearse};
    use lb_control::limits::Limits;

    fn command(json: &str) -> Command {
        serde_json::from_str(json).unwrap()
    }

    fn from(actor: &str, command: &Command) -> Request {
        Request::new(command.clone(), actor)
    }

    /// Tenant `red` with vip `web` and 5 commands a second, and tenant `blue` with vip `dns`.
    fn state() -> State {
        let mut state = State::default();
        for json in [
            r#"{"kind":"tenant_add","name":"red","commands_per_s":5}"#,
            r#"{"kind":"tenant_add","name":"blue"}"#,
            r#"{"kind":"vip_add","name":"web","tenant":"red","address":"203.0.113.1","port":80}"#,
            r#"{"kind":"vip_add","name":"dns","tenant":"blue","address":"203.0.113.2","port":53}"#,
        ] {
            state = rehearse(&state, &Limits::default(), Now(0), &command(json)).unwrap().after;
        }
        state
    }

    #[test]
    fn a_tenant_gets_its_rate_and_others_are_not_asked() {
        let (state, rates, start) = (state(), CommandRates::default(), Instant::now());
        let (red, blue) =
            (command(r#"{"kind":"vip_set","name":"web"}"#), command(r#"{"kind":"vip_set","name":"dns"}"#));
        let raise = command(r#"{"kind":"tenant_set","name":"red","commands_per_s":9}"#);
        let mut accepted = 0;
        for ms in 0..10_000_u64 {
            let now = start + Duration::from_millis(ms);
            match rates.admit(&state, &from("root", &red), now) {
                Ok(()) => accepted += 1,
                Err(problem) => {
                    assert!(problem.is(Code::CommandRate), "{problem}");
                    let wait = Duration::from_millis(problem.retry_after_ms.unwrap());
                    assert!(wait <= Duration::from_millis(201), "{wait:?}");
                }
            }
            rates.admit(&state, &from("root", &blue), now).unwrap();
            rates.admit(&state, &from("root", &raise), now).unwrap();
        }
        // A second's worth at once, then the rate.
        assert!((54..=56).contains(&accepted), "{accepted}");
    }

    #[test]
    fn what_is_refused_counts_for_nobody_and_after_the_wait_it_is_accepted() {
        let (state, rates, now) = (state(), CommandRates::new(Some(6)), Instant::now());
        let red = command(r#"{"kind":"vip_remove","name":"web"}"#);
        for _ in 0..5 {
            rates.admit(&state, &from("ann", &red), now).unwrap();
        }
        let refused = rates.admit(&state, &from("ann", &red), now).unwrap_err();
        assert_eq!(refused.message, "tenant `red` may get 5 commands a second");
        // Ann's sixth is still there.
        let bypass = command(r#"{"kind":"bypass_set","on":true}"#);
        rates.admit(&state, &from("ann", &bypass), now).unwrap();
        let refused_ann = rates.admit(&state, &from("ann", &bypass), now).unwrap_err();
        assert_eq!(refused_ann.message, "ann may send 6 commands a second");
        rates.admit(&state, &from("bob", &bypass), now).unwrap();
        let later = now + Duration::from_millis(refused.retry_after_ms.unwrap());
        rates.admit(&state, &from("bob", &red), later).unwrap();
    }

    #[test]
    fn what_comes_again_with_its_key_counts_once_and_no_key_is_a_way_around() {
        let (state, rates, now) = (state(), CommandRates::new(Some(2)), Instant::now());
        let bypass = command(r#"{"kind":"bypass_set","on":true}"#);
        let keyed = |actor: &str, key: &str| Request { key: Some(key.to_owned()), ..from(actor, &bypass) };
        rates.admit(&state, &keyed("ann", "one"), now).unwrap();
        rates.admit(&state, &keyed("ann", "two"), now).unwrap();
        assert!(rates.admit(&state, &keyed("ann", "three"), now).unwrap_err().is(Code::CommandRate));
        for _ in 1..ATTEMPTS {
            rates.admit(&state, &keyed("ann", "one"), now).unwrap();
        }
        assert!(rates.admit(&state, &keyed("ann", "one"), now).is_err(), "it is not for nothing for ever");
        assert!(rates.admit(&state, &keyed("ann", "three"), now).is_err(), "it was never counted");
        let (bob, key) = ("bob", "one");
        rates.admit(&state, &keyed(bob, key), now).unwrap();
        for number in 0..KEYS_MAX {
            rates.admit(&state, &keyed("eve", &number.to_string()), now + BURST * number as u32).unwrap();
        }
        let meters = rates.meters.lock().unwrap();
        assert_eq!((meters.counted.order.len(), meters.counted.left.len()), (KEYS_MAX, KEYS_MAX));
    }

    #[test]
    fn a_document_counts_for_each_tenant_that_it_names() {
        let state = state();
        let document = command(
            r#"{"kind":"apply","document":{"vip":[
                {"name":"a","tenant":"red","address":"203.0.113.5","port":1},
                {"name":"b","tenant":"blue","address":"203.0.113.6","port":1},
                {"name":"c","tenant":"red","address":"203.0.113.7","port":1}]}}"#,
        );
        assert_eq!(tenants(&state, &document), BTreeSet::from(["blue", "red"]));
    }
}
