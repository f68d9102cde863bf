//! What hashing a flow costs in BPF: the balancer's SipHash-1-3, and xxh64 under a seed, which is quicker and which an
//! attacker can aim (docs/adr/0004).
//!
//! As (a), but the programs do nothing else: each hashes the packet's flow several times, one hash after the other.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use lb_common::abi::backend::Mode;
use serde::Serialize;

use super::path::{XDP_TX, destination, established};
use super::plane::{Plane, Served};
use super::programs::Programs;
use super::{Effort, median};

/// Flows, drawn at random; a hash costs the same whatever it hashes.
const FLOWS: u32 = 1_000_000;
/// Hashes for one packet, as `tests/bpf/src/hash.rs` has it.
const HASHES: f64 = 8.0;
const NOTHING: usize = 0;
/// The programs, and the keys of what they cost.
const PROGRAMS: [(&str, &str); 5] = [
    ("hash_nothing", ""),
    ("hash_siphash", "hash_siphash_ns"),
    ("hash_xxh64", "hash_xxh64_ns"),
    ("hash_siphash_v6", "hash_siphash_v6_ns"),
    ("hash_xxh64_v6", "hash_xxh64_v6_ns"),
];

/// One program.
#[derive(Clone, Debug, Serialize)]
pub struct Hash {
    /// The program.
    pub program: &'static str,
    /// Nanoseconds of one hash, from the median of the rounds; of `hash_nothing`, of the packet.
    pub ns: f64,
}

/// The keys.
pub fn keys(hashes: &[Hash]) -> Vec<(&'static str, Option<f64>)> {
    let of = |program: &str| Some(hashes.iter().find(|hash| hash.program == program)?.ns);
    PROGRAMS[NOTHING + 1..].iter().map(|(program, key)| (*key, of(program))).collect()
}

/// Measures every program.
///
/// # Errors
/// When the programs cannot be loaded.
pub fn run(effort: Effort) -> Result<Vec<Hash>> {
    let served = Served { address: Ipv4Addr::new(203, 0, 113, 10), port: 80 };
    let plane = Plane::open(served, &[destination(1)], Mode::L2)?;
    let mut programs = Programs::load(&plane, served, [2, 0, 0, 0, 0, 1], 1)?;
    for (number, (name, _)) in (0..).zip(PROGRAMS) {
        programs.number(number, name)?;
    }
    let (rounds, packets) = effort.path_rounds();
    let mut times: [Vec<f64>; PROGRAMS.len()] = Default::default();
    for _ in 0..rounds {
        for (number, times) in (0..).zip(&mut times) {
            let time = programs.time(established(FLOWS), number, packets, XDP_TX);
            times.push(time.with_context(|| PROGRAMS[number as usize].0)?);
        }
    }
    let medians = times.map(|mut times| median(&mut times));
    let hash = |(number, (program, _)): (usize, (&'static str, &str))| {
        let ns = if number == NOTHING { medians[0] } else { (medians[number] - medians[NOTHING]) / HASHES };
        Hash { program, ns }
    };
    Ok(PROGRAMS.into_iter().enumerate().map(hash).collect())
}
