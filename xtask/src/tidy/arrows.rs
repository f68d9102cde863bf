//! Rule: dependencies point one way, and the pure crates reach no edge of the machine.
//!
//! Reads what cargo resolved, not what manifests say, so that an arrow through a third crate is seen too.
//! Dependencies of tests are left out: a test may use what it likes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;
use crate::{process, workspace};

/// Crates of ours that a crate may use. Those not listed here are tests and may use any but `xtask`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("lb-common", &[]),
    ("lb-ebpf", &["lb-common"]),
    ("lb-control", &["lb-common"]),
    ("lb-userspace", &["lb-common", "lb-control"]),
    // It starts on a fresh machine before anything can be built for the kernel.
    ("xtask", &[]),
];

/// Crates that decide and touch nothing: time, chance and the machine enter as arguments.
const PURE: &[&str] = &["lb-common", "lb-control"];
/// What touches the machine, whoever pulls it in.
const EDGES: &[&str] = &[
    "aya",
    "axum",
    "getrandom",
    "hyper",
    "libc",
    "mio",
    "nix",
    "rand",
    "rtnetlink",
    "rustix",
    "socket2",
    "tokio",
];

/// Heads of workspaces.
const WORKSPACES: &[&str] = &["Cargo.toml", "lb-ebpf/Cargo.toml", "tests/bpf/Cargo.toml"];

/// # Errors
/// Cargo's answer is not what it documents. That it cannot answer (a stale lock file) is a finding.
pub(super) fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for manifest in WORKSPACES.iter().filter(|manifest| workspace::root().join(manifest).is_file()) {
        let mut metadata = process::cargo();
        metadata.args([
            "metadata",
            "--quiet",
            "--format-version",
            "1",
            "--locked",
            "--manifest-path",
            manifest,
        ]);
        match process::output(&mut metadata) {
            Ok(json) => {
                let graph = serde_json::from_str(&json).with_context(|| format!("metadata of {manifest}"))?;
                findings.extend(judge(manifest, &graph));
            }
            Err(error) => {
                findings.push(Finding::new(manifest, 0, format!("{error}; is its Cargo.lock current?")))
            }
        }
    }
    Ok(findings)
}

/// The part of `cargo metadata` that is read.
#[derive(Deserialize)]
struct Graph {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    /// `None` for a crate of this checkout.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None`: ordinary; else `dev` or `build`.
    kind: Option<String>,
}

fn judge(manifest: &str, graph: &Graph) -> Vec<Finding> {
    let name: BTreeMap<&str, &str> =
        graph.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let ours: BTreeSet<&str> = graph
        .packages
        .iter()
        .filter(|package| package.source.is_none())
        .map(|package| package.name.as_str())
        .collect();
    let mut findings = Vec::new();
    for package in graph.packages.iter().filter(|package| package.source.is_none()) {
        let reached: BTreeSet<&str> = reached(graph, &package.id).iter().map(|id| name[id]).collect();
        let allowed = MAY_USE.iter().find(|(name, _)| *name == package.name).map(|(_, allowed)| *allowed);
        for used in reached.intersection(&ours) {
            if allowed.map_or(*used == "xtask", |allowed| !allowed.contains(used)) {
                findings.push(Finding::new(manifest, 0, format!("{} must not use {used}", package.name)));
            }
        }
        for edge in
            EDGES.iter().filter(|edge| PURE.contains(&package.name.as_str()) && reached.contains(**edge))
        {
            findings.push(Finding::new(
                manifest,
                0,
                format!("{} is pure and must not reach {edge}", package.name),
            ));
        }
    }
    findings
}

/// Packages that a package uses, directly or not, its tests left out.
fn reached<'a>(graph: &'a Graph, from: &'a str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(id) = open.pop() {
        let node = graph.resolve.nodes.iter().find(|node| node.id == id);
        for dependency in node.into_iter().flat_map(|node| &node.deps) {
            let ordinary = dependency.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"));
            if ordinary && reached.insert(dependency.pkg.as_str()) {
                open.push(&dependency.pkg);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packages without a `/` are ours; an arrow with `dev` is one of tests.
    fn graph(packages: &[&str], arrows: &[(&str, &str, Option<&str>)]) -> Graph {
        let package = |id: &&str| Package {
            id: (*id).to_owned(),
            name: id.trim_start_matches("registry/").to_owned(),
            source: id.contains('/').then(|| "registry".to_owned()),
        };
        let dependency = |(_, to, kind): &(&str, &str, Option<&str>)| Dependency {
            pkg: (*to).to_owned(),
            dep_kinds: vec![DependencyKind { kind: kind.map(str::to_owned) }],
        };
        let node = |id: &&str| Node {
            id: (*id).to_owned(),
            deps: arrows.iter().filter(|(from, ..)| from == id).map(dependency).collect(),
        };
        let nodes = packages.iter().map(node).collect();
        Graph { packages: packages.iter().map(package).collect(), resolve: Resolve { nodes } }
    }

    fn texts(graph: &Graph) -> Vec<String> {
        judge("Cargo.toml", graph).into_iter().map(|found| found.text).collect()
    }

    #[test]
    fn the_arrows_as_they_should_be() {
        let packages = ["lb-common", "lb-control", "lb-userspace", "lb-tests", "registry/tokio"];
        let arrows = [
            ("lb-control", "lb-common", None),
            ("lb-userspace", "lb-control", None),
            ("lb-userspace", "registry/tokio", None),
            ("lb-tests", "lb-userspace", None),
            ("lb-control", "registry/tokio", Some("dev")),
        ];
        assert_eq!(texts(&graph(&packages, &arrows)), [] as [&str; 0]);
    }

    #[test]
    fn an_arrow_backwards_is_found() {
        let found = texts(&graph(&["lb-common", "lb-control"], &[("lb-common", "lb-control", None)]));
        assert_eq!(found, ["lb-common must not use lb-control"]);
    }

    #[test]
    fn an_edge_reached_through_another_crate_is_found() {
        let packages = ["lb-control", "registry/clock", "registry/libc"];
        let arrows = [("lb-control", "registry/clock", None), ("registry/clock", "registry/libc", None)];
        assert_eq!(texts(&graph(&packages, &arrows)), ["lb-control is pure and must not reach libc"]);
    }

    #[test]
    fn tests_may_use_all_but_xtask() {
        let arrows = [("lb-tests", "xtask", None), ("lb-tests", "lb-control", None)];
        assert_eq!(
            texts(&graph(&["lb-tests", "xtask", "lb-control"], &arrows)),
            ["lb-tests must not use xtask"]
        );
    }
}
