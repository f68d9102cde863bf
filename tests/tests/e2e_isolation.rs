//! One tenant cannot sink another. Tenant red floods its vip with all that the generator can do, has 10,000 dead
//! backends whose probes time out, and hammers the API. What tenant blue gets beside it (requests, commands, probes of
//! its backends) is compared with what it gets while the same flood runs into a program that only drops. Then the same
//! without red's limits, where the comparison must fail: else it would prove nothing.
//!
//! Senders, node and backends share this machine. So whoever plays another machine's attack takes only time that is left
//! over ([`Flood`]), and who plays blue's own machines comes first, in both arms alike; what is judged is a ratio of medians
//! over rounds that alternate.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_control::command::{BackendSpec, Document, VipSpec};
use lb_control::health::Health;
use lb_control::probe::ProbeWish;
use lb_control::vip::{Mode, Protocol};
use lb_tests::netns::{Hook, Namespace};
use lb_tests::require_root;
use lb_tests::site::Site;
use lb_tests::topology::{Backend, BackendSetup, Layout, Topology};
use lb_tests::traffic::Flood;
use lb_tests::traffic::priority::{come_first, yield_to_others};
use lb_tests::wait::wait_until;
use lb_userspace::api::client::Client;
use lb_userspace::api::views::{CommandView, ListView, TenantView};

const SECOND: Duration = Duration::from_secs(1);
/// Port of blue's vip.
const BLUE_PORT: u16 = 7_777;
/// Port of red's vip.
const RED_PORT: u16 = 6_666;
/// Port where blue's backends are probed, by a datagram that comes back.
const BELL_PORT: u16 = 8_888;
/// Port where backends answer.
const ANSWER_PORT: u16 = 7_778;
/// Between two probes of one of blue's backends, milliseconds.
const PROBE_MS: u64 = 100;
/// Red's backends that nobody answers for.
const DEAD: u32 = 10_000;
/// Red's limits, where it has any.
const LIMITS: [(&str, u32); 4] =
    [("packets-per-s", 2_000), ("connections", 2_000), ("commands-per-s", 10), ("probe-workers", 64)];
/// How long a round measures.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds of each kind.
const ROUNDS: usize = 5;
/// How often the comparison may be made, until it holds.
const ATTEMPTS: usize = 3;
/// `return XDP_DROP` in the kernel's encoding.
const XDP_DROP: [u64; 2] = [1 << 32 | 0xb7, 0x95];
/// Threads that send commands for red.
const HAMMERS: usize = 16;
/// Where red's packets come in.
const RED_DEVICE: &str = "eth1";

/// How much of red is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Red {
    Out,
    Limited,
    Unlimited,
}

/// What blue got in a round, or the medians of several.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Of its requests to its vip, milliseconds.
    p99_ms: f64,
    /// Median of its commands, milliseconds.
    command_ms: f64,
    /// Mean time between two probes of one of its backends, milliseconds.
    probe_ms: f64,
    /// Requests that were not answered.
    lost: usize,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Round {
    fn medians(rounds: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(rounds.iter().map(value).collect());
        Self {
            p99_ms: of(|round| round.p99_ms),
            command_ms: of(|round| round.command_ms),
            probe_ms: of(|round| round.probe_ms),
            lost: rounds.iter().map(|round| round.lost).sum(),
        }
    }

    /// What of `alone` does not hold here.
    fn complaints(&self, alone: &Self) -> Vec<String> {
        let ratios = [
            ("requests", self.p99_ms / alone.p99_ms, 0.0..=1.2),
            ("commands", self.command_ms / alone.command_ms, 0.0..=1.5),
            ("probes", self.probe_ms / alone.probe_ms, 0.9..=1.1),
        ];
        println!("{}", ratios.clone().map(|(what, ratio, _)| format!("{what} {ratio:.2}x")).join(", "));
        let mut found: Vec<String> = ratios
            .into_iter()
            .filter(|(_, ratio, bounds)| !bounds.contains(ratio))
            .map(|(what, ratio, bounds)| format!("{what}: {ratio:.2}x, not within {bounds:?}"))
            .collect();
        if self.lost > 0 {
            found.push(format!("{} requests lost", self.lost));
        }
        found
    }
}

/// Two clients, each with its own cable to the node: blue's and red's. Blue's backends are the first two, red's the third.
struct Stage {
    site: Site,
    blue: SocketAddr,
    red: SocketAddr,
    bells: Vec<Bell>,
    _answering: Vec<Bell>,
    /// The program that only drops, while it has the place of the balancer's.
    sink: Option<OwnedFd>,
}

