//! Rules about the text of files: headers, leftovers, paths of one machine, error codes, the size of the glue.
//!
//! What a rule searches for is written here in two halves, so that this file does not break it.

use std::collections::BTreeSet;

use super::Finding;
use super::tree::{File, Tree};

/// Lines of code of `lb-ebpf/src`, all files together: the kernel's crate adapts and decides nothing.
const GLUE_LINES: usize = 300;
const GLUE: &str = "lb-ebpf/src/";
/// The list of codes.
const CODES: &str = "lb-control/src/code.rs";
/// The manual's page that lists every error code.
const ERRORS: &str = "docs/guide/errors.md";
/// The only place crates may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

const LEFTOVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];
const MACHINE_DIRS: [&str; 4] =
    [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];

/// The first line of a source file opens its module documentation.
pub(super) fn headers(tree: &Tree) -> Vec<Finding> {
    let bare = tree.rust().filter(|file| !file.text.starts_with("//!"));
    bare.map(|file| Finding::new(&file.path, 1, "begin with `//!`: what this file holds and what not"))
        .collect()
}

/// The crate for the kernel stays small.
pub(super) fn glue(tree: &Tree) -> Vec<Finding> {
    let files = tree.rust().filter(|file| file.path.starts_with(GLUE));
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let lines: usize = files.map(|file| file.text.lines().filter(is_code).count()).sum();
    let text =
        format!("{lines} lines of code, fewer than {GLUE_LINES} are allowed: decisions belong to lb-common");
    if lines < GLUE_LINES { Vec::new() } else { vec![Finding::new(GLUE, 0, text)] }
}

/// No note to do it later, no body left out.
pub(super) fn leftovers(tree: &Tree) -> Vec<Finding> {
    let files = tree.files.iter().filter(|file| !file.path.ends_with(".lock"));
    files.flat_map(|file| matches(file, &LEFTOVERS, "do it now, or write down why not")).collect()
}

/// No directory of somebody's machine, no registry but crates.io.
pub(super) fn machines(tree: &Tree) -> Vec<Finding> {
    let dirs = tree.files.iter().flat_map(|file| matches(file, &MACHINE_DIRS, "a path of one machine"));
    let registries = tree.files.iter().flat_map(|file| {
        let lock = file.path.ends_with("Cargo.lock");
        let config = file.path.ends_with(".cargo/config.toml");
        let strange = file.lines().filter(move |(_, line)| {
            lock && line.starts_with("source = ") && !line.contains(REGISTRY)
                || config && (line.starts_with("[source") || line.starts_with("[registr"))
        });
        strange.map(|(number, _)| Finding::new(&file.path, number, "crates come from crates.io only"))
    });
    dirs.chain(registries).collect()
}

/// The one list of codes and the manual's page name the same set, once that page exists.
pub(super) fn error_codes(tree: &Tree) -> Vec<Finding> {
    let named = |path: &str| tree.files.iter().find(|file| file.path == path);
    let (Some(manual), Some(list)) = (named(ERRORS), named(CODES)) else {
        return Vec::new();
    };
    let explained: BTreeSet<String> = codes(&manual.text).map(str::to_owned).collect();
    let listed: BTreeSet<String> = list.text.lines().filter_map(listed_code).collect();
    let unexplained = listed
        .difference(&explained)
        .map(|code| Finding::new(CODES, 0, format!("{code} is not explained in {ERRORS}")));
    let unlisted = explained
        .difference(&listed)
        .map(|code| Finding::new(ERRORS, 0, format!("{CODES} does not list {code}")));
    unexplained.chain(unlisted).collect()
}

/// The code of a line of the list, such as `UnknownVip 1002 "there is no such vip"`.
fn listed_code(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (_, number, text) = (words.next()?, words.next()?, words.next()?);
    let is_code = number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()) && text.starts_with('"');
    is_code.then(|| format!("LB{number}"))
}

/// Words of the form `LBnnnn`.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| {
        word.len() == 6 && word.starts_with("LB") && word[2..].bytes().all(|b| b.is_ascii_digit())
    })
}

/// Lines where one of the words begins that is not the end of a longer word.
fn matches(file: &File, words: &[&str], text: &str) -> Vec<Finding> {
    let begins = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            let inside = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            match word.ends_with(['/', '(']) {
                true => !inside(before) && !matches!(before, Some('.' | '-')),
                false => !inside(before) && !inside(after),
            }
        })
    };
    let hits = file.lines().filter_map(|(number, line)| {
        let word = words.iter().find(|word| begins(line, word))?;
        Some(Finding::new(&file.path, number, format!("`{word}`: {text}")))
    });
    hits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(findings: &[Finding]) -> Vec<(&str, usize)> {
        findings.iter().map(|found| (found.path.as_str(), found.line)).collect()
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        let tree = Tree::of(&[("a.rs", "//! Holds a.\n"), ("b.rs", "use x;\n//! late\n"), ("c.md", "# c\n")]);
        assert_eq!(lines_of(&headers(&tree)), [("b.rs", 1)]);
    }

    #[test]
    fn glue_of_300_lines_of_code_is_too_much() {
        let half = "x();\n// why\n\n".repeat(150);
        assert_eq!(glue(&Tree::of(&[("lb-ebpf/src/a.rs", &half), ("lb-common/src/b.rs", &half)])), []);
        assert_eq!(glue(&Tree::of(&[("lb-ebpf/src/a.rs", &half), ("lb-ebpf/src/b.rs", &half)])).len(), 1);
    }

    #[test]
    fn leftovers_are_found_as_words() {
        let late = format!("fine\n// {}: later\nMY{}S\n    {})\n", LEFTOVERS[0], LEFTOVERS[0], LEFTOVERS[5]);
        assert_eq!(lines_of(&leftovers(&Tree::of(&[("a.rs", &late)]))), [("a.rs", 2), ("a.rs", 4)]);
    }

    #[test]
    fn paths_and_registries_of_one_machine_are_found() {
        let notes = format!("see {}me/x\nhttps://example.org{}x\n", MACHINE_DIRS[0], MACHINE_DIRS[3]);
        let lock = format!("source = \"{REGISTRY}\"\nsource = \"registry+https://mirror.example/index\"\n");
        let tree =
            Tree::of(&[("a.md", &notes), ("Cargo.lock", &lock), (".cargo/config.toml", "[source.x]\n")]);
        assert_eq!(lines_of(&machines(&tree)), [("a.md", 1), ("Cargo.lock", 2), (".cargo/config.toml", 1)]);
    }

    #[test]
    fn codes_and_manual_must_agree() {
        let list = (CODES, "codes! {\n    A 0001 \"short\"\n        \"advice\";\n    B 0002 \"short\"\n");
        assert_eq!(error_codes(&Tree::of(&[list])), []);
        let found = error_codes(&Tree::of(&[list, (ERRORS, "| LB0001 | short |\n| LB0003 | |\n")]));
        assert_eq!(lines_of(&found), [(CODES, 0), (ERRORS, 0)]);
        assert!(found[0].text.starts_with("LB0002") && found[1].text.ends_with("LB0003"));
    }
}
