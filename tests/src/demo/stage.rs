//! The stage: the network, the balancer on it, and what can be done to both while requests run.
//!
//! Whatever has a command is done by the real `lb`; only death and power are done behind its back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_userspace::api::views::{BackendView, ListView, StatusView, TenantView};

use super::account::{Death, Kill};
use super::board::{Board, Wish};
use super::cast::{Mode, NOISY, SERVED, TENANT, document, noisy};
use super::load::CLIENTS;
use super::observer::rows;
use crate::balancer::Balancer;
use crate::sweep::PinDir;
use crate::topology::{BackendSetup, Topology, vip};
use crate::traffic::Flood;
use crate::wait::{wait_for, wait_until};

/// Backends at the beginning.
const BACKENDS: usize = 3;
/// Longest wait until every backend serves.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Longest wait for the trial of a backend that answers again: the backoff of its breaker is in it.
const TRIAL_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for deaths to be seen before the daemon is killed, which would blind it.
const SEEN_DEADLINE: Duration = Duration::from_secs(10);
/// What the flooding tenant sends, and what it may, packets/s. Easy for two cores: what is shown is who loses packets.
const FLOOD_PPS: u32 = 20_000;
const FLOOD_LIMIT_PPS: u32 = 1_000;
/// How long it floods at least: figures are of the last second or two.
const FLOOD_LASTS: Duration = Duration::from_secs(2);
/// Longest wait until the flood's drops are in the figures, which are of the last second.
const FLOOD_DEADLINE: Duration = Duration::from_secs(10);
/// What a daemon says that took over a running data plane.
const ADOPTED: &str = "adopted the data plane that runs";

/// The stage. Dropping it removes everything.
#[derive(Debug)]
pub struct Stage {
    // The balancer detaches before its node goes.
    balancer: Balancer,
    /// Pins of `lb decap`, one directory for each backend that has it.
    decaps: Vec<PinDir>,
    net: Topology,
    board: Board,
    mode: Mode,
}

