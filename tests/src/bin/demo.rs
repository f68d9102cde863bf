//! The demo as a program: its arguments and its exit code. Everything else is in `lb_tests::demo`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lb_tests::demo::{Options, run};

fn main() -> Result<ExitCode> {
    run(&Options::parse())
}
