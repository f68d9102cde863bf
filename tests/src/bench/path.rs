//! (a) What a packet costs in a program: nanoseconds of one CPU, by BPF_PROG_TEST_RUN.
//!
//! A program makes the next packet anew in the frame and hands it to the program under test by a tail call. The
//! programs take turns in short rounds, so that what else the machine does meets all of them; the median of the
//! rounds counts, less that of an empty program (`net`).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::abi::backend::Mode;
use lb_common::abi::vip::Tracking;
use serde::Serialize;

use super::plane::{Destination, Plane, Served};
use super::programs::{ACK, Load, Programs, SYN};
use super::{Effort, median};

/// Most established flows.
const FLOWS: u32 = 1_000_000;
/// Flows that come while the tenant has limits.
const LIMITED_FLOWS: u32 = 100_000;
/// Flows that the reference has room for on each CPU.
const REFERENCE_ROOM: u32 = 4 * FLOWS;
/// New flows of the flood: none comes twice before it is long evicted.
const FLOOD: u32 = 50_000_000;
const BACKENDS: u8 = 16;
/// The loopback device, which a test run pretends that frames come in by: what leaves by it is XDP_TX.
const LOOPBACK: u32 = 1;
pub(super) const XDP_TX: u32 = 3;

const MODES: [Mode; 2] = [Mode::Ipip, Mode::L2];
const CONTENDERS: [&str; 4] = ["empty", "mac_swap", "balance", "reference"];
const EMPTY: usize = 0;
const BALANCE: usize = 2;
const REFERENCE: usize = 3;

/// One program under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// How backends are reached.
    pub mode: Mode,
    /// What the balancer does with flows.
    pub flows_are: FlowsAre,
    /// Number of flows.
    pub flows: u32,
    /// Whether these are new flows, one a packet, instead of established ones at random.
    pub flood: bool,
    /// The program.
    pub program: &'static str,
    /// Nanoseconds a packet, the cost of measuring included.
    pub ns: f64,
    /// Nanoseconds a packet, less those of the empty program.
    pub net_ns: f64,
}

/// What the balancer does with flows. (The reference tracks them all, always.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowsAre {
    /// Tracking auto, every slot stable.
    Stable,
    /// Tracking auto, every slot moving.
    Moving,
    /// Tracking always.
    Always,
    /// As stable, and the vip's tenant has limits that it does not come near.
    Limited,
}

/// All cells, and the keys made of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PathReport {
    /// Every program under every load.
    pub cells: Vec<Cell>,
    /// The share of a million flows that the balancer remembered, all slots moving and tracking always.
    pub remembered_share: Vec<f64>,
}

impl PathReport {
    /// Net nanoseconds of a program; the mode is that of the ratios.
    fn net(&self, flows_are: FlowsAre, flows: u32, program: usize) -> Option<f64> {
        let wanted = |cell: &&Cell| {
            cell.mode == MODES[0]
                && cell.flows_are == flows_are
                && cell.flows == flows
                && cell.program == CONTENDERS[program]
        };
        self.cells.iter().find(wanted).map(|cell| cell.net_ns)
    }

    /// The reference's net over the balancer's.
    fn ratio(&self, flows_are: FlowsAre, flows: u32) -> Option<f64> {
        Some(self.net(flows_are, flows, REFERENCE)? / self.net(flows_are, flows, BALANCE)?)
    }

    /// The balancer's net over that of one established flow.
    fn flat(&self, flows: u32) -> Option<f64> {
        Some(self.net(FlowsAre::Stable, flows, BALANCE)? / self.net(FlowsAre::Stable, 1, BALANCE)?)
    }

    /// The balancer's net with a tenant's limits on over that without, at the same number of flows.
    fn limited(&self) -> Option<f64> {
        Some(
            self.net(FlowsAre::Limited, LIMITED_FLOWS, BALANCE)?
                / self.net(FlowsAre::Stable, LIMITED_FLOWS, BALANCE)?,
        )
    }

    /// Keys and values.
    pub fn keys(&self) -> Vec<(&'static str, Option<f64>)> {
        use FlowsAre::{Always, Moving, Stable};
        let million = self.net(Stable, FLOWS, BALANCE);
        let one = self.net(Stable, 1, REFERENCE);
        vec![
            ("tracker_ratio_100k", self.ratio(Stable, 100_000)),
            ("tracker_ratio_1m", self.ratio(Stable, FLOWS)),
            ("tracker_ratio_syn_50m", self.ratio(Stable, FLOOD)),
            ("million_vs_reference_one", million.zip(one).map(|(ours, reference)| ours / reference)),
            ("moving_ratio_1m", self.ratio(Moving, FLOWS)),
            ("always_ratio_1m", self.ratio(Always, FLOWS)),
            ("tenant_limit_ratio", self.limited()),
            ("flat_1m", self.flat(FLOWS)),
            ("flat_syn_50m", self.flat(FLOOD)),
        ]
    }
}

