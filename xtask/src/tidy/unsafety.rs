//! Rule: `unsafe` stands in few files, and a comment before each says why it holds.
//!
//! Works on tokens, so that code inside macros is seen too. Attributes such as `#[unsafe(no_mangle)]` are not
//! counted: they name a symbol and touch no memory.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Finding;
use super::tree::{File, Tree};

/// Files and directories (with `/` at the end) that may hold `unsafe`.
const PLACES: &[&str] = &[
    "lb-ebpf/src/frame.rs",
    "lb-ebpf/src/maps.rs",
    "lb-ebpf/src/tables.rs",
    "lb-userspace/src/dataplane/",
    "lb-userspace/src/memory.rs",
    "tests/src/netns.rs",
    "tests/bpf/",
];

pub(super) fn findings(tree: &Tree) -> Vec<Finding> {
    tree.rust().flat_map(in_file).collect()
}

fn in_file(file: &File) -> Vec<Finding> {
    let mut lines = Vec::new();
    if let Ok(tokens) = file.text.parse::<TokenStream>() {
        unsafe_lines(tokens, &mut lines);
    }
    let text: Vec<&str> = file.text.lines().collect();
    let allowed = PLACES.iter().any(|place| file.path.starts_with(place));
    let judge = |line: usize| {
        if !allowed {
            Some(Finding::new(&file.path, line, format!("`unsafe` is allowed only in {}", PLACES.join(", "))))
        } else if !justified(&text, line) {
            Some(Finding::new(&file.path, line, "`unsafe` without a `// SAFETY:` comment before it"))
        } else {
            None
        }
    };
    lines.into_iter().filter_map(judge).collect()
}

/// Lines (from 1) of the keyword, whatever follows it.
fn unsafe_lines(tokens: TokenStream, lines: &mut Vec<usize>) {
    let mut after_hash = false;
    for token in tokens {
        match token {
            TokenTree::Ident(word) if word == "unsafe" => lines.push(word.span().start().line),
            TokenTree::Group(group) => {
                let attribute = after_hash && group.delimiter() == Delimiter::Bracket;
                if !attribute {
                    unsafe_lines(group.stream(), lines);
                }
                after_hash = false;
            }
            // `#[…]` and `#![…]`
            TokenTree::Punct(punct) => {
                after_hash = punct.as_char() == '#' || (after_hash && punct.as_char() == '!')
            }
            _ => after_hash = false,
        }
    }
}

/// Whether the comments before the statement or item of this line give the reason.
fn justified(text: &[&str], line: usize) -> bool {
    let is_reason = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let is_end = |line: &str| line.is_empty() || line.ends_with([';', '{', '}']);
    let above = text[..line - 1].iter().rev().map(|line| line.trim());
    is_reason(text[line - 1])
        || above.take_while(|line| line.starts_with("//") || !is_end(line)).any(is_reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "//! x\nfn f() {\n    g();\n    let x = unsafe { h() };\n}\n";
    const JUSTIFIED: &str =
        "fn f() {\n    // SAFETY: h has no preconditions.\n    let x =\n        unsafe { h() };\n}\n";

    #[test]
    fn elsewhere_it_is_forbidden_even_with_a_reason() {
        let found = findings(&Tree::of(&[("lb-common/src/x.rs", JUSTIFIED)]));
        assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [4]);
        assert!(found[0].text.contains("allowed only in"));
    }

    #[test]
    fn in_its_place_it_needs_a_reason() {
        let found =
            findings(&Tree::of(&[("lb-ebpf/src/maps.rs", BARE), ("tests/bpf/src/main.rs", JUSTIFIED)]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("lb-ebpf/src/maps.rs", 4));
    }

    #[test]
    fn a_reason_further_up_does_not_count() {
        let text = "fn f() {\n    // SAFETY: of another one.\n    g();\n    unsafe { h() };\n}\n";
        assert_eq!(findings(&Tree::of(&[("tests/src/netns.rs", text)])).len(), 1);
    }

    #[test]
    fn macros_are_seen_and_attributes_are_not() {
        let text = "#[unsafe(no_mangle)]\nfn f() {\n    m!(unsafe { h() });\n}\n// unsafe\nconst S: &str = \"unsafe\";\n";
        let found = findings(&Tree::of(&[("lb-ebpf/src/main.rs", text)]));
        assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [3]);
    }
}
