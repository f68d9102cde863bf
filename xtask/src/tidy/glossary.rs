//! Rule: one word for one thing. The glossary of ARCHITECTURE.md names the things; here are the words it bars.
//!
//! Checked are the names we define (not the names of libraries we call), file names, comments and the manual's
//! prose. Not checked: code blocks, quoted `names`, string literals (the configuration of another program has
//! its own words), and lines that say what is *never* said.

use syn::visit::{self, Visit};

use super::Finding;
use super::tree::{File, Tree};

/// Barred word and what to say instead.
const BARRED: &[(&str, &str)] = &[
    ("server", "backend"),
    ("real", "backend"),
    ("realserver", "backend"),
    ("upstream", "backend"),
    ("endpoint", "backend"),
    ("service", "vip"),
    ("frontend", "vip"),
    ("customer", "tenant"),
];

/// In prose these are ordinary words: an HTTP server, a systemd service, real traffic.
const FINE_IN_PROSE: &[&str] = &["server", "real", "service"];
/// Two words in prose that mean a backend.
const BARRED_PAIRS: &[(&str, &str)] = &[("real server", "backend"), ("upstream server", "backend")];

/// A type or module of this name holds anything; say what it holds.
const EMPTY_NAMES: &[&str] = &["manager", "helper", "helpers", "util", "utils", "data", "info"];

/// Words fine in the names of one place: (path prefix, word, why).
const ALLOWED: &[(&str, &str, &str)] = &[
    ("tests/", "server", "the program that runs on a backend serves HTTP or an echo"),
    ("tests/", "real", "as opposed to simulated"),
    ("xtask/", "service", "Debian's packages start services"),
    ("lb-userspace/src/probe/tls.rs", "server", "rustls names what verifies a certificate"),
];

pub(super) fn findings(tree: &Tree) -> Vec<Finding> {
    let names = tree.rust().flat_map(names);
    let prose = tree.files.iter().filter(|file| file.is_rust() || file.path.ends_with(".md")).flat_map(prose);
    names.chain(prose).collect()
}

/// Names that a source file defines, and its own.
fn names(file: &File) -> Vec<Finding> {
    let mut definitions = Definitions { path: &file.path, findings: Vec::new() };
    let stem = file.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
    definitions.check_kind(stem, 0);
    if let Some(syntax) = file.syntax() {
        definitions.visit_file(&syntax);
    }
    definitions.findings
}

struct Definitions<'a> {
    path: &'a str,
    findings: Vec<Finding>,
}

impl Definitions<'_> {
    fn check(&mut self, ident: &syn::Ident) {
        self.check_words(&ident.to_string(), ident.span().start().line);
    }

    fn check_words(&mut self, name: &str, line: usize) {
        for word in words(name) {
            let barred = BARRED.iter().find(|(barred, _)| singular(&word) == *barred);
            if let Some((barred, instead)) = barred.filter(|(barred, _)| !self.allowed(barred)) {
                self.findings.push(Finding::new(
                    self.path,
                    line,
                    format!("`{name}`: not {barred} but {instead}"),
                ));
            }
        }
    }

    /// Types and modules: the words, and not an empty name.
    fn check_kind(&mut self, name: &str, line: usize) {
        self.check_words(name, line);
        if words(name).last().is_some_and(|last| EMPTY_NAMES.contains(&last.as_str())) {
            self.findings.push(Finding::new(self.path, line, format!("`{name}`: say what it holds or does")));
        }
    }

    fn check_type(&mut self, ident: &syn::Ident) {
        self.check_kind(&ident.to_string(), ident.span().start().line);
    }

    fn allowed(&self, word: &str) -> bool {
        ALLOWED.iter().any(|(prefix, allowed, _)| self.path.starts_with(prefix) && *allowed == word)
    }
}

