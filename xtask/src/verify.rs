//! `cargo xtask verify`: this kernel's verifier judges the shipped object, and its figures keep to a budget.
//!
//! The programs are loaded, never attached, in a mount namespace with a bpffs of its own: pins of a running
//! balancer are neither seen nor touched, and all is gone when the command ends. Needs root.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::build;
use crate::process::{self, say};
use crate::setup::{self, Need};

/// Bytes after translation by the verifier, eight an instruction: a fifth over what was measured with trials and limits
/// of tenants in the path (80 KB).
const TRANSLATED_BYTES: u64 = 96 * 1024;
/// Instructions the verifier walked through. The kernel's limit is 1,000,000; a quarter of it leaves room for kernels
/// that prune fewer states, and keeps the start of a daemon under a few seconds (measured: 188 thousand, two seconds).
const VERIFIED_INSTRUCTIONS: u64 = 250_000;
/// Bytes of the largest stack frame. A function and all its callers share 512 bytes, which the kernel enforces; this
/// leaves a quarter of it to the callers.
const STACK_BYTES: u64 = 384;
/// Bytes of machine code: less than twice an L1 instruction cache (32 KiB), of which a packet walks one branch.
const JIT_BYTES: u64 = 56 * 1024;
/// Lines of the verifier's log that are shown when it refuses.
const LOG_TAIL: usize = 40;