impl Stage {
    /// Builds everything; returns when every backend serves.
    ///
    /// # Errors
    /// When a tool is missing, `lb` was not built, or something does not come up.
    pub fn build(mode: Mode, board: &Board) -> Result<Self> {
        let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
        let net = Topology::builder().clients(CLIENTS).backends(BACKENDS).vips(2).setup(setup).build()?;
        let balancer = Balancer::start(&net)?;
        let mut stage = Self { balancer, decaps: Vec::new(), net, board: board.clone(), mode };
        (0..BACKENDS).try_for_each(|index| stage.welcome(index))?;
        stage.balancer.lb(&format!("attach {} --mode native", stage.net.node().uplink()))?;
        let file = stage.net.dir().join("demo.toml");
        std::fs::write(&file, document(mode, stage.net.backends())).context("write demo.toml")?;
        stage.balancer.lb(&format!("apply -f {}", file.display()))?;
        stage.wait_ready().with_context(|| stage.balancer.lb("status").unwrap_or_default())?;
        Ok(stage)
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &Topology {
        &self.net
    }

    /// The balancer.
    #[must_use]
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// Sets a backend up as its mode needs it.
    fn welcome(&mut self, index: usize) -> Result<()> {
        let backend = &self.net.backends()[index];
        self.board.lock().alive.insert(backend.name().to_owned(), true);
        if self.mode != Mode::Ipip {
            return Ok(());
        }
        let pins = PinDir::claim()?;
        let mut command = self.balancer.command();
        command.args(["decap", "--dev", backend.device(), "--pin-dir"]).arg(pins.path());
        for peer in self.net.node().addresses.both() {
            command.args(["--peer", &peer.to_string()]);
        }
        for vip in [vip(0), vip(1)].iter().flat_map(|pair| pair.both()) {
            command.args(["--vip", &vip.to_string()]);
        }
        self.decaps.push(pins);
        let output = backend.ns.output(&mut command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "lb decap on {}: {}", backend.name(), said.trim());
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let serves = || {
            let status =
                self.balancer.view::<lb_userspace::api::views::StatusView>("/v1/views/status").ok()?;
            let all = self.net.backends().iter().all(|backend| {
                let name = backend.name();
                rows(&status, name).count() == SERVED.len()
                    && rows(&status, name).all(|row| row.share > 0.0 && row.way.known)
            });
            all.then_some(status)
        };
        let (status, _) = wait_for("every backend serving", READY_DEADLINE, serves)?;
        self.board.lock().status = Some(status);
        Ok(())
    }

    /// Kills a backend's processes by SIGKILL.
    pub(super) fn kill(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.is_gone(name, Death::Killed);
        self.net.backend_mut(index).kill();
        self.board.say(format!("{name}: its processes were killed by SIGKILL"));
        Ok(())
    }

    /// Starts a killed backend's processes again.
    pub(super) fn revive(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.net.backend_mut(index).start()?;
        self.is_back(name);
        self.board.say(format!("{name}: its processes run again"));
        Ok(())
    }

    fn is_gone(&self, name: &str, death: Death) {
        let mut known = self.board.lock();
        known.kills.push(Kill::now(name, death));
        known.alive.insert(name.to_owned(), false);
    }

    fn is_back(&self, name: &str) {
        let mut known = self.board.lock();
        for kill in known.kills.iter_mut().filter(|kill| kill.backend == name) {
            kill.back.get_or_insert_with(std::time::Instant::now);
        }
        known.alive.insert(name.to_owned(), true);
        known.arrivals.insert(name.to_owned(), Wish::now());
    }

    /// Hangs a backend's processes by SIGSTOP until its breaker is open in every vip; then lets them go on, and shows how it
    /// is tried.
    pub(super) fn hang(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.is_gone(name, Death::Hung);
        self.net.backend_mut(index).pause()?;
        self.board
            .say(format!("{name}: its processes hang (SIGSTOP); its kernel goes on taking connections"));
        let out = || {
            let known = self.board.lock();
            let is_open = |row: &BackendView| row.breaker.as_deref() == Some("open");
            let status = known.status.as_ref();
            known.kills.last().is_some_and(|kill| kill.moved.len() == SERVED.len())
                && status.is_some_and(|status| rows(status, name).all(is_open))
        };
        let noticed = wait_until("the balancer noticing the hang", SEEN_DEADLINE, out);
        // Whatever was noticed: nobody could kill or revive what hangs.
        self.net.backend_mut(index).resume()?;
        self.is_back(name);
        noticed?;
        self.board.say(format!("{name}: its processes go on; its breakers are open"));
        // A trial may be over within a second: it is looked for where looking costs least.
        let on_trial = || {
            let status = self.balancer.view::<StatusView>("/v1/views/status").ok()?;
            let is_tried =
                |row: &BackendView| row.vip == SERVED[0].name && row.breaker.as_deref() == Some("half-open");
            rows(&status, name).any(is_tried).then_some(())
        };
        wait_for("its trial", TRIAL_DEADLINE, on_trial)?;
        self.tell_lines(&format!("breaker show {}", SERVED[0].name))
    }

    /// Drains a backend in every vip.
    pub(super) fn drain(&mut self, name: &str) -> Result<()> {
        self.index(name)?;
        self.board.lock().drains.insert(name.to_owned(), Wish::now());
        let line = self.in_every_vip("backend drain", name)?;
        self.board.say(line);
        Ok(())
    }

    /// Enables a drained backend in every vip.
    pub(super) fn enable(&mut self, name: &str) -> Result<()> {
        self.index(name)?;
        let line = self.in_every_vip("backend enable", name)?;
        let mut known = self.board.lock();
        known.drains.remove(name);
        known.arrivals.insert(name.to_owned(), Wish::now());
        drop(known);
        self.board.say(line);
        Ok(())
    }

    /// Adds a backend to the network and to every vip.
    pub(super) fn add(&mut self) -> Result<()> {
        let backend = self.net.add_backend()?;
        let (index, name) = (backend.index(), backend.name().to_owned());
        self.welcome(index)?;
        self.board.lock().arrivals.insert(name.clone(), Wish::now());
        let mut first = String::new();
        for served in SERVED {
            let address = served.backend_address(&self.net.backends()[index]);
            let line = format!("backend add {}/{name} {address}", served.name);
            self.balancer.lb(&line)?;
            if first.is_empty() {
                first = line;
            }
        }
        self.board.say(format!("`lb {first}`, and in the other {} vips", SERVED.len() - 1));
        Ok(())
    }

    /// Kills the daemon by SIGKILL and starts another one `pause` later.
    pub(super) fn restart_daemon(&mut self, pause: impl FnOnce()) -> Result<()> {
        let all_seen = || {
            let known = self.board.lock();
            known.kills.iter().all(|kill| kill.back.is_some() || kill.moved.len() == SERVED.len())
        };
        wait_until("the balancer noticing the dead", SEEN_DEADLINE, all_seen)?;
        let (died, former) = (Wish::now(), self.balancer.pid().unwrap_or_default());
        self.balancer.kill();
        self.board.lock().is_daemon_up = false;
        self.board.say(format!("lb serve (process {former}) was killed by SIGKILL; packets go on"));
        pause();
        let before = self.balancer.log().matches(ADOPTED).count();
        self.balancer.restart(&self.net)?;
        let wish = Wish { seen: Some(std::time::Instant::now()), ..died };
        self.board.lock().restarts.push(wish);
        let (pid, seconds) =
            (self.balancer.pid().unwrap_or_default(), wish.took().unwrap_or_default().as_secs_f64());
        if self.balancer.log().matches(ADOPTED).count() > before {
            self.board.say(format!("a new lb serve ({pid}) {ADOPTED}; away for {seconds:.1} s"));
        } else {
            self.board.complain("the new lb serve did not adopt the data plane that ran");
        }
        Ok(())
    }

    /// Somebody takes a backend's weight away in every vip; the history says who, and a rollback brings all of it back.
    pub(super) fn travel_back(&mut self, name: &str) -> Result<()> {
        self.index(name)?;
        let slip = Wish::now();
        let before: StatusView = self.balancer.view("/v1/views/status")?;
        for served in SERVED {
            let target = format!("{}/{name}", served.name);
            let words = ["backend", "weight", &target, "0", "-m", "a slip of the hand"];
            let answer = self.balancer.try_lb(&words)?;
            ensure!(answer.is_success(), "lb {}: {}", words.join(" "), answer.stderr.trim());
        }
        self.board.say(format!("{name} has weight 0 in every vip, by a slip of the hand: who did that?"));
        self.tell_lines(&format!("blame backend {}/{name} weight", SERVED[0].name))?;
        let back = format!("rollback --to {}", before.revision);
        self.balancer.lb(&back)?;
        let differs = self.balancer.lb(&format!("diff --from {} --to now --json", before.revision))?;
        let differs: serde_json::Value = serde_json::from_str(&differs)?;
        ensure!(differs["items"].as_array().is_some_and(Vec::is_empty), "not all is back: {differs}");
        self.board.lock().rollbacks.push(Wish { seen: Some(std::time::Instant::now()), ..slip });
        self.board.say(format!("`lb {back}`: all is as it was, and the history has both"));
        self.tell_lines(&format!("history backend {}/{name} --since {}", SERVED[0].name, before.revision))
    }

    /// Another tenant floods its vip, and its limit meets it; nobody else's packets are dropped.
    pub(super) fn flood(&mut self) -> Result<()> {
        self.make_noisy()?;
        let before = self.dropped_of(TENANT)?;
        let client = self.net.clients().last().context("a client")?;
        let flood = Flood::new(noisy()).rate_pps(FLOOD_PPS).start(&client.ns)?;
        self.board.say(format!("tenant {NOISY} floods its vip, and may have {FLOOD_LIMIT_PPS} packets/s"));
        let begun = std::time::Instant::now();
        let met = || {
            let noisy = self.tenant(NOISY).ok()?;
            (begun.elapsed() >= FLOOD_LASTS && dropping_pps(&noisy) > 0.0).then_some(noisy)
        };
        let (noisy, _) = wait_for("the limit to meet the flood", FLOOD_DEADLINE, met)?;
        self.tell_lines("tenant top --once")?;
        let sent = flood.finish()?;
        let dropped = self.dropped_of(TENANT)? - before;
        if dropped > 0 {
            self.board
                .complain(format!("{dropped} packets of tenant {TENANT} were dropped beside the flood"));
        }
        self.board.lock().floods.push(dropping_pps(&noisy));
        self.board
            .say(format!("the flood is over, {sent} datagrams; tenant {TENANT} lost {dropped} packets"));
        Ok(())
    }

    /// Makes the flooding tenant with its vip, at the first backend, unless it is there.
    fn make_noisy(&self) -> Result<()> {
        if self.tenant(NOISY).is_ok() {
            return Ok(());
        }
        let (at, mode) = (noisy(), self.mode.word());
        let address = self.net.backends()[0].addresses().v4;
        self.balancer.lb(&format!("tenant add {NOISY} --packets-per-s {FLOOD_LIMIT_PPS}"))?;
        self.balancer.lb(&format!("vip add {NOISY} {at}/udp --tenant {NOISY} --mode {mode}"))?;
        self.balancer.lb(&format!("backend add {NOISY}/echo {address}")).map(drop)
    }

    fn tenant(&self, name: &str) -> Result<TenantView> {
        let list: ListView<TenantView> = self.balancer.view("/v1/views/tenants")?;
        list.items.into_iter().find(|one| one.name == name).with_context(|| format!("no tenant {name}"))
    }

    /// Packets of a tenant that its limits dropped so far.
    fn dropped_of(&self, name: &str) -> Result<u64> {
        let usage = self.tenant(name)?.usage.with_context(|| format!("tenant {name} has no figures"))?;
        Ok(usage.drops.iter().map(|drop| drop.traffic.packets).sum())
    }

    /// Shows what `lb` prints, line by line.
    fn tell_lines(&self, line: &str) -> Result<()> {
        self.tell_text(line, &self.balancer.lb(line)?);
        Ok(())
    }

    fn tell_text(&self, line: &str, text: &str) {
        self.board.say(format!("`lb {line}`"));
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.for_each(|line| self.board.say(format!("  {line}")));
    }

    /// Does the same to a backend in every vip; returns what was done, in words.
    fn in_every_vip(&self, verb: &str, name: &str) -> Result<String> {
        for served in SERVED {
            self.balancer.lb(&format!("{verb} {}/{name}", served.name))?;
        }
        Ok(format!("`lb {verb} {}/{name}`, and in the other {} vips", SERVED[0].name, SERVED.len() - 1))
    }

    fn index(&self, name: &str) -> Result<usize> {
        let found = self.net.backends().iter().position(|backend| backend.name() == name);
        found.with_context(|| format!("no backend {name}"))
    }
}

/// Packets a second that a tenant's limits drop now.
fn dropping_pps(tenant: &TenantView) -> f64 {
    tenant.usage.iter().flat_map(|usage| &usage.drops).map(|drop| drop.traffic.rate_pps).sum()
}