impl<'ast> Visit<'ast> for Definitions<'_> {
    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.check(&signature.ident);
        if signature.ident.to_string().starts_with("get_") {
            let text = format!("`{}`: a getter has the name of what it gives", signature.ident);
            self.findings.push(Finding::new(self.path, signature.ident.span().start().line, text));
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.check_type(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.check_type(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.check_type(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.check_type(&item.ident);
        visit::visit_item_type(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.check_type(&item.ident);
        visit::visit_item_mod(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.check(&item.ident);
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.check(&item.ident);
        visit::visit_item_static(self, item);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.check(&variant.ident);
        visit::visit_variant(self, variant);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(ident) = &field.ident {
            self.check(ident);
        }
        visit::visit_field(self, field);
    }

    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        self.check(&pattern.ident);
        visit::visit_pat_ident(self, pattern);
    }
}

/// Comments of a source file, or the prose of a page.
fn prose(file: &File) -> Vec<Finding> {
    let mut in_block = false;
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        let text =
            if file.is_rust() { line.split_once("//").map_or("", |(_, comment)| comment) } else { line };
        if text.trim_start_matches(['/', '!', ' ']).starts_with("```") {
            in_block = !in_block;
        }
        if in_block || text.contains("never") {
            continue;
        }
        let spoken = unquoted(text);
        let spoken: Vec<&str> =
            spoken.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let spoken = spoken.join(" ").to_lowercase();
        if let Some((said, instead)) = barred_in_prose(&spoken) {
            findings.push(Finding::new(
                &file.path,
                number,
                format!("prose says {said}, our word is {instead}"),
            ));
        }
    }
    findings
}

fn barred_in_prose(spoken: &str) -> Option<(&'static str, &'static str)> {
    let padded = format!(" {spoken} ");
    let said =
        |words: &str| padded.contains(&format!(" {words} ")) || padded.contains(&format!(" {words}s "));
    let single = BARRED.iter().filter(|(word, _)| !FINE_IN_PROSE.contains(word));
    BARRED_PAIRS.iter().chain(single).find(|(words, _)| said(words)).copied()
}

/// The text without what stands between backticks, and without addresses of pages.
fn unquoted(text: &str) -> String {
    let outside = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    outside.split_whitespace().filter(|word| !word.contains("://")).collect::<Vec<_>>().join(" ")
}

/// Words of a name in snake, camel or shouting case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut after_lower = false;
    for c in name.chars() {
        let boundary = c == '_' || (c.is_uppercase() && after_lower);
        if boundary || words.is_empty() {
            words.push(String::new());
        }
        after_lower = c.is_lowercase() || c.is_ascii_digit();
        if let Some(last) = words.last_mut().filter(|_| c != '_') {
            last.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn singular(word: &str) -> &str {
    word.strip_suffix('s').unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<usize> {
        findings(&Tree::of(&[(path, text)])).iter().map(|found| found.line).collect()
    }

    #[test]
    fn names_are_split_into_words() {
        assert_eq!(words("HttpServer2Pool"), ["http", "server2", "pool"]);
        assert_eq!(words("MAX_SERVERS"), ["max", "servers"]);
        assert_eq!(words("_observer"), ["observer"]);
    }

    #[test]
    fn a_barred_name_is_found_where_it_is_defined() {
        let text =
            "struct UpstreamPool {\n    customer: u8,\n}\nfn f(endpoints: u8) {\n    let real = 1;\n}\n";
        assert_eq!(found("lb-control/src/x.rs", text), [1, 2, 4, 5]);
    }

    #[test]
    fn a_word_inside_a_word_and_the_names_of_libraries_are_fine() {
        let text = "fn observer(reality: u8) -> hyper::server::Connection {\n    hyper::server::serve(\"server\")\n}\n";
        assert_eq!(found("lb-userspace/src/x.rs", text), [] as [usize; 0]);
    }

    #[test]
    fn empty_names_and_getters_are_found() {
        let text = "struct PoolManager;\nmod utils {}\nfn get_vip() {}\nstruct Dataplane;\nfn data() {}\n";
        assert_eq!(found("lb-control/src/x.rs", text), [1, 2, 3]);
        assert_eq!(found("lb-control/src/helpers.rs", ""), [0]);
    }

    #[test]
    fn a_place_may_have_its_word() {
        assert_eq!(found("tests/src/x.rs", "fn http_server() {}\n"), [] as [usize; 0]);
        assert_eq!(found("lb-control/src/x.rs", "fn http_server() {}\n"), [1]);
    }

    #[test]
    fn prose_is_checked_and_quotes_are_not() {
        let page = "A real server.\nAn HTTP server, a systemd service.\nnginx calls it `upstream`.\n\
                    ```\nupstream x;\n```\nThe upstreams.\nbackend (never upstream)\n";
        assert_eq!(found("docs/guide/x.md", page), [1, 7]);
        assert_eq!(found("lb-common/src/x.rs", concat!("/// Sends to a front", "end.\nfn f() {}\n")), [1]);
    }
}
