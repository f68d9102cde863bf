//! The bench's own BPF programs: loaded beside a data plane, on the very maps that it has.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi;
use nix::time::{ClockId, clock_gettime};

use super::plane::{Plane, Service};

/// Bytes of every frame.
const FRAME: usize = 60;
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
    service: Service,
    mac: [u8; 6],
}

impl Programs {
    /// Loads the object beside `plane`. Frames are for `service`, to the hardware address `mac`. The reference
    /// tracker has room for `tracked` flows on each CPU.
    ///
    /// # Errors
    /// When the object is missing or the kernel refuses it.
    pub fn load(plane: &Plane, service: Service, mac: [u8; 6], tracked: u32) -> Result<Self> {
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
        Ok(Self { object, load, targets, service, mac })
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
            u32::from_ne_bytes(self.service.address.octets()),
            self.service.port.into(),
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, 0, 0]),
        ];
        self.load.set(0, row, 0).context("say which packets come next")
    }

    /// Runs `packets` packets through the program of a number; nanoseconds of this thread's CPU time for each.
    ///
    /// # Errors
    /// When the kernel refuses, or the last packet ended in another verdict than `expected`.
    pub fn time(&mut self, load: Load, target: u32, packets: u32, expected: u32) -> Result<f64> {
        self.aim(load, target)?;
        let drive = self.program("drive")?;
        let frame = [0; FRAME];
        let begin = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::default() };
        let result = drive.test_run(options).context("run a program")?;
        let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)? - begin;
        ensure!(result.return_value == expected, "a packet ended in verdict {}", result.return_value);
        Ok(std::time::Duration::from(spent).as_nanos() as f64 / f64::from(packets))
    }
}

fn error_of(file: &str, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("read {file}"))
}

/// Where `cargo xtask build` puts the object.
fn object_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/lb-bench.o")
}
