//! The `lb` binary: its streams, its runtime, its exit status. Everything else is in the library.

use std::io::{IsTerminal, stderr, stdout};
use std::process::ExitCode;

/// What one large command needed goes back to the system, and threads free what others made without waiting for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lb_userspace::memory::give_back_at_once();
    // NO_COLOR of any value but the empty one means no (no-color.org).
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let coloured = wanted && stdout().is_terminal() && stderr().is_terminal();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut stdout, mut stderr) = (stdout(), stderr());
    let run = lb_userspace::cli::run(std::env::args_os(), &mut stdout, &mut stderr, coloured);
    ExitCode::from(runtime.block_on(run))
}
