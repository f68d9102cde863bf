//! Embeds the BPF object into the binary, if it was built: `target/bpf/lb-ebpf.o` of the workspace.
//!
//! Without it everything still compiles, so that neither a BPF toolchain nor root is needed to work on the control
//! plane; what needs the data plane then says how to get it. Nothing is built or fetched here.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let dir = manifest.parent().expect("the crate lies in a workspace").join("target/bpf");
    let object = dir.join("lb-ebpf.o");
    let built = object.is_file();
    // Without the object its directory is watched: a path that does not exist would rebuild the crate at every call.
    fs::create_dir_all(&dir).expect("create target/bpf");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", if built { &object } else { &dir }.display());
    let source = if built {
        fs::copy(&object, out.join("lb-ebpf.o")).expect("copy the BPF object");
        "pub(super) const OBJECT: Option<&[u8]> = \
         Some(aya::include_bytes_aligned!(concat!(env!(\"OUT_DIR\"), \"/lb-ebpf.o\")));\n"
    } else {
        "pub(super) const OBJECT: Option<&[u8]> = None;\n"
    };
    fs::write(out.join("object.rs"), source).expect("write object.rs");
}
