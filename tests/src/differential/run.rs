//! Drives host and kernel through the same frames, stretch by stretch, and counts the reasons that were reached.

use super::kernel::{Kernel, Outcome};
use super::packets::Sketch;
use super::script::{Program, Script};
use super::world::{EGRESSES, World};
use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use lb_common::abi::backend::{Control, Mode};
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::decap;
use lb_common::datapath::host::HostFrame;
use lb_common::datapath::pipeline::{self, Walk};
use lb_common::datapath::tables::NO_ROW;
use lb_common::datapath::{Verdict, tables::Tables};
use lb_common::reason::Reason;
use std::fmt::Write;

/// Frames between two changes of the tables.
const STRETCH: u64 = 1_500;
/// Stretches between two comparisons of everything.
const FULL_EVERY: u64 = 60;
/// Room before a frame in the kernel without metadata, bytes: XDP_PACKET_HEADROOM less the `struct xdp_frame` that
/// the kernel keeps there.
const ROOM: usize = 256 - 40;
/// What of a frame the kernel's test run puts into its first part, bytes: a page less headroom and tailroom.
const FIRST_PART: usize = 4096 - 256 - 320;

/// What a run came to.
pub struct Coverage {
    /// Frames by reason.
    pub reasons: Vec<u64>,
}

impl Coverage {
    /// The table of reasons, for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for reason in Reason::ALL {
            let _ = writeln!(text, "{:>10} {}", self.reasons[*reason as usize], reason.name());
        }
        text
    }
}

/// Runs so many frames from a seed.
///
/// # Errors
/// Host and kernel differ: the message has the frame and both results.
pub fn run(seed: u64, frames: u64) -> Result<Coverage> {
    stay_on_one_cpu()?;
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new(&mut rng);
    let mut kernel = Kernel::load(&world)?;
    let mut script = Script::default();
    let mut walk = Walk::default();
    let (mut done, mut stretch) = (0, 0);
    while done < frames {
        stretch += 1;
        let until =
            frames.min(done + if world.tables.config.bypass.load() == 0 { STRETCH } else { STRETCH / 5 });
        for number in done..until {
            step(&mut world, &mut kernel, &mut script, &mut walk, &mut rng)
                .with_context(|| format!("frame {number} of LB_SEED={seed}"))?;
        }
        done = until;
        kernel
            .compare(&world.tables, stretch % FULL_EVERY == 0 || done == frames)
            .with_context(|| format!("after frame {done} of LB_SEED={seed}"))?;
        world.change(&mut rng);
        kernel.push(&world.tables)?;
    }
    ensure!(world.remembered() > 100, "the flow table stayed nearly empty");
    let (counted, turns) = world.picked();
    ensure!(counted > 10 && turns > 10, "{counted} connections were counted, and {turns} turns taken");
    let (marks, again) = world.marked();
    ensure!(marks > 10 && again > 10, "{marks} SYNs left a mark, and {again} were seen to come again");
    let reasons = world.tables.reasons.borrow().iter().map(|counter| counter.packets).collect();
    Ok(Coverage { reasons })
}

/// The meter of ICMP messages is a CPU's own.
fn stay_on_one_cpu() -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(nix::sched::sched_getcpu()?)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

/// One frame through both.
fn step(
    world: &mut World,
    kernel: &mut Kernel,
    script: &mut Script,
    walk: &mut Walk,
    rng: &mut Rng,
) -> Result<()> {
    let (program, Sketch { bytes, .. }) = script.next(world, rng);
    // Metadata before a frame leaves less room for what the path puts there.
    let metadata = if rng.u8(0..24) == 0 { 4 * rng.usize(ROOM / 6..=ROOM / 4) } else { 0 };
    let mut frame = HostFrame::with_headroom(&bytes, ROOM - metadata).in_parts(FIRST_PART);
    let verdict = match program {
        Program::Balance => pipeline::run::<_, _, MovedOnly>(&mut frame, &world.tables, walk),
        Program::Decap => decap::run(&mut frame, &world.tables, &mut walk.parsed),
    };
    let host = Outcome { action: action(verdict), bytes: frame.bytes().to_vec() };
    let found = kernel.run(program, &bytes, metadata)?;
    if found != host {
        bail!("{}", difference(program, &bytes, metadata, verdict, &host, &found));
    }
    if program == Program::Balance && is_translated(world, walk, verdict) {
        script.forwarded(&host.bytes);
    }
    Ok(())
}

/// Whether a frame went to a backend by NAT.
fn is_translated(world: &World, walk: &Walk, verdict: Verdict) -> bool {
    let row = walk.trail.backend_row;
    let backend = if row == NO_ROW { None } else { world.tables.backend(row) };
    verdict.reason() == Reason::Forwarded
        && backend.is_some_and(|row| Control(row.control.load()).mode() == Mode::Nat)
}

/// A verdict as XDP puts it. An egress row without a device is a drop to the kernel's helper.
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Redirect(_, egress) if (1..EGRESSES).contains(&egress) => 4,
        Verdict::Drop(_) | Verdict::Redirect(..) => 1,
        Verdict::Pass(_) => 2,
        Verdict::Transmit(_) => 3,
    }
}

fn difference(
    program: Program,
    frame: &[u8],
    metadata: usize,
    verdict: Verdict,
    host: &Outcome,
    kernel: &Outcome,
) -> String {
    let mut text = format!("{program:?}, {metadata} bytes of metadata\nframe  {}\n", hex(frame));
    let _ = writeln!(text, "host   {verdict:?} = action {}\nkernel action {}", host.action, kernel.action);
    let _ = writeln!(text, "host   {}\nkernel {}", hex(&host.bytes), hex(&kernel.bytes));
    let pairs = host.bytes.iter().zip(&kernel.bytes);
    for (at, (ours, theirs)) in pairs.enumerate().filter(|(_, (ours, theirs))| ours != theirs).take(20) {
        let _ = writeln!(text, "byte {at}: host {ours:02x}, kernel {theirs:02x}");
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
