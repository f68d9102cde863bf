//! The demo as a program: its arguments and its exit code. Everything else is in `lb_tests::demo`.

use std::process::ExitCode;

use clap::Parser;
use lb_tests::demo::{Options, run};

fn main() -> ExitCode {
    let options = Options::parse();
    run(&options).unwrap_or_else(|error| {
        eprintln!("demo: error: {error:#}");
        if options.json {
            println!("{}", serde_json::json!({ "ok": false, "error": format!("{error:#}") }));
        }
        ExitCode::FAILURE
    })
}
