//! Network namespaces by name: create, enter with a thread, start children inside, remove.
//!
//! A name is `lb-<pid>-<serial>-<role>`, so parallel runs never meet and the owner of a leftover is
//! known (see `sweep`). This room knows nothing of addresses or links (see `topology`) and keeps no child
//! processes (see `process`).
//!
//! Invariants:
//! - the calling thread never changes its namespace: a fresh thread does;
//! - the only `unsafe` of the test bench is here, at the end: two calls of bpf(2) that no crate offers;
//! - `/sys` is not remounted (as `ip netns exec` would do), so a child still sees `/sys/fs/bpf`;
//!   the price is that its `/sys/class/net` shows the outer namespace.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::sweep;

/// What every namespace and scratch directory of ours begins with.
pub const PREFIX: &str = "lb-";

/// Where iproute2 keeps named namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// Tells apart the groups of namespaces one process makes.
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A named network namespace; dropping it ends the processes inside and removes the name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

/// `return XDP_PASS` in the kernel's encoding.
pub const XDP_PASS: [u64; 2] = [2 << 32 | 0xb7, 0x95];

impl Namespace {
    /// Makes one namespace for `role`.
    ///
    /// # Errors
    /// Without root, or when `ip` is missing or refuses.
    pub fn create(role: &str) -> Result<Self> {
        let mut made = Self::create_group(&[role])?;
        made.pop().context("one role makes one namespace")
    }

    /// Makes one namespace for each role, under one serial number and by one run of `ip`.
    ///
    /// # Errors
    /// Without root, or when `ip` is missing or refuses; what was made by then is removed.
    pub fn create_group<R: AsRef<str>>(roles: &[R]) -> Result<Vec<Self>> {
        Self::create_in_group(next_group(), roles)
    }

    /// Like [`Namespace::create_group`], in a group numbered before by [`next_group`].
    ///
    /// # Errors
    /// As [`Namespace::create_group`].
    pub fn create_in_group<R: AsRef<str>>(group: u32, roles: &[R]) -> Result<Vec<Self>> {
        let names: Vec<String> = roles
            .iter()
            .map(|role| format!("{PREFIX}{}-{group}-{}", std::process::id(), role.as_ref()))
            .collect();
        let batch: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
        let added = feed(Command::new("ip").args(["-batch", "-"]), &batch);
        let opened = names.iter().map(|name| Self::open(name)).collect::<Result<Vec<_>>>();
        added.context("create network namespaces (root is needed)")?;
        opened
    }

