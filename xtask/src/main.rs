//! `cargo xtask`: the commands of a developer, one file each.
//!
//! Holds the command line and nothing else. It stays light (no crate of the balancer is linked in), so that
//! the first `cargo xtask setup` on a fresh machine starts soon.
//! Invariant: stdout carries only what was asked for (a path, a table, the JSON of `demo` and `bench`);
//! progress and talk go to stderr.
#![forbid(unsafe_code)]

mod attach;
mod bench;
mod build;
mod demo;
mod detach;
mod fuzz;
mod mutants;
mod process;
mod setup;
mod soak;
mod test;
mod tidy;
mod toolchain;
mod verify;

mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of Switchyard.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Each variant is run by the module of its name.
#[derive(Subcommand)]
enum Command {
    /// Find the tools; say what is missing and why, then install it.
    Setup(setup::Args),
    /// Build the BPF objects and the `lb` binary; print the binary's path.
    Build(build::Args),
    /// Real traffic through the balancer in namespaces of this machine.
    Demo(demo::Args),
    /// Every test: unit, property, then the namespace tests (root).
    Test(test::Args),
    /// Measure the packet path and real traffic; JSON and a plot.
    Bench(bench::Args),
    /// Attach the balancer to a device through the running `lb serve`.
    Attach(attach::Args),
    /// Detach the balancer from a device through the running `lb serve`.
    Detach(detach::Args),
    /// Load the BPF object into this kernel; compare size, instructions, stack and JIT with the budget.
    Verify(verify::Args),
    /// Check the rules of the rooms, formatting and lints.
    Tidy(tidy::Args),
    /// Random frames through host and kernel: same verdict, bytes and counters.
    Fuzz(fuzz::Args),
    /// The tests that draw lots, with the numbers of a long run; takes hours.
    Soak(soak::Args),
}

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Attach(args) => attach::run(&args),
        Command::Detach(args) => detach::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Soak(args) => soak::run(&args),
    }
}