/// Measures everything.
///
/// # Errors
/// When the data plane cannot be loaded, or a packet did not go to a backend.
pub fn run(effort: Effort) -> Result<PathReport> {
    let mut report = PathReport::default();
    for mode in MODES {
        let mut bench = Bench::open(mode, effort)?;
        bench.run(&mut report)?;
        bench.check()?;
    }
    Ok(report)
}

struct Bench {
    mode: Mode,
    effort: Effort,
    programs: Programs,
    plane: Plane,
}

impl Bench {
    fn open(mode: Mode, effort: Effort) -> Result<Self> {
        let served = Served { address: Ipv4Addr::new(203, 0, 113, 10), port: 80 };
        let backends: Vec<Destination> = (1..=BACKENDS).map(destination).collect();
        let plane = Plane::open(served, &backends, mode)?;
        let mut programs = Programs::load(&plane, served, [2, 0, 0, 0, 0, 1], REFERENCE_ROOM)?;
        for (number, name) in (0..).zip(CONTENDERS) {
            match name {
                "balance" => programs.number_foreign(number, &plane.program()?)?,
                _ => programs.number(number, name)?,
            }
        }
        Ok(Self { mode, effort, programs, plane })
    }

    fn run(&mut self, report: &mut PathReport) -> Result<()> {
        for flows in [1, LIMITED_FLOWS, FLOWS] {
            self.warm(REFERENCE, flows)?;
            self.measure(report, FlowsAre::Stable, established(flows))?;
            if flows == LIMITED_FLOWS {
                self.plane.limit()?;
                self.measure(report, FlowsAre::Limited, established(flows))?;
                self.plane.track(Tracking::Auto)?;
            }
        }
        for (flows_are, moving, tracking) in
            [(FlowsAre::Moving, true, Tracking::Auto), (FlowsAre::Always, false, Tracking::Always)]
        {
            self.plane.move_slots(moving)?;
            self.plane.track(tracking)?;
            self.warm_twice(FLOWS)?;
            report.remembered_share.push(self.plane.remembered()? as f64 / f64::from(FLOWS));
            self.measure(report, flows_are, established(FLOWS))?;
        }
        // The floods come last: they push the established flows out of the reference's table.
        let fill = REFERENCE_ROOM * u32::try_from(aya::util::nr_cpus().map_err(|(_, error)| error)?)?;
        self.programs.time(flood(), REFERENCE as u32, fill, XDP_TX)?;
        self.measure(report, FlowsAre::Always, flood())?;
        self.plane.track(Tracking::Auto)?;
        self.measure(report, FlowsAre::Stable, flood())?;
        self.plane.move_slots(true)?;
        self.measure(report, FlowsAre::Moving, flood())
    }

    /// Lets a program see every flow once.
    fn warm(&mut self, contender: usize, flows: u32) -> Result<()> {
        let load = Load { in_turn: true, ..established(flows) };
        self.programs.time(load, contender as u32, flows, XDP_TX).map(drop)
    }

    /// Lets the balancer see every flow again after the second that makes it worth keeping.
    fn warm_twice(&mut self, flows: u32) -> Result<()> {
        let begin = Instant::now();
        self.warm(BALANCE, flows)?;
        std::thread::sleep(Duration::from_secs(2).saturating_sub(begin.elapsed()));
        self.warm(BALANCE, flows)
    }

    fn measure(&mut self, report: &mut PathReport, flows_are: FlowsAre, load: Load) -> Result<()> {
        let (rounds, packets) = self.effort.path_rounds();
        let mut times: [Vec<f64>; CONTENDERS.len()] = Default::default();
        for _ in 0..rounds {
            for (number, times) in (0..).zip(&mut times) {
                let time = self.programs.time(load, number, packets, XDP_TX);
                times.push(time.with_context(|| CONTENDERS[number as usize])?);
            }
        }
        let medians = times.map(|mut times| median(&mut times));
        for (program, ns) in CONTENDERS.into_iter().zip(medians) {
            report.cells.push(Cell {
                mode: self.mode,
                flows_are,
                flows: load.flows,
                flood: load.in_turn,
                program,
                ns,
                net_ns: ns - medians[EMPTY],
            });
        }
        Ok(())
    }

    /// Every packet went to a backend: a program that gave up early would look quick.
    fn check(&self) -> Result<()> {
        let reasons = self.plane.reasons()?;
        ensure!(reasons == ["forwarded"], "packets ended as {}", reasons.join(", "));
        Ok(())
    }
}

pub(super) fn destination(number: u8) -> Destination {
    Destination {
        address: Ipv4Addr::new(10, 200, 0, number),
        mac: [2, 0, 0, 9, 0, number],
        ifindex: LOOPBACK,
        own_mac: [2, 0, 0, 8, 0, number],
    }
}

pub(super) fn established(flows: u32) -> Load {
    Load { flows, in_turn: false, tcp_flags: ACK }
}

fn flood() -> Load {
    Load { flows: FLOOD, in_turn: true, tcp_flags: SYN }
}