impl Stage {
    fn build() -> Result<Self> {
        let topology = Topology::builder().layout(Layout::Direct).setup(BackendSetup::Plain).clients(2);
        let site = Site::builder(topology, Mode::Nat).kinds(&[]).start()?;
        let vip = IpAddr::from(lb_tests::topology::vip(0).v4);
        let (blue, red) = (SocketAddr::new(vip, BLUE_PORT), SocketAddr::new(vip, RED_PORT));
        let hang = |backends: &[Backend], port| -> Result<Vec<Bell>> {
            backends.iter().map(|one| Bell::hang(&one.ns, port)).collect()
        };
        let bells = hang(&site.net.backends()[..2], BELL_PORT)?;
        let mut answering = hang(&site.net.backends()[..2], ANSWER_PORT)?;
        answering.push(Bell::muffled(&site.net.backends()[2].ns, ANSWER_PORT)?);
        let lb = &site.lb;
        // Limits that it does not come near: so that it is counted.
        lb.lb("tenant add blue --packets-per-s 1000000")?;
        lb.lb("tenant add red")?;
        lb.lb(&format!(
            "vip add blue {blue}/udp --tenant blue --mode nat --probe udp --probe-port {BELL_PORT} --probe-send ding \
             --probe-interval-ms {PROBE_MS} --probe-timeout-ms {}",
            PROBE_MS - 10
        ))?;
        lb.lb(&format!("vip add red {red}/udp --tenant red --mode nat"))?;
        for (index, vip) in [(0, "blue"), (1, "blue"), (2, "red")] {
            let backend = &site.net.backends()[index];
            let at = SocketAddr::new(backend.addresses().v4.into(), ANSWER_PORT);
            lb.lb(&format!("backend add {vip}/{} {at}", backend.name()))?;
        }
        let node = &site.net.node().ns;
        // Behind a router that takes everything and brings nothing.
        node.ip_batch(
            "link add dead type veth peer name void\nlink set dead up\nlink set void up\n\
             addr add 198.19.0.1/24 dev dead\n\
             neigh add 198.19.0.2 lladdr 02:00:00:00:00:09 nud permanent dev dead\n\
             route add 198.18.0.0/16 via 198.19.0.2\n",
        )?;
        site.apply(&dead(vip))?;
        wait_until("red's dead backends being known as such, and all others served", 40 * SECOND, || {
            let all = site.backends().unwrap_or_default();
            let (dead, others): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.vip == "dead");
            dead.iter().all(|one| one.health == Health::Down) && others.iter().all(|one| one.share > 0.0)
        })?;
        // From here on each of them is to be asked every second, and lets a place wait for half of one.
        lb.lb("vip set dead --probe-interval-ms 1000 --probe-timeout-ms 500")?;
        Ok(Self { site, blue, red, bells, _answering: answering, sink: None })
    }

    /// What of red is there: next to nothing, since its flood meets a program that only drops and one of its backends is
    /// probed at a time; or all of it, with limits or without.
    fn admit(&mut self, red: Red) -> Result<()> {
        let (lb, node) = (&self.site.lb, &self.site.net.node().ns);
        let words = match red {
            Red::Unlimited => LIMITS.map(|(limit, _)| format!("--{limit} unlimited")),
            Red::Limited => LIMITS.map(|(limit, number)| format!("--{limit} {number}")),
            Red::Out => LIMITS.map(|(limit, number)| {
                format!("--{limit} {}", if limit == "probe-workers" { 1 } else { number })
            }),
        };
        lb.lb(&format!("tenant set red {}", words.join(" ")))?;
        match red {
            Red::Out if self.sink.is_none() => {
                lb.lb(&format!("detach {RED_DEVICE}"))?;
                self.sink = Some(node.attach_program(RED_DEVICE, Hook::Xdp, &XDP_DROP)?);
            }
            Red::Limited | Red::Unlimited if self.sink.take().is_some() => {
                lb.lb(&format!("attach {RED_DEVICE} --mode native"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Blue's figures while red's flood runs, with or without red at the API.
    fn round(&self, hammered: bool) -> Result<Round> {
        let flood = Flood::new(self.red).cpus(&[0, 1]).start(&self.site.net.clients()[1].ns)?;
        let hammer = hammered.then(|| Hammer::start(&self.site));
        wait_until("a flood", 30 * SECOND, || flood.sent() > 1_000)?;
        let (before, begun) = (flood.sent(), Instant::now());
        let client = self.site.lb.client();
        let commands = std::thread::spawn(move || commands(&client, ROUND));
        let requests = requests(self.site.client(), self.blue, ROUND);
        let probes = self.bells.iter().map(|bell| bell.mean_ms(begun)).collect::<Result<Vec<_>>>()?;
        let sent = (flood.sent() - before) as f64 / begun.elapsed().as_secs_f64();
        let (mut commands, (mut times, lost)) = (commands.join().unwrap()?, requests?);
        let refused = hammer.map(Hammer::finish);
        flood.finish()?;
        // An attack that did not happen proves nothing.
        ensure!(
            sent > 2_000.0 && refused.is_none_or(|(accepted, refused)| accepted + refused > 10),
            "{sent}, {refused:?}"
        );
        let round = Round {
            p99_ms: percentile(&mut times, 0.99),
            command_ms: percentile(&mut commands, 0.5),
            probe_ms: probes.iter().sum::<f64>() / probes.len() as f64,
            lost,
        };
        let metrics = self.site.lb.metrics()?;
        let pass =
            metrics.lines().filter(|line| line.starts_with("lb_reconcile")).collect::<Vec<_>>().join(" ");
        println!("flood {sent:.0}/s, commands of red (accepted, refused) {refused:?}: {round:?}; {pass}");
        Ok(round)
    }

    /// What blue complains of beside red, limited or not, against what it gets alone: the medians of rounds by turns.
    fn complaints(&mut self, red: Red) -> Result<Vec<String>> {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            self.admit(Red::Out)?;
            alone.push(self.round(false)?);
            self.admit(red)?;
            beside.push(self.round(true)?);
        }
        let (alone, beside) = (Round::medians(&alone), Round::medians(&beside));
        println!("alone {alone:?}\nbeside red, {red:?}: {beside:?}");
        Ok(beside.complaints(&alone))
    }

    /// The same again until it is as it is `wanted`, a few times: what else this machine does shows in the figures of either
    /// side.
    fn until(&mut self, red: Red, wanted: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        for _ in 0..ATTEMPTS {
            complaints = self.complaints(red)?;
            println!("{red:?}: {complaints:?}");
            if wanted(&complaints) {
                break;
            }
        }
        Ok(complaints)
    }

    fn blue_dropped(&self) -> Result<u64> {
        let list: ListView<TenantView> = self.site.lb.view("/v1/views/tenants")?;
        let blue = list.items.iter().find(|one| one.name == "blue").context("blue")?;
        let usage = blue.usage.as_ref().context("blue has no row")?;
        Ok(usage.drops.iter().map(|drop| drop.traffic.packets).sum())
    }
}

/// Red's vip with backends that are not there.
fn dead(address: IpAddr) -> Document {
    let mut vip = VipSpec::new("dead".to_owned(), address, 9, Protocol::Tcp);
    vip.tenant = "red".to_owned();
    vip.mode = Some(Mode::Nat);
    let quick = ProbeWish { retries: Some(0), fall: Some(1), timeout_ms: Some(50), ..ProbeWish::default() };
    vip.probe = Some(ProbeWish { interval_ms: Some(60_000), ..quick });
    let address = |number: u32| IpAddr::from((0xc612_0000 + 256 + number).to_be_bytes());
    vip.backends = (0..DEAD).map(|number| BackendSpec::new(format!("d{number}"), address(number))).collect();
    Document { vips: vec![vip], ..Document::default() }
}

/// Requests of blue's, one after another; their times in milliseconds, and how many were lost.
fn requests(client: &Namespace, vip: SocketAddr, time: Duration) -> Result<(Vec<f64>, usize)> {
    client.run(|| {
        come_first()?;
        let (mut times, mut lost, begun) = (Vec::new(), 0, Instant::now());
        let mut answer = [0; 256];
        while begun.elapsed() < time {
            // A new flow each 20 requests.
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(vip)?;
            socket.set_read_timeout(Some(SECOND / 2))?;
            for number in 0..20_u64 {
                let sent = Instant::now();
                socket.send(&number.to_be_bytes())?;
                match socket.recv(&mut answer) {
                    Ok(_) => times.push(sent.elapsed().as_secs_f64() * 1e3),
                    Err(_) => lost += 1,
                }
                // Its rate: about a thousand a second.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok((times, lost))
    })
}

/// Commands of blue's, forty a second; their times in milliseconds.
fn commands(client: &Client, time: Duration) -> Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut times, begun) = (Vec::new(), Instant::now());
    for number in 0_u64.. {
        if begun.elapsed() >= time {
            break;
        }
        let sent = Instant::now();
        let body = serde_json::json!({"kind": "vip_set", "name": "blue", "window_s": 60 + number % 2});
        let answer = runtime.block_on(client.send::<CommandView>("/v1/commands", &body));
        answer.map_err(|problem| anyhow::anyhow!("a command of blue's was refused: {problem}"))?;
        times.push(sent.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(SECOND / 40);
    }
    Ok(times)
}

fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share) as usize]
}

/// A port of a backend: datagrams that come are answered, and when each came is known. Dropping it ends it.
struct Bell {
    end: Arc<AtomicBool>,
    rung: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<()>>,
}

impl Bell {
    /// One of blue's: it comes first, as a machine of its own would.
    fn hang(backend: &Namespace, port: u16) -> Result<Self> {
        Self::start(backend, port, come_first, true)
    }

    /// Red's: what floods it gets is what is left over, and of no interest.
    fn muffled(backend: &Namespace, port: u16) -> Result<Self> {
        Self::start(backend, port, yield_to_others, false)
    }

    fn start(backend: &Namespace, port: u16, turn: fn() -> Result<()>, notes: bool) -> Result<Self> {
        let socket = backend.run(|| Ok(UdpSocket::bind(("0.0.0.0", port))?))?;
        // So that it sees its end.
        socket.set_read_timeout(Some(SECOND / 10))?;
        let (end, rung) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Instant>>>::default());
        let (told, heard) = (end.clone(), rung.clone());
        let answer = move || {
            turn().unwrap();
            let mut datagram = [0; 256];
            while !told.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
                if notes {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                // A full queue is no reason to stop.
                let _ = socket.send_to(&datagram[..length], from);
            }
        };
        Ok(Self { end, rung, thread: Some(std::thread::spawn(answer)) })
    }

    /// Mean time between two of them since then, milliseconds.
    fn mean_ms(&self, since: Instant) -> Result<f64> {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let rung: Vec<Instant> = rung.iter().copied().filter(|at| *at >= since).collect();
        let (first, last) = rung.first().zip(rung.last()).context("it was not probed")?;
        ensure!(rung.len() > 2, "it was probed {} times", rung.len());
        Ok((*last - *first).as_secs_f64() * 1e3 / (rung.len() - 1) as f64)
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Threads that change red's vip as fast as they are answered.
struct Hammer {
    end: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Hammer {
    fn start(site: &Site) -> Self {
        let (end, accepted, refused) = Default::default();
        let mut hammer = Self { end, accepted, refused, threads: Vec::new() };
        for thread in 0..HAMMERS {
            let (client, end) = (site.lb.client(), hammer.end.clone());
            let (accepted, refused) = (hammer.accepted.clone(), hammer.refused.clone());
            let work = move || {
                yield_to_others().unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                for number in 0_u64.. {
                    if end.load(Ordering::Relaxed) {
                        return;
                    }
                    let window_s = 100 + (number + thread as u64) % 50;
                    let body = serde_json::json!({"kind": "vip_set", "name": "red", "window_s": window_s});
                    let answer = runtime.block_on(client.send::<CommandView>("/v1/commands", &body));
                    let count = if answer.is_ok() { &accepted } else { &refused };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            };
            hammer.threads.push(std::thread::spawn(work));
        }
        hammer
    }

    /// Ends it; commands that were accepted, and refused.
    fn finish(mut self) -> (u64, u64) {
        self.end.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        (self.accepted.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

#[test]
fn a_tenant_that_floods_and_hammers_leaves_another_as_it_was_and_without_limits_it_would_not() {
    require_root!(
        "e2e_isolation::a_tenant_that_floods_and_hammers_leaves_another_as_it_was_and_without_limits_it_would_not",
        "chrt"
    );
    let mut stage = Stage::build().unwrap();
    let complaints = stage.until(Red::Limited, |complaints| complaints.is_empty()).unwrap();
    assert!(complaints.is_empty(), "{complaints:?}");
    assert_eq!(stage.blue_dropped().unwrap(), 0);
    // Of all that suffers without limits, this is what suffers for certain: the others are near their bounds either way.
    let suffers = |complaints: &[String]| complaints.iter().any(|one| one.starts_with("commands: "));
    let without = stage.until(Red::Unlimited, suffers).unwrap();
    assert!(suffers(&without), "without limits blue's commands should have suffered: {without:?}");
}
