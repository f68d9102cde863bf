//! `cargo xtask build`: the BPF objects, then the `lb` binary that embeds one of them.
//!
//! The BPF crates are workspaces of their own: other target, other compiler, own lock file. An object is
//! copied to `target/bpf` only when its bytes changed, so that nothing that embeds it is built for nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{self, say};
use crate::setup::{self, Need};
use crate::{toolchain, workspace};

/// A workspace for the BPF target, and the one object it yields.
struct BpfCrate {
    dir: &'static str,
    object: &'static str,
}

const PROGRAM: BpfCrate = BpfCrate { dir: "lb-ebpf", object: "lb-ebpf" };
/// Programs of tests and benchmarks: they are not shipped.
const BENCH_PROGRAMS: BpfCrate = BpfCrate { dir: "tests/bpf", object: "lb-bench" };

const TARGET: &str = "bpfel-unknown-none";
/// Instruction set of Linux 5.1: 32-bit ALU and jumps. Atomics with compare-and-exchange follow from it.
const TARGET_CPU: &str = "v3";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise the `lb` binary (the BPF objects always are).
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    println!("{}", everything(args.release)?.display());
    Ok(())
}

/// Builds objects and binary with tools that are there; returns the binary's path.
///
/// # Errors
/// No toolchain for BPF, or a compiler said no.
pub(crate) fn everything(release: bool) -> Result<PathBuf> {
    program()?;
    if workspace::root().join(BENCH_PROGRAMS.dir).join("Cargo.toml").is_file() {
        object(&BENCH_PROGRAMS)?;
    }
    let mut build = process::cargo();
    build.args(["build", "--package", "lb-userspace", "--bin", "lb"]);
    if release {
        build.arg("--release");
    }
    process::run(&mut build)?;
    Ok(workspace::lb_binary(release))
}

/// Builds the shipped BPF object; returns its path.
///
/// # Errors
/// No toolchain for BPF, or its compiler or linker said no.
pub(crate) fn program() -> Result<PathBuf> {
    object(&PROGRAM)
}

fn object(bpf: &BpfCrate) -> Result<PathBuf> {
    let dir = workspace::root().join(bpf.dir);
    let out = dir.join("target/bpf");
    compile(&dir, &out).with_context(|| format!("build the BPF object of {}", bpf.dir))?;
    let built = out.join(TARGET).join("release").join(bpf.object);
    let object = workspace::object_dir().join(format!("{}.o", bpf.object));
    if copy_if_changed(&built, &object)? {
        say!("{} is new ({} bytes)", object.display(), object.metadata()?.len());
    }
    Ok(object)
}

fn compile(dir: &Path, out: &Path) -> Result<()> {
    let (compiler, linker) = toolchain::ready().context("no toolchain for BPF; run `cargo xtask setup`")?;
    let mut build = process::cargo();
    if let Some(cargo) = &compiler.cargo {
        build = std::process::Command::new(cargo);
    }
    // What `cargo xtask` put into our environment belongs to the host's compiler.
    for name in ["RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_TARGET_DIR"] {
        build.env_remove(name);
    }
    build.current_dir(dir).env("RUSTC", &compiler.rustc).env("RUSTC_BOOTSTRAP", "1");
    build.env("CARGO_ENCODED_RUSTFLAGS", rustflags().join("\x1f"));
    build.env("PATH", path_with(linker.parent().context("directory of bpf-linker")?)?);
    build.args(["build", "--release", "--target", TARGET, "-Z", "build-std=core", "--target-dir"]);
    process::run(build.arg(out))
}

/// Debug information becomes BTF; paths of this machine are taken out of it.
fn rustflags() -> Vec<String> {
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    flags.push(format!("-Ctarget-cpu={TARGET_CPU}"));
    flags.push(format!("--remap-path-prefix={}=.", workspace::root().display()));
    if let Some(home) = process::cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    flags
}

fn path_with(first: &Path) -> Result<std::ffi::OsString> {
    let path = process::search_path();
    let dirs = [first.to_path_buf()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).context("PATH")
}

/// Copies if the bytes differ, by a rename, so that a reader sees the old file or the new one.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let bytes = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let dir = to.parent().context("directory of the object")?;
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let part = to.with_extension(format!("part-{}", std::process::id()));
    std::fs::write(&part, bytes).with_context(|| format!("write {}", part.display()))?;
    std::fs::rename(&part, to).with_context(|| format!("rename to {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_time() {
        let dir = std::env::temp_dir().join(format!("xtask-copy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("deep/to.o"));
        std::fs::write(&from, b"one").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert!(!copy_if_changed(&from, &to).unwrap());
        std::fs::write(&from, b"two").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
        assert_eq!(to.parent().unwrap().read_dir().unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
