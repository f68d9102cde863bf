//! The bench's own BPF programs: loaded beside a data plane, on the very maps that it has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::xdp::DevMap;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunAttrs, TestRunOptions};
use lb_common::abi;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};

use super::plane::{Plane, Served};

/// Bytes of every frame.
const FRAME: usize = 60;
/// Frames made before they are sent on.
const BATCH: u32 = 64;
/// TCP flags.
pub const SYN: u32 = 2;
/// TCP flags.
pub const ACK: u32 = 16;

/// Which packets to make.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Number of flows.
    pub flows: u32,
    /// Whether each packet is of the next flow, not of one drawn at random.
    pub in_turn: bool,
    /// TCP flags.
    pub tcp_flags: u32,
}

/// Loaded programs. Those under test are known by number.
pub struct Programs {
    object: Ebpf,
    load: Array<MapData, [u32; 8]>,
    /// Open as long as the kernel may run one of them.
    targets: ProgramArray<MapData>,
    served: Served,
    mac: [u8; 6],
}

impl Programs {
    /// Loads the object beside `plane`. Frames are for `served`, to the hardware address `mac`. The reference
    /// tracker has room for `tracked` flows on each CPU.
    ///
    /// # Errors
    /// When the object is missing or the kernel refuses it.
    pub fn load(plane: &Plane, served: Served, mac: [u8; 6], tracked: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for spec in abi::MAPS {
            let pin = plane.dir().join(spec.name);
            if pin.exists() {
                loader.map_pin_path(spec.name, pin);
            } else {
                loader.map_max_entries(spec.name, 1);
            }
        }
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| error_of(file, error))?;
        let key = plane.hash_key()?;
        loader.map_max_entries("BENCH_FLOWS", tracked * u32::try_from(cpus)?);
        loader.override_global("LB_HASH_KEY", &key, true);
        let path = object_path();
        let mut object = loader
            .load_file(&path)
            .with_context(|| format!("load {} (cargo xtask build makes it)", path.display()))?;
        let load = Array::try_from(object.take_map("BENCH_LOAD").context("no map BENCH_LOAD")?)?;
        let targets =
            ProgramArray::try_from(object.take_map("BENCH_PROGRAMS").context("no BENCH_PROGRAMS")?)?;
        Ok(Self { object, load, targets, served, mac })
    }

    /// A program of the object, loaded if it was not.
    ///
    /// # Errors
    /// When there is none of that name or the verifier refuses it.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.object.program_mut(name).with_context(|| format!("no program {name}"))?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load the program {name}"))?;
        }
        Ok(program)
    }

    /// Gives a program of the object a number.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn number(&mut self, number: u32, name: &str) -> Result<()> {
        let program = self.program(name)?;
        let descriptor = program.fd()?.try_clone()?;
        self.targets.set(number, &descriptor, 0).with_context(|| format!("number {name}"))
    }

    /// Gives a program from elsewhere a number.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn number_foreign(&mut self, number: u32, program: &ProgramFd) -> Result<()> {
        self.targets.set(number, program, 0).context("number a program")
    }

    /// Says which packets come next, and which program gets them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn aim(&mut self, load: Load, target: u32) -> Result<()> {
        let [a, b, c, d, e, f] = self.mac;
        let row = [
            load.flows,
            load.in_turn.into(),
            load.tcp_flags,
            target,
            u32::from_ne_bytes(self.served.address.octets()),
            self.served.port.into(),
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, 0, 0]),
        ];
        self.load.set(0, row, 0).context("say which packets come next")
    }

    /// The devices, of the calling thread's namespace, that the bare redirect spreads over.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn spread_over(&mut self, ifindexes: &[u32]) -> Result<()> {
        let map = self.object.map_mut("BENCH_DEVICES").context("no map BENCH_DEVICES")?;
        let mut devices = DevMap::try_from(map)?;
        for (index, ifindex) in (0..).zip(ifindexes) {
            devices.set(index, *ifindex, None, 0).context("name a device to redirect to")?;
        }
        Ok(())
    }

    /// Attaches a program of the object to a device of the calling thread's namespace, as long as the answer lives.
    ///
    /// # Errors
    /// When it cannot be loaded, or the device is taken.
    pub fn attach(&mut self, name: &str, ifindex: u32) -> Result<XdpLink> {
        let program = self.program(name)?;
        let link =
            program.attach_to_if_index(ifindex, XdpMode::Driver).with_context(|| format!("attach {name}"))?;
        Ok(program.take_link(link)?)
    }

    /// Sends packets out of a device of the calling thread's namespace, from one CPU: the seconds of its time that it
    /// took, with all that the kernel did on their way.
    ///
    /// One system call sends them all: making its buffers ready takes as long as 100,000 packets, most of it waiting.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn generate(&mut self, load: Load, ifindex: u32, packets: u32) -> Result<f64> {
        self.aim(load, 0)?;
        stay_on_one_cpu()?;
        let generator = self.program("generate")?;
        let frame = [0; FRAME];
        let context = [0, FRAME as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes);
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(context.as_flattened()),
            repeat: packets,
            // What the program returns is done with the frame.
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        let begin = cpu_time()?;
        generator.test_run(options).context("send packets")?;
        Ok((cpu_time()? - begin).as_secs_f64())
    }

    /// Runs `packets` packets through the program of a number; nanoseconds of this thread's CPU time for each.
    ///
    /// # Errors
    /// When the kernel refuses, or the last packet ended in another verdict than `expected`.
    pub fn time(&mut self, load: Load, target: u32, packets: u32, expected: u32) -> Result<f64> {
        self.aim(load, target)?;
        let drive = self.program("drive")?;
        let frame = [0; FRAME];
        let begin = cpu_time()?;
        let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::default() };
        let result = drive.test_run(options).context("run a program")?;
        let spent = cpu_time()? - begin;
        ensure!(result.return_value == expected, "a packet ended in verdict {}", result.return_value);
        Ok(spent.as_nanos() as f64 / f64::from(packets))
    }
}

/// CPU time of the calling thread so far, time for others that the CPU had in between left out.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Keeps the calling thread on the last CPU.
pub(super) fn stay_on_one_cpu() -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| error_of(file, error))?;
    let mut one = CpuSet::new();
    one.set(cpus - 1)?;
    sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).context("stay on one CPU")
}

fn error_of(file: &str, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("read {file}"))
}

/// Where `cargo xtask build` puts the object.
fn object_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/lb-bench.o")
}
