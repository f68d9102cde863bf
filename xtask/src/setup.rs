//! `cargo xtask setup`: finds the tools, says what is missing and why, installs it.
//!
//! Every command that needs tools calls `ensure`. Presence is judged by the files themselves, never by a
//! record of an earlier run, so that it is idempotent and quick. Installs only through the distribution's
//! package manager (Debian) and `cargo install`; starts no service.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{self, say};
use crate::toolchain::{self, Compiler};

/// What a command needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compile and link for the BPF target.
    Build,
    /// Load a BPF object with bpftool.
    Verify,
    /// Namespaces with traffic: routing tools, clients, the program of the backends, bpffs.
    Network,
    /// What others would use instead, for the benchmark.
    Rivals,
}

/// Everything, for `cargo xtask setup` itself.
const ALL: [Need; 4] = [Need::Build, Need::Verify, Need::Network, Need::Rivals];

/// A tool that is there if its file is: a program in `PATH`, or an absolute path.
struct Tool {
    file: &'static str,
    package: &'static str,
    need: Need,
    why: &'static str,
}

const fn tool(file: &'static str, package: &'static str, need: Need, why: &'static str) -> Tool {
    Tool { file, package, need, why }
}

const TOOLS: &[Tool] = &[
    tool("bpftool", "bpftool", Need::Verify, "loads the objects and reads their sizes"),
    tool("unshare", "util-linux", Need::Verify, "gives the loading a bpffs of its own"),
    tool("ip", "iproute2", Need::Network, "makes namespaces, veth pairs, routes"),
    tool("ethtool", "ethtool", Need::Network, "switches offloads of veth pairs"),
    tool("nginx", "nginx-light", Need::Network, "is the HTTP server of each backend"),
    tool("curl", "curl", Need::Network, "is a client"),
    tool("wrk", "wrk", Need::Network, "is a client under load"),
    tool("nft", "nftables", Need::Network, "makes faults in tests; the benchmark compares with it"),
    tool("kill", "procps", Need::Network, "ends a program as its operator would"),
    tool("tcpdump", "tcpdump", Need::Network, "shows frames when a test fails"),
    tool("haproxy", "haproxy", Need::Rivals, "is what the benchmark compares with"),
    tool(NGINX_STREAM, "libnginx-mod-stream", Need::Rivals, "is what the benchmark compares with"),
];

const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Their packages start a service and enable it at boot; we want the programs only.
const SERVICES: [(&str, &str); 2] = [("nginx-light", "nginx"), ("haproxy", "haproxy")];
const BPFFS: &str = "/sys/fs/bpf";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit code 1 if something is.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.check {
        ensure(&ALL)?;
        say!("all tools are there");
        return Ok(());
    }
    let missing = missing(&ALL);
    for item in &missing {
        say!("missing: {} ({})", item.name, item.why);
    }
    if !missing.is_empty() {
        bail!("not all tools are there; `cargo xtask setup` installs them");
    }
    say!("all tools are there");
    Ok(())
}

/// Installs what the needs lack, after saying so.
///
/// # Errors
/// Something is missing and cannot be installed from here; the error says by what commands it can.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().filter_map(Missing::package).collect();
    let mut apt = Apt { updated: false };
    apt.check(&packages)?;
    for item in &missing {
        say!("will {} {}: {}", item.means.verb(), item.name, item.why);
    }
    apt.install(&packages)?;
    if needs.contains(&Need::Build) && toolchain::ready().is_none() {
        install_linker(&mut apt)?;
    }
    if missing.iter().any(|item| item.means == Means::Mount) {
        mount_bpffs()?;
    }
    Ok(())
}

/// One thing that is not there.
struct Missing {
    name: String,
    why: &'static str,
    means: Means,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Package,
    CargoInstall,
    Mount,
}

impl Means {
    fn verb(self) -> &'static str {
        match self {
            Means::Package => "install",
            Means::CargoInstall => "build and install",
            Means::Mount => "mount",
        }
    }
}

impl Missing {
    fn package(&self) -> Option<&str> {
        (self.means == Means::Package).then_some(self.name.as_str())
    }
}

fn missing(needs: &[Need]) -> Vec<Missing> {
    let mut missing = if needs.contains(&Need::Build) { missing_toolchain() } else { Vec::new() };
    for tool in TOOLS.iter().filter(|tool| needs.contains(&tool.need) && !present(tool.file)) {
        missing.push(Missing { name: tool.package.to_owned(), why: tool.why, means: Means::Package });
    }
    if needs.contains(&Need::Network) && !bpffs_mounted(&mounts()) {
        let name = format!("bpffs on {BPFFS}");
        missing.push(Missing {
            name,
            why: "pinned programs and maps outlive the daemon",
            means: Means::Mount,
        });
    }
    missing
}