    fn open(name: &str) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        let handle = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), handle })
    }

    /// The name, as `ip netns list` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a fresh thread inside this namespace and waits for it.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or whatever `work` returns. A panic in `work` goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that lives inside this namespace; every socket it makes belongs there.
    ///
    /// # Errors
    /// When no thread can be started; failing to enter is what the thread returns.
    pub fn start_thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let handle = self.handle.try_clone().context("clone namespace handle")?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                setns(&handle, CloneFlags::CLONE_NEWNET).context("enter namespace")?;
                work()
            })
            .with_context(|| format!("start thread {name}"))
    }

    /// Starts `command` as a child inside this namespace. The caller owns and reaps the child.
    ///
    /// # Errors
    /// When the program is missing or the namespace cannot be entered.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn().with_context(|| format!("start {program}")))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs `command` inside this namespace and collects its output, whatever its exit code.
    ///
    /// # Errors
    /// When the program is missing or the namespace cannot be entered.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.output().with_context(|| format!("run {program}")))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs a program given as one line (split at blanks) and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be run or exits with another code than 0; the message holds its stderr.
    pub fn shell(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command line")?;
        let output = self.output(Command::new(program).args(words))?;
        ensure!(
            output.status.success(),
            "{line} in {}: {}: {}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs many `ip` commands (one a line, without the word `ip`) by one process; stops at the first
    /// that fails.
    ///
    /// # Errors
    /// When one is refused; the message names its line.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.run(|| feed(Command::new("ip").args(["-batch", "-"]), lines))
            .with_context(|| format!("ip -batch in {}:\n{lines}", self.name))
    }

    /// Writes a sysctl below `/proc/sys`, e.g. `net.ipv4.ip_forward`. Dots part the names.
    ///
    /// # Errors
    /// When this kernel has no such key or refuses the value.
    pub fn write_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.write_sysctls(&[(key, value)])
    }

    /// Writes many sysctls by one thread.
    ///
    /// # Errors
    /// As [`Namespace::write_sysctl`].
    pub fn write_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{}", key.replace('.', "/"));
                fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
            }
            Ok(())
        })
    }

    /// Loads a small eBPF program (kernel's encoding, host byte order) and attaches it to `device`, for as
    /// long as the returned link is open.
    ///
    /// # Errors
    /// When the verifier refuses the program, or there is no such device.
    pub fn attach_program(&self, device: &str, hook: Hook, instructions: &[u64]) -> Result<OwnedFd> {
        self.run(|| {
            let ifindex = nix::net::if_::if_nametoindex(device).with_context(|| format!("no {device}"))?;
            let program = load_program(hook, instructions).context("load a program")?;
            link_program(&program, ifindex, hook).context("attach a program")
        })
    }

    /// Writes to `/sys/<path>` as this namespace has it (`class/net/eth0/threaded`, say).
    ///
    /// # Errors
    /// When there is no such file or the kernel refuses the value.
    pub fn write_sysfs(&self, path: &str, value: &str) -> Result<()> {
        self.run(|| {
            // Only this thread, which ends with the closure, gets the other /sys.
            unshare(CloneFlags::CLONE_NEWNS).context("unshare mounts")?;
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing).context("mount sysfs")?;
            fs::write(Path::new("/sys").join(path), value).with_context(|| format!("write {value} to {path}"))
        })
    }

    /// Processes whose main thread is inside. Threads of this process do not count.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.handle.metadata().map(|file| sweep::pids_inside(file.ino())).unwrap_or_default()
    }

    fn enter(&self) -> Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter namespace {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        sweep::remove(&self.name);
    }
}

/// Takes the next group number of this process, see [`Namespace::create_in_group`].
#[must_use]
pub fn next_group() -> u32 {
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Runs `command` with `input` on its stdin.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin was piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Where on a device a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// On receipt in the driver, native mode only.
    Xdp,
    /// On receipt, after XDP (tcx).
    Ingress,
    /// On sending, but not by XDP (tcx).
    Egress,
}

impl Hook {
    /// `enum bpf_prog_type`.
    fn program_type(self) -> u32 {
        match self {
            Self::Ingress | Self::Egress => 3,
            Self::Xdp => 6,
        }
    }

    /// `enum bpf_attach_type`.
    fn attach_type(self) -> u32 {
        match self {
            Self::Xdp => 37,
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }

    /// Flags of the link: native XDP or nothing.
    fn flags(self) -> u32 {
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        if self == Self::Xdp { XDP_FLAGS_DRV_MODE } else { 0 }
    }
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes what is missing for zero.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The head of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    program: i32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn load_program(hook: Hook, instructions: &[u64]) -> Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let attributes = ProgramLoad {
        program_type: hook.program_type(),
        instruction_count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &attributes)
}

fn link_program(program: &OwnedFd, ifindex: u32, hook: Hook) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    let attributes = LinkCreate {
        program: program.as_raw_fd(),
        ifindex,
        attach_type: hook.attach_type(),
        flags: hook.flags(),
    };
    bpf(BPF_LINK_CREATE, &attributes)
}

/// bpf(2) for the two commands above, which both return a new descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: the kernel only reads `attributes`, `size_of::<T>()` bytes of it, and what it points to, which
    // the callers keep borrowed during the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let descriptor = i32::try_from(answer)?;
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: a non-negative answer to these commands is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
