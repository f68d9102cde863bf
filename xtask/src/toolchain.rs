//! Finds what compiles and links for the BPF target: a rustc with library source, and a bpf-linker of its LLVM.
//!
//! Looks only; `setup` installs. The LLVM major is always asked of the compiler in use and written down
//! nowhere, because distributions move it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{process, workspace};

/// The linker version this repository is built and verified with.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// The names of shared libraries stand at the start of an ELF file, before code and debug information.
const NAMES_WITHIN_BYTES: u64 = 1 << 20;

/// A compiler that can build `core` for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// The real rustc, not the proxy of rustup.
    pub(crate) rustc: PathBuf,
    /// Cargo of the same toolchain, if it has one.
    pub(crate) cargo: Option<PathBuf>,
    /// Such as `1.96.0`.
    pub(crate) release: String,
    /// Major version of its LLVM, which the linker must share.
    pub(crate) llvm_major: u32,
}

/// Compilers with library source and new enough for this workspace; rustup's nightlies before the system's.
pub(crate) fn compilers() -> Vec<Compiler> {
    let mut toolchains = nightlies();
    toolchains.push(PathBuf::from("/usr"));
    toolchains.iter().filter_map(|toolchain| compiler_in(toolchain)).collect()
}

/// The compiler and linker to build with, if both are there.
pub(crate) fn ready() -> Option<(Compiler, PathBuf)> {
    compilers()
        .into_iter()
        .find_map(|compiler| linker_for(compiler.llvm_major).map(|linker| (compiler, linker)))
}

/// A bpf-linker of our version that is linked against this LLVM.
pub(crate) fn linker_for(llvm_major: u32) -> Option<PathBuf> {
    linkers().into_iter().find(|linker| {
        linker_version(linker).as_deref() == Some(LINKER_VERSION)
            && linked_llvm(linker).is_none_or(|linked| linked == llvm_major)
    })
}

/// Every bpf-linker of this machine, ours in `target/tools` first.
pub(crate) fn linkers() -> Vec<PathBuf> {
    let own = own_linker_root().join("bin/bpf-linker");
    let installed = process::cargo_home().map(|home| home.join("bin/bpf-linker"));
    let candidates = [Some(own), installed, process::find("bpf-linker")];
    candidates.into_iter().flatten().filter(|path| path.is_file()).collect()
}

/// Where a linker goes if another one has the name in cargo's home: nobody's tool is replaced.
pub(crate) fn own_linker_root() -> PathBuf {
    workspace::root().join("target/tools")
}

fn nightlies() -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup"));
    let rustup = std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(home);
    let Some(entries) = rustup.and_then(|rustup| rustup.join("toolchains").read_dir().ok()) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nightly"))
        .map(|entry| entry.path())
        .collect();
    // `nightly-x86_64…` sorts after `nightly-2026-…`: the undated, newest one comes first.
    found.sort();
    found.reverse();
    found
}

fn compiler_in(toolchain: &Path) -> Option<Compiler> {
    if !toolchain.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return None;
    }
    let rustc = toolchain.join("bin/rustc");
    let (release, llvm_major) = parse_version(&text_of(Command::new(&rustc).arg("-vV"))?)?;
    if !new_enough(&release, env!("CARGO_PKG_RUST_VERSION")) {
        return None;
    }
    let cargo =
        Some(toolchain.join("bin/cargo")).filter(|cargo| toolchain != Path::new("/usr") && cargo.is_file());
    Some(Compiler { rustc, cargo, release, llvm_major })
}

/// Release and LLVM major out of `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let llvm_major = value("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((value("release:")?.to_owned(), llvm_major))
}

fn new_enough(release: &str, minimum: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        version.split(['.', '-']).map_while(|number| number.parse().ok()).take(2).collect()
    };
    numbers(release) >= numbers(minimum)
}

fn linker_version(linker: &Path) -> Option<String> {
    let text = text_of(Command::new(linker).arg("--version"))?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// LLVM major of the shared library that a linker names in its dynamic section; `None` if it is linked in.
fn linked_llvm(linker: &Path) -> Option<u32> {
    let mut start = Vec::new();
    std::fs::File::open(linker).ok()?.take(NAMES_WITHIN_BYTES).read_to_end(&mut start).ok()?;
    let start = String::from_utf8_lossy(&start);
    ["libLLVM.so.", "libLLVM-"].iter().find_map(|name| number_after(&start, name))
}

fn number_after(text: &str, name: &str) -> Option<u32> {
    text.match_indices(name).find_map(|(at, _)| {
        let rest = &text[at + name.len()..];
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}

fn text_of(command: &mut Command) -> Option<String> {
    // Cargo points this at the libraries of the host's toolchain when it runs us.
    command.env_remove("LD_LIBRARY_PATH").stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_a_distribution_compiler() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.96.0\n"), None);
    }

    #[test]
    fn an_old_compiler_is_refused() {
        assert!(new_enough("1.95.0", "1.95"));
        assert!(new_enough("1.97.0-nightly", "1.95"));
        assert!(!new_enough("1.63.0", "1.95"));
    }

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_bytes() {
        assert_eq!(number_after("\0libLLVM.so.22.1\0", "libLLVM.so."), Some(22));
        assert_eq!(number_after("libLLVM.so.x libLLVM.so.19", "libLLVM.so."), Some(19));
        assert_eq!(number_after("static", "libLLVM.so."), None);
    }
}