/// Loads an object with the verifier's log on, then shows what was loaded, one JSON object a line.
const LOAD: &str = r#"
mount -t bpf bpf /sys/fs/bpf && mkdir /sys/fs/bpf/programs || exit 1
bpftool -d prog loadall "$1" /sys/fs/bpf/programs 2>&1 || exit 1
for pin in /sys/fs/bpf/programs/*; do bpftool -j prog show pinned "$pin"; echo; done
"#;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One JSON object on stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Judge this object file instead of the one of this checkout.
    #[arg(long)]
    object: Option<std::path::PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !process::is_root() {
        bail!("loading a program into the kernel needs root");
    }
    setup::ensure(&[Need::Build, Need::Verify])?;
    let object = match &args.object {
        Some(object) => object.clone(),
        None => build::program()?,
    };
    let programs = load(&object)?;
    if args.json {
        println!("{}", serde_json::to_string(&programs)?);
    } else {
        print_table(&programs);
    }
    let over: Vec<String> = programs.iter().flat_map(Program::over_budget).collect();
    if !over.is_empty() {
        bail!("over budget: {}", over.join("; "));
    }
    say!("{} programs accepted, within budget", programs.len());
    Ok(())
}

/// What the kernel says about one program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Program {
    name: String,
    translated_bytes: u64,
    verified_instructions: u64,
    /// The largest frame among the program and its subprograms.
    stack_bytes: u64,
    jit_bytes: u64,
    verification_us: u64,
}

impl Program {
    fn over_budget(&self) -> Vec<String> {
        let figures = [
            ("translated bytes", self.translated_bytes, TRANSLATED_BYTES),
            ("verified instructions", self.verified_instructions, VERIFIED_INSTRUCTIONS),
            ("stack bytes", self.stack_bytes, STACK_BYTES),
            ("JIT bytes", self.jit_bytes, JIT_BYTES),
        ];
        let over = figures.into_iter().filter(|(_, value, budget)| value > budget);
        over.map(|(what, value, budget)| format!("{}: {value} {what}, {budget} are allowed", self.name))
            .collect()
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Program {
            name,
            translated_bytes,
            verified_instructions,
            stack_bytes,
            jit_bytes,
            verification_us,
        } = self;
        write!(
            f,
            "{name:<16}{translated_bytes:>12}{verified_instructions:>12}{stack_bytes:>8}{jit_bytes:>9}{:>11.1}",
            *verification_us as f64 / 1000.0
        )
    }
}

fn print_table(programs: &[Program]) {
    println!(
        "{:<16}{:>12}{:>12}{:>8}{:>9}{:>11}",
        "program", "translated", "verified", "stack", "JIT", "verified"
    );
    println!("{:<16}{:>12}{:>12}{:>8}{:>9}{:>11}", "", "bytes", "insns", "bytes", "bytes", "in ms");
    for program in programs {
        println!("{program}");
    }
    println!(
        "{:<16}{TRANSLATED_BYTES:>12}{VERIFIED_INSTRUCTIONS:>12}{STACK_BYTES:>8}{JIT_BYTES:>9}{:>11}",
        "budget", "-"
    );
}

fn load(object: &Path) -> Result<Vec<Program>> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", LOAD, "sh"]).arg(object).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().context("start unshare")?;
    let mut log = Log::default();
    // The log of a refused program may have millions of lines: read them as they come, keep the last.
    for line in BufReader::new(child.stdout.take().context("its output")?).split(b'\n') {
        log.line(&String::from_utf8_lossy(&line.context("read the verifier's log")?));
    }
    if !child.wait().context("wait for unshare")?.success() {
        for line in &log.tail {
            eprintln!("{line}");
        }
        bail!("the kernel refused {}; the end of the log stands above", object.display());
    }
    if log.programs.is_empty() {
        bail!("{} holds no program", object.display());
    }
    Ok(log.programs)
}

/// Reads the output of `LOAD` line by line.
#[derive(Default)]
struct Log {
    programs: Vec<Program>,
    tail: std::collections::VecDeque<String>,
}

/// `bpftool -j prog show`, as far as read.
#[derive(Deserialize)]
struct Shown {
    name: String,
    bytes_xlated: u64,
    #[serde(default)]
    bytes_jited: u64,
}

impl Log {
    fn line(&mut self, line: &str) {
        if let Some(name) =
            line.strip_prefix("libbpf: prog '").filter(|_| line.contains("BEGIN PROG LOAD LOG"))
        {
            let name = name.split('\'').next().unwrap_or_default().to_owned();
            // libbpf loads again with a larger buffer when the log did not fit.
            self.programs.retain(|program| program.name != name);
            self.programs.push(Program { name, ..Program::default() });
        } else if line.starts_with('{') {
            self.shown(line);
        } else if let Some(program) = self.programs.last_mut() {
            program.statistics(line);
        }
        if self.tail.len() == LOG_TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }

    fn shown(&mut self, line: &str) {
        let Ok(shown) = serde_json::from_str::<Shown>(line) else { return };
        // The kernel cuts names to 15 bytes.
        if let Some(program) = self.programs.iter_mut().find(|program| program.name.starts_with(&shown.name))
        {
            program.translated_bytes = shown.bytes_xlated;
            program.jit_bytes = shown.bytes_jited;
        }
    }
}

impl Program {
    /// `verification time 120 usec`, `stack depth 72+0`, `processed 55 insns (limit 1000000) …`.
    fn statistics(&mut self, line: &str) {
        let number = |text: &str| text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        if let Some(rest) = line.strip_prefix("verification time ") {
            self.verification_us = number(rest);
        } else if let Some(rest) = line.strip_prefix("stack depth ") {
            self.stack_bytes = rest.split('+').map(number).max().unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix("processed ") {
            self.verified_instructions = number(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Program> {
        let mut log = Log::default();
        text.lines().for_each(|line| log.line(line));
        log.programs
    }

    const OUTPUT: &str = "libbpf: loading x.o\n\
        libbpf: prog 'switchyard_balancer': -- BEGIN PROG LOAD LOG --\n\
        0: (bf) r6 = r1\n\
        verification time 120 usec\nstack depth 72+40\n\
        processed 55 insns (limit 1000000) max_states_per_insn 0\n\
        {\"id\":1,\"type\":\"xdp\",\"name\":\"switchyard_bala\",\"bytes_xlated\":480,\"jited\":true,\"bytes_jited\":300}\n";

    #[test]
    fn figures_are_read_from_the_log_and_the_listing() {
        let expected = Program {
            name: "switchyard_balancer".to_owned(),
            translated_bytes: 480,
            verified_instructions: 55,
            stack_bytes: 72,
            jit_bytes: 300,
            verification_us: 120,
        };
        for output in [OUTPUT.to_owned(), format!("{OUTPUT}{OUTPUT}")] {
            assert_eq!(read(&output), std::slice::from_ref(&expected));
        }
    }

    #[test]
    fn each_figure_over_its_budget_is_named() {
        let at = Program {
            name: "lb".to_owned(),
            translated_bytes: TRANSLATED_BYTES,
            verified_instructions: VERIFIED_INSTRUCTIONS,
            stack_bytes: STACK_BYTES,
            jit_bytes: JIT_BYTES,
            verification_us: 0,
        };
        assert!(at.over_budget().is_empty());
        let over = Program { stack_bytes: STACK_BYTES + 1, jit_bytes: JIT_BYTES + 1, ..at };
        assert_eq!(over.over_budget().len(), 2);
    }
}