fn missing_toolchain() -> Vec<Missing> {
    if toolchain::ready().is_some() {
        return Vec::new();
    }
    let mut missing = Vec::new();
    let compiler = toolchain::compilers().into_iter().find(|compiler| llvm_obtainable(compiler.llvm_major));
    if compiler.is_none() {
        for (package, why) in [
            ("rustc-web", "a rustc whose library source is packaged, for the BPF crate only"),
            ("rust-web-src", "the library source: `core` is compiled for the BPF target"),
        ] {
            missing.push(Missing { name: package.to_owned(), why, means: Means::Package });
        }
    }
    if !present("c++") {
        let why = "bpf-linker links with the C++ library of LLVM";
        missing.push(Missing { name: "g++".to_owned(), why, means: Means::Package });
    }
    let llvm =
        compiler.map_or_else(|| "LLVM of rustc-web".to_owned(), |found| format!("LLVM {}", found.llvm_major));
    let name = format!("bpf-linker {} with {llvm}", toolchain::LINKER_VERSION);
    missing.push(Missing { name, why: "links the BPF objects", means: Means::CargoInstall });
    missing
}

/// Builds the linker against the LLVM of the compiler that is now there.
fn install_linker(apt: &mut Apt) -> Result<()> {
    let compiler: Compiler = toolchain::compilers()
        .into_iter()
        .find(|compiler| llvm_obtainable(compiler.llvm_major))
        .context("no rustc with library source and no LLVM to match; see CONTRIBUTING.md, Tools")?;
    let major = compiler.llvm_major;
    if !llvm_prefix(major).join("bin/llvm-config").is_file() {
        say!(
            "will install llvm-{major}-dev: rustc {} has LLVM {major} and the linker must share it",
            compiler.release
        );
        apt.install(&[&format!("llvm-{major}-dev")])?;
    }
    say!("building bpf-linker {} (about a minute)", toolchain::LINKER_VERSION);
    let mut install = process::cargo();
    install.env("LLVM_PREFIX", llvm_prefix(major)).env_remove("LD_LIBRARY_PATH");
    install.args(["install", "bpf-linker", "--version", toolchain::LINKER_VERSION, "--locked"]);
    install.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
    if !toolchain::linkers().is_empty() {
        install.arg("--force").arg("--root").arg(toolchain::own_linker_root());
    }
    process::run(&mut install)?;
    toolchain::linker_for(major)
        .map(drop)
        .context("the bpf-linker just built does not answer with its version")
}

fn llvm_prefix(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

/// Whether the LLVM of that major is installed or packaged here.
fn llvm_obtainable(major: u32) -> bool {
    let packaged = || {
        let mut show = Command::new("apt-cache");
        show.args(["show", &format!("llvm-{major}-dev")]).stdout(Stdio::null()).stderr(Stdio::null());
        show.status().is_ok_and(|status| status.success())
    };
    llvm_prefix(major).join("bin/llvm-config").is_file() || packaged()
}

fn present(file: &str) -> bool {
    if file.starts_with('/') { Path::new(file).exists() } else { process::find(file).is_some() }
}

/// The package manager; its lists are fetched once, and only if something is to be installed.
struct Apt {
    updated: bool,
}

impl Apt {
    /// Whether these packages can be installed from here.
    fn check(&self, packages: &[&str]) -> Result<()> {
        let list = packages.join(" ");
        if packages.is_empty() {
            Ok(())
        } else if process::find("apt-get").is_none() {
            bail!(
                "missing: {list} (Debian's names) and no apt-get here; install them with this system's own tools"
            )
        } else if !process::is_root() {
            bail!("missing: {list}; not root, so install them first: sudo apt-get install {list}")
        } else {
            Ok(())
        }
    }

    fn install(&mut self, packages: &[&str]) -> Result<()> {
        self.check(packages)?;
        if packages.is_empty() {
            return Ok(());
        }
        if !self.updated {
            process::run(Command::new("apt-get").args(["-qq", "update"]).stdin(Stdio::null()))?;
            self.updated = true;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", INSTALL, "sh"]).args(packages).stdin(Stdio::null());
        process::run(shell.env("DEBIAN_FRONTEND", "noninteractive"))?;
        disable_services(packages)
    }
}

/// Installs without starting a service: the policy file says no and is gone afterwards, also after Ctrl-C.
/// A policy that the machine has already stays; one that a kill left behind is known by its second line.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
mark='# temporary: cargo xtask setup'
if [ ! -e "$policy" ] || grep -qF "$mark" "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$policy" && chmod 755 "$policy" || exit 1
fi
apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@"
"#;

/// Takes out of the boot what a package just put there.
fn disable_services(packages: &[&str]) -> Result<()> {
    for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
        if process::find("systemctl").is_some() {
            process::run(Command::new("systemctl").args(["--quiet", "disable", service]))?;
        }
    }
    Ok(())
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/mounts").unwrap_or_default()
}

/// Whether `/proc/mounts` has a bpffs where pins go.
fn bpffs_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

fn mount_bpffs() -> Result<()> {
    if !process::is_root() {
        bail!("bpffs is not mounted; not root, so mount it first: sudo mount -t bpf -o mode=700 bpf {BPFFS}");
    }
    process::run(Command::new("mount").args(["-t", "bpf", "-o", "mode=700", "bpf", BPFFS]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bpffs_elsewhere_does_not_count() {
        assert!(bpffs_mounted("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n"));
        assert!(!bpffs_mounted("bpf /run/bpf bpf rw 0 0\nnone /sys/fs/bpf tmpfs rw 0 0\n"));
    }

    #[test]
    fn a_tool_by_absolute_path_is_looked_for_there_only() {
        assert!(present("/proc/self/exe"));
        assert!(!present("/nowhere/proc/self/exe"));
        assert!(!present("no-such-program-anywhere"));
    }
}
