//! Faults of a file for people: each at its place in the text, with a caret, its code and what to do.

use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Severity};

use super::Source;
use super::walk::Fault;
use crate::problem::Problem;
use crate::terminal::masked;

/// A problem and the places in the text that it means.
#[derive(Debug)]
struct Located {
    problem: Problem,
    span: Option<Range<usize>>,
    related: Option<Range<usize>>,
}

/// What is wrong with a file: at least one problem.
#[derive(Debug)]
pub struct Report {
    source: Source,
    located: Vec<Located>,
}

impl Report {
    pub(super) fn of_faults(source: Source, faults: Vec<Fault>) -> Self {
        let locate = |fault: Fault| {
            let problem = Problem::new(fault.code, fault.message).at(place(&source, &fault.span));
            Located { problem, span: Some(fault.span), related: None }
        };
        let located = faults.into_iter().map(locate).collect();
        Self { source, located }
    }

    pub(super) fn of_problem(
        source: Source,
        mut problem: Problem,
        span: impl Fn(Option<&str>) -> Option<Range<usize>>,
    ) -> Self {
        let also = std::mem::take(&mut problem.also);
        let locate = |mut problem: Problem| {
            let own = problem.place.as_deref().and_then(|place| span(Some(place)));
            let related = problem.related.as_deref().and_then(|place| span(Some(place)));
            if let Some(own) = &own {
                problem.place = Some(place(&source, own).into());
            }
            Located { problem, span: own, related }
        };
        let located = std::iter::once(problem).chain(also).map(locate).collect();
        Self { source, located }
    }

    /// All of it as one problem, the first with the others beside it.
    pub fn problem(&self) -> Problem {
        let mut problems = self.located.iter().map(|located| located.problem.clone());
        let first = problems.next();
        let mut first = first.unwrap_or_else(|| Problem::bug("a report without a problem"));
        first.also = problems.collect();
        first
    }

    /// All of it for a terminal, or for a file if not `coloured`.
    pub fn text(&self, coloured: bool) -> String {
        let text_shown = masked(&self.source.text);
        let theme = if coloured { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(110).with_links(false);
        let mut text = String::new();
        for located in &self.located {
            // The text goes with each, so that each stands for itself.
            let source = NamedSource::new(&self.source.name, text_shown.clone());
            let report = miette::Report::new(located.diagnostic()).with_source_code(source);
            if handler.render_report(&mut text, report.as_ref()).is_err() {
                text.push_str(&located.problem.to_string());
            }
            text.push('\n');
        }
        text
    }
}

impl Located {
    fn diagnostic(&self) -> MietteDiagnostic {
        let mut labels = Vec::new();
        if let Some(span) = &self.span {
            labels.push(LabeledSpan::new_primary_with_span(Some("here".to_owned()), span.clone()));
        }
        if let Some(span) = &self.related {
            labels.push(LabeledSpan::new_with_span(Some("and here".to_owned()), span.clone()));
        }
        let mut diagnostic = MietteDiagnostic::new(masked(&self.problem.message))
            .with_severity(Severity::Error)
            .with_code(self.problem.code.clone())
            .with_labels(labels);
        if let Some(help) = &self.problem.help {
            diagnostic = diagnostic.with_help(help.clone());
        }
        diagnostic
    }
}

/// `file:line:column`, both from 1; a column is a character.
fn place(source: &Source, span: &Range<usize>) -> String {
    let before = source.text.get(..span.start).unwrap_or(&source.text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}:{line}:{column}", source.name)
}
