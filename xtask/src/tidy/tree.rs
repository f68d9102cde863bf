//! The files of the checkout that are ours: what git tracks, or would track if it were added.
//!
//! Holds texts and the syntax trees made of them; knows no rule.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, workspace};

/// One text file.
pub(super) struct File {
    /// Path relative to the root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their numbers from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Its syntax; `None` if it does not parse, which the compiler says better.
    pub(super) fn syntax(&self) -> Option<syn::File> {
        self.is_rust().then(|| syn::parse_file(&self.text).ok()).flatten()
    }
}

/// All text files of the checkout.
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

impl Tree {
    /// # Errors
    /// Git is missing, or this is no checkout.
    pub(super) fn of_checkout() -> Result<Tree> {
        let root = workspace::root();
        // A checkout that belongs to another user (a container's mount) is still ours to read.
        let safe = format!("safe.directory={}", root.display());
        let mut list = Command::new("git");
        list.current_dir(&root).args([
            "-c",
            &safe,
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let names = process::output(&mut list).context("list the files of the checkout")?;
        let names = names.split('\0').filter(|name| !name.is_empty());
        // Not there: deleted but still tracked. Not UTF-8: a picture or a capture.
        let files = names.filter_map(|name| {
            let text = std::fs::read_to_string(root.join(name)).ok()?;
            Some(File { path: name.to_owned(), text })
        });
        Ok(Tree { files: files.collect() })
    }

    /// A checkout for the tests of rules.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), text: (*text).to_owned() };
        Tree { files: files.iter().map(file).collect() }
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// Manifests of the workspaces: the host's and those for the BPF target.
    pub(super) fn workspaces(&self) -> impl Iterator<Item = &str> {
        let manifests = self.files.iter().filter(|file| file.path.ends_with("Cargo.toml"));
        manifests.filter(|file| file.text.contains("[workspace")).map(|file| file.path.as_str()).filter(
            |path| {
                // A member only inherits from `[workspace]`; the heads are these.
                ["Cargo.toml", "lb-ebpf/Cargo.toml", "tests/bpf/Cargo.toml"].contains(path)
            },
        )
    }
}
