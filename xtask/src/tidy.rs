//! `cargo xtask tidy`: the rules of the rooms as checks; formatting and lints last.
//!
//! A rule is a function from the checkout to findings, in one file of `tidy/`, with tests that show it can
//! fail. Reads only; fixes nothing. Invariant: the last line of stdout is `tidy: N passed, N failed`.

mod arrows;
mod glossary;
mod lengths;
mod readers;
mod texts;
mod tree;
mod unsafety;

use std::fmt;

use anyhow::Result;

use crate::{process, workspace};
use tree::Tree;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out rustfmt and clippy: the rules alone take a second.
    #[arg(long)]
    rules_only: bool,
}

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// File, relative to the root.
    path: String,
    /// Line from 1; 0 for the file as a whole.
    line: usize,
    /// What is wrong and what to do.
    text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.path, self.text)
        } else {
            write!(f, "{}:{}: {}", self.path, self.line, self.text)
        }
    }
}

/// A rule's name and what it looks at.
type Rule = (&'static str, fn(&Tree) -> Vec<Finding>);

const RULES: &[Rule] = &[
    ("every source file says what it holds (`//!`)", texts::headers),
    ("functions and files are short", lengths::findings),
    ("`unsafe` stays in its places, each with its reason", unsafety::findings),
    ("names and prose keep to the glossary", glossary::findings),
    ("the BPF crate is glue", texts::glue),
    ("readers never meet the writer", readers::findings),
    ("nothing is left for later", texts::leftovers),
    ("no path of one machine, no other registry", texts::machines),
    ("every error code is in the manual", texts::error_codes),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let tree = Tree::of_checkout()?;
    let mut failed = 0;
    let mut passed = 0;
    let mut report = |name: &str, findings: &[Finding]| {
        println!("{} {name}", if findings.is_empty() { "ok  " } else { "FAIL" });
        for finding in findings {
            println!("     {finding}");
        }
        *(if findings.is_empty() { &mut passed } else { &mut failed }) += 1;
    };
    for (name, rule) in RULES {
        report(name, &rule(&tree));
    }
    report("dependencies point one way", &arrows::findings()?);
    if !args.rules_only {
        report("sources are formatted", &formatting(&tree));
        report("clippy has nothing to say", &lints());
    }
    for note in lengths::long_files(&tree) {
        println!("note {note}");
    }
    println!("tidy: {passed} passed, {failed} failed");
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// Files that rustfmt would change, in every workspace.
fn formatting(tree: &Tree) -> Vec<Finding> {
    tree.workspaces().flat_map(unformatted).collect()
}

fn unformatted(manifest: &str) -> Vec<Finding> {
    let mut fmt = process::cargo();
    fmt.current_dir(workspace::root().join(manifest).parent().unwrap_or(&workspace::root()));
    // With `--all` a BPF workspace would name the crates of the host's workspace that it uses again.
    let all = (manifest == "Cargo.toml").then_some("--all");
    fmt.args(["fmt", "--check"]).args(all).args(["--", "-l"]);
    let Ok(output) = fmt.output() else {
        return vec![Finding::new(manifest, 0, "cargo fmt is not installed")];
    };
    let files = String::from_utf8_lossy(&output.stdout).into_owned();
    let prefix = format!("{}/", workspace::root().display());
    let mut findings: Vec<Finding> = files
        .lines()
        .map(|file| Finding::new(file.strip_prefix(&prefix).unwrap_or(file), 0, "run `cargo fmt`"))
        .collect();
    if !output.status.success() && findings.is_empty() {
        findings.push(Finding::new(manifest, 0, String::from_utf8_lossy(&output.stderr).trim()));
    }
    findings
}

/// Clippy over the host's workspace; the BPF workspaces have another target and share their logic with it.
fn lints() -> Vec<Finding> {
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]);
    match process::run(&mut clippy) {
        Ok(()) => Vec::new(),
        Err(error) => vec![Finding::new("Cargo.toml", 0, error.to_string())],
    }
}
