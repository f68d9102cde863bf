//! (b) Packets a second through the node, made by live frames, counted at the backends' devices.
//!
//! Everything is done on one CPU: the generator hands over a batch of 64 frames, and before it goes on the kernel
//! takes them through node and backends, where they end. So a second of that CPU is what is shared out, and the
//! number of packets delivered in it says what each cost in all.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::plane::Plane;
use super::programs::{ACK, Load, Programs, SYN};
use super::stage::{Device, Stage};
use super::{Effort, median};
use crate::counters::interface_counters;
use crate::netns::Hook;

/// `return TC_ACT_SHOT` in the kernel's encoding.
const TC_ACT_SHOT: [u64; 2] = [2 << 32 | 0xb7, 0x95];

const LOADS: [(&str, Load); 3] = [
    ("1 flow", Load { flows: 1, in_turn: false, tcp_flags: ACK }),
    ("100,000 flows", Load { flows: 100_000, in_turn: false, tcp_flags: ACK }),
    ("flood", Load { flows: 50_000_000, in_turn: true, tcp_flags: SYN }),
];

/// How the node forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// A program that only redirects, by a device map.
    BareRedirect,
    /// The balancer.
    Balance,
    /// The kernel's routing with a multipath route.
    KernelMultipath,
}

impl Contender {
    /// Its name for people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::BareRedirect => "bare redirect",
            Self::Balance => "Switchyard",
            Self::KernelMultipath => "kernel multipath",
        }
    }
}

const CONTENDERS: [Contender; 3] = [Contender::BareRedirect, Contender::Balance, Contender::KernelMultipath];

/// One contender under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// What came.
    pub load: &'static str,
    /// What forwarded it.
    pub contender: Contender,
    /// Packets that arrived in a second of the CPU's time, median of the rounds.
    pub packets_per_s: f64,
    /// Of what the bare redirect delivered in the same round, median of the rounds.
    pub share: f64,
    /// Packets that arrived, of those sent.
    pub delivered: f64,
}

/// The keys.
pub fn keys(rates: &[Rate]) -> Vec<(&'static str, Option<f64>)> {
    let share = |load: &str| {
        let wanted = |rate: &&Rate| rate.load == load && rate.contender == Contender::Balance;
        rates.iter().find(wanted).map(|rate| rate.share)
    };
    vec![("redirect_share", share(LOADS[0].0)), ("redirect_share_flood", share(LOADS[2].0))]
}

/// Measures everything.
///
/// # Errors
/// When the network or the programs cannot be made.
pub fn run(effort: Effort) -> Result<Vec<Rate>> {
    let mut hall = Hall::open()?;
    let mut rates = Vec::new();
    for (name, load) in LOADS {
        let (rounds, packets) = effort.rate_rounds();
        let mut outcomes: [Vec<Outcome>; CONTENDERS.len()] = Default::default();
        for _ in 0..rounds {
            for (contender, outcomes) in CONTENDERS.into_iter().zip(&mut outcomes) {
                outcomes.push(hall.round(contender, load, packets)?);
            }
        }
        rates.extend(CONTENDERS.into_iter().zip(&outcomes).map(|(contender, own)| {
            let shares = own.iter().zip(&outcomes[0]).map(|(own, bare)| own.rate() / bare.rate());
            let (sent, arrived) = own.iter().fold((0, 0), |(s, a), one| (s + one.sent, a + one.arrived));
            Rate {
                load: name,
                contender,
                packets_per_s: median(&mut own.iter().map(Outcome::rate).collect::<Vec<_>>()),
                share: median(&mut shares.collect::<Vec<_>>()),
                delivered: arrived as f64 / sent as f64,
            }
        }));
    }
    Ok(rates)
}

/// One round.
struct Outcome {
    sent: u64,
    arrived: u64,
    seconds: f64,
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.arrived as f64 / self.seconds
    }
}

/// A network with everything loaded.
struct Hall {
    stage: Stage,
    programs: Programs,
    plane: Plane,
    client: Device,
    entry: Device,
    _sinks: Vec<OwnedFd>,
}

impl Hall {
    /// The sinks are the backends' own kernels: a frame becomes a socket buffer, as it does for a backend that is to
    /// answer it, is counted, and is dropped before its IP layer. (Where they drop it in XDP instead, nothing of a
    /// backend is left and a bare redirect costs 77 ns in all.)
    fn open() -> Result<Self> {
        let stage = Stage::build(false)?;
        stage.introduce()?;
        stage.net.steer_by_kernel(0, &[0, 1, 2, 3])?;
        let plane = stage.plane()?;
        let (client, entry) = (stage.client()?, stage.entry()?);
        let mut programs = Programs::load(&plane, Stage::served(), entry.mac, 1)?;
        let exits: Vec<u32> = stage.exits()?.iter().map(|exit| exit.ifindex).collect();
        stage.net.node().ns.run(|| programs.spread_over(&exits))?;
        let backends = stage.net.backends().iter();
        let sinks =
            backends.map(|backend| backend.ns.attach_program(backend.device(), Hook::Ingress, &TC_ACT_SHOT));
        let sinks = sinks.collect::<Result<Vec<_>>>()?;
        Ok(Self { stage, programs, plane, client, entry, _sinks: sinks })
    }

    fn round(&mut self, contender: Contender, load: Load, packets: u32) -> Result<Outcome> {
        let link = match contender {
            Contender::BareRedirect => {
                let (programs, entry) = (&mut self.programs, self.entry);
                let node = &self.stage.net.node().ns;
                Some(node.run(|| programs.attach("bare_redirect", entry.ifindex))?)
            }
            Contender::Balance => {
                self.on_node(|plane, device| plane.attach(device))?;
                None
            }
            Contender::KernelMultipath => None,
        };
        let outcome = self.measure(load, packets);
        if contender == Contender::Balance {
            self.on_node(|plane, device| plane.detach(device))?;
        }
        drop(link);
        outcome
    }

    fn on_node(&self, work: impl FnOnce(&Plane, &str) -> Result<()> + Send) -> Result<()> {
        let node = self.stage.net.node();
        node.ns.run(|| work(&self.plane, node.uplink()))
    }

    fn measure(&mut self, load: Load, packets: u32) -> Result<Outcome> {
        let before = self.arrived()?;
        let (programs, client) = (&mut self.programs, self.client);
        let seconds = self.stage.net.client().run(|| programs.generate(load, client.ifindex, packets))?;
        let arrived = self.arrived()? - before;
        ensure!(arrived > 0, "not one of {packets} packets arrived");
        Ok(Outcome { sent: packets.into(), arrived, seconds })
    }

    /// Frames that the backends' devices have received.
    fn arrived(&self) -> Result<u64> {
        let backends = self.stage.net.backends().iter();
        let counts = backends.map(|backend| interface_counters(&backend.ns, backend.device()));
        counts.map(|count| count.map(|count| count.rx_packets)).sum::<Result<u64>>().context("count")
    }
}
