//! Rule: a function fits on a screen, a file is read in one sitting.
//!
//! Counts lines as they stand, comments and inline tests included; what a macro generates is not counted.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::tree::{File, Tree};

/// Lines of a function, signature and braces included: one screen.
const FUNCTION_LINES: usize = 70;
/// Lines from which a file is told to be long.
const FILE_LINES_NOTED: usize = 400;
/// Lines of a file: more is two rooms.
const FILE_LINES: usize = 600;

pub(super) fn findings(tree: &Tree) -> Vec<Finding> {
    tree.rust().flat_map(|file| long_functions(file).into_iter().chain(too_long(file))).collect()
}

/// Files that are allowed but might be split.
pub(super) fn long_files(tree: &Tree) -> Vec<Finding> {
    let long =
        tree.rust().filter(|file| (FILE_LINES_NOTED + 1..=FILE_LINES).contains(&file.text.lines().count()));
    long.map(|file| Finding::new(&file.path, 0, format!("{} lines: long", file.text.lines().count())))
        .collect()
}

fn too_long(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    let text = format!("{lines} lines, {FILE_LINES} are allowed: split it");
    (lines > FILE_LINES).then(|| Finding::new(&file.path, 0, text))
}

fn long_functions(file: &File) -> Vec<Finding> {
    let mut functions = Functions { path: &file.path, findings: Vec::new() };
    if let Some(syntax) = file.syntax() {
        functions.visit_file(&syntax);
    }
    functions.findings
}

struct Functions<'a> {
    path: &'a str,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let start = signature.span().start().line;
        let lines = block.span().end().line - start + 1;
        if lines > FUNCTION_LINES {
            let text =
                format!("`{}` has {lines} lines, {FUNCTION_LINES} are allowed: split it", signature.ident);
            self.findings.push(Finding::new(self.path, start, text));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.check(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("impl X {{\n    fn f(&self) {{\n{}    }}\n}}\n", "        g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_of_71_lines_is_found_where_it_starts() {
        let tree = Tree::of(&[("a.rs", &function(70)), ("b.rs", &function(71))]);
        let found = findings(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].path.as_str(), found[0].line), ("b.rs", 2));
    }

    #[test]
    fn a_file_of_601_lines_is_found_and_one_of_401_noted() {
        let tree = Tree::of(&[
            ("a.rs", &"\n".repeat(600)),
            ("b.rs", &"\n".repeat(601)),
            ("c.rs", &"\n".repeat(401)),
        ]);
        assert_eq!(findings(&tree).iter().map(|found| found.path.as_str()).collect::<Vec<_>>(), ["b.rs"]);
        assert_eq!(
            long_files(&tree).iter().map(|found| found.path.as_str()).collect::<Vec<_>>(),
            ["a.rs", "c.rs"]
        );
    }
}
