//! When a test cannot run here: say so loudly and leave a line where the runner counts them.
//!
//! A skipped test is never silent: it goes to stderr past the test harness's capture, and to the file
//! named by `LB_TEST_SKIPS_FILE`, so that a run which must not skip can look at it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Environment variable naming the file that gets one line for each skipped test.
pub const SKIPS_FILE_VAR: &str = "LB_TEST_SKIPS_FILE";

/// Whether `test` can run: we are root, and each of `tools` is installed. If not, the test is reported
/// as skipped and must return at once (the macro [`crate::require_root!`] does both).
#[must_use]
pub fn require_root_or_skip(test: &str, tools: &[&str]) -> bool {
    match obstacle(tools) {
        None => true,
        Some(why) => {
            report_skip(test, &why);
            false
        }
    }
}

/// Why namespace tests that use `tools` cannot run here, if so.
#[must_use]
pub fn obstacle(tools: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("namespaces need root: try it with `sudo -E`".to_owned());
    }
    let missing: Vec<&str> =
        ["ip", "ethtool"].iter().chain(tools).copied().filter(|tool| !is_installed(tool)).collect();
    (!missing.is_empty())
        .then(|| format!("not installed: {}; `cargo xtask setup` installs it", missing.join(", ")))
}

/// Reports `test` as skipped because of `why`.
pub fn report_skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    // Not eprintln!: the test harness would capture it. Nothing can be done if stderr is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Some(path) = std::env::var_os(SKIPS_FILE_VAR) else { return };
    let path = Path::new(&path);
    if let Err(error) = append(path, &line) {
        panic!("{SKIPS_FILE_VAR}: cannot append to {}: {error}", path.display());
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

/// Whether a program of this name is on the path.
#[must_use]
pub fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Returns from the calling test, reported as skipped, unless we are root and the tools are there.
/// `ip` and `ethtool` are always asked for.
#[macro_export]
macro_rules! require_root {
    ($test:expr $(, $tool:expr)* $(,)?) => {
        if !$crate::skip::require_root_or_skip($test, &[$($tool),*]) {
            return;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn names_the_missing_tool() {
        let why = obstacle(&["no-such-tool"]).unwrap();
        assert!(why.contains("no-such-tool") || why.contains("root"), "{why}");
        assert!(is_installed("sh"));
    }

    #[test]
    fn each_skip_is_a_line() {
        let dir = ScratchDir::create().unwrap();
        let file = dir.path().join("skips");
        append(&file, "SKIPPED: one: why\n").unwrap();
        append(&file, "SKIPPED: two: why\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
    }
}
