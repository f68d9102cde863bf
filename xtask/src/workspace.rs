//! Where things are: the root of the checkout, the target directory, the objects, the binary.
//!
//! Runs nothing. Invariant: nothing is written outside the target directories.

use std::path::{Path, PathBuf};

/// Root of the checkout this command was started in.
///
/// Asked at run time first: a shared target directory may hold an xtask that another checkout compiled.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest_dir = manifest_dir.filter(|dir| dir.ends_with("xtask"));
    let xtask = manifest_dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf());
    xtask.parent().expect("xtask lies in the root").to_path_buf()
}

/// The workspace's target directory; `CARGO_TARGET_DIR` moves it.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where the BPF objects are put: a fixed place, because the build script of `lb-userspace` looks there.
pub(crate) fn object_dir() -> PathBuf {
    root().join("target/bpf")
}

/// The `lb` binary of a profile.
pub(crate) fn lb_binary(release: bool) -> PathBuf {
    target_dir().join(if release { "release" } else { "debug" }).join("lb")
}
