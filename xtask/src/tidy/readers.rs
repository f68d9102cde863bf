//! Rule: readers never meet the writer. What answers questions is made from projections and from what was observed; were
//! it to read the writer's state, a question could hold a command up, and nobody would see how old an answer is.

use super::Finding;
use super::tree::Tree;

/// Where questions are answered.
const READERS: &[&str] = &[
    "lb-userspace/src/api/queries",
    "lb-userspace/src/api/stream.rs",
    "lb-userspace/src/api/views",
    "lb-userspace/src/metrics.rs",
    "lb-userspace/src/projection/",
];
/// How the writer and its state would be named.
const WRITER: &[&str] =
    &["lb_control::state", "lb_control::ledger", "lb_control::decide", "crate::engine", ".engine"];

pub(super) fn findings(tree: &Tree) -> Vec<Finding> {
    let read = |path: &str| READERS.iter().any(|reader| path.starts_with(reader));
    let files = tree.rust().filter(|file| read(&file.path));
    files.flat_map(|file| named(&file.path, &file.text)).collect()
}

fn named(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(word) = WRITER.iter().find(|word| code.contains(**word)) {
            let text = format!("readers must not name `{word}`: ask a projection");
            findings.push(Finding::new(path, number, text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_asks_the_writer_is_found() {
        let text = "let model = node.projections.model();\nlet state = node.engine.state(); // state\n// crate::engine\n";
        let found = named("lb-userspace/src/api/queries/x.rs", text);
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
        assert_eq!(named("x", "use lb_control::state::State;").len(), 1);
    }
}
