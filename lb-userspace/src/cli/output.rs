//! Where a command's words go: data to stdout, talk to stderr, JSON instead of text where asked.
//!
//! Invariant: text that came from outside (names, files, the daemon's answers) is cleaned of control characters, so
//! that nobody can steer a terminal by the name of a vip.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::problem::Problem;
use crate::terminal::{clean, clean_lines};

/// A command's two streams.
pub(super) struct Output<'a> {
    stdout: &'a mut (dyn Write + Send),
    stderr: &'a mut (dyn Write + Send),
    /// Whether JSON was asked for.
    pub(super) json: bool,
    /// Whether stderr and stdout take colours.
    pub(super) coloured: bool,
    /// The problem was shown already.
    shown: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        stdout: &'a mut (dyn Write + Send),
        stderr: &'a mut (dyn Write + Send),
        json: bool,
        coloured: bool,
    ) -> Self {
        Self { stdout, stderr, json, coloured, shown: false }
    }

    /// A line of data. A reader that went away is no error of ours.
    pub(super) fn line(&mut self, text: &str) {
        let _ = writeln!(self.stdout, "{}", clean(text));
    }

    /// Several lines of data.
    pub(super) fn lines(&mut self, text: &str) {
        let _ = self.stdout.write_all(clean_lines(text).as_bytes());
    }

    /// Data that is not for people.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stdout.write_all(bytes);
    }

    /// A line of data behind a mark that has its style already.
    pub(super) fn marked(&mut self, mark: &str, text: &str) {
        let _ = writeln!(self.stdout, "  {mark} {}", clean(text));
    }

    /// A heading above data.
    pub(super) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.stdout, "{}", self.styled("1", text));
    }

    /// A value as JSON.
    ///
    /// # Errors
    /// A bug: our own shapes have a form in JSON.
    pub(super) fn value(&mut self, value: &impl Serialize) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Problem::bug(error.to_string()))?;
        let _ = writeln!(self.stdout, "{text}");
        Ok(())
    }

    /// A table of data under its headings, each line indented by two.
    pub(super) fn table(&mut self, headings: &[&str], rows: Vec<Vec<String>>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
        }
        for line in table.lines() {
            let _ = writeln!(self.stdout, " {}", line.trim_end());
        }
    }

    /// Talk.
    pub(super) fn say(&mut self, text: &str) {
        let _ = writeln!(self.stderr, "{}", clean(text));
    }

    /// A warning, which is talk.
    pub(super) fn warn(&mut self, text: &str) {
        let _ = writeln!(self.stderr, "{} {}", self.styled("33", "warning:"), clean(text));
    }

    /// A problem that was laid out already, with the text around its place; [`Output::problem`] adds nothing to it.
    pub(super) fn problem_laid_out(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes());
        self.shown = true;
    }

    /// Something that is wrong: what, where, what to do, and its code.
    pub(super) fn problem(&mut self, problem: &Problem) {
        if self.json {
            let body = serde_json::json!({ "schema": crate::api::SCHEMA, "error": problem });
            let _ = writeln!(self.stderr, "{body}");
            return;
        }
        if self.shown {
            return;
        }
        for problem in std::iter::once(problem).chain(&problem.also) {
            let _ = writeln!(self.stderr, "{} {}", self.styled("31;1", "error:"), clean(&problem.message));
            let mut detail = |name: &str, text: &Option<Box<str>>| {
                if let Some(text) = text {
                    let _ = writeln!(self.stderr, "  {name}: {}", clean(text));
                }
            };
            detail("place", &problem.place);
            detail("and", &problem.related);
            detail("help", &problem.help);
            let _ = writeln!(self.stderr, "  code: {}", clean(&problem.code));
        }
    }

    /// Text in a style of the terminal, if it takes any.
    pub(super) fn styled(&self, style: &str, text: &str) -> String {
        let text = clean(text);
        if self.coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_all_its_parts() {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let problem = Problem::new(crate::problem::Code::UnknownVip, "vip `x` does not exist").at("vip");
        Output::new(&mut stdout, &mut stderr, false, false).problem(&problem);
        let text = String::from_utf8(stderr).unwrap();
        assert!(text.starts_with("error: vip `x` does not exist\n  place: vip\n  help: "), "{text}");
        assert!(text.ends_with("code: LB1002\n"), "{text}");
        assert!(stdout.is_empty());
    }
}
