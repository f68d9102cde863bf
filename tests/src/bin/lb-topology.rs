//! Builds a topology and holds it until Ctrl-C, for trying things by hand: prints the namespaces, the
//! addresses and a first command. Attaches no balancer.

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use lb_tests::interrupt::Interrupt;
use lb_tests::topology::{BackendSetup, Layout, Tagging, Topology};

/// Build a network in namespaces and hold it until Ctrl-C.
#[derive(Parser)]
struct Arguments {
    /// How node and backends are cabled.
    #[arg(long, value_enum, default_value = "switched")]
    layout: Cabling,
    /// Number of backends.
    #[arg(long, default_value_t = 3)]
    backends: usize,
    /// Backends without vips on lo, for NAT.
    #[arg(long)]
    plain: bool,
    /// VLAN id on the node's uplink.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// MTU in bytes of a hop between clients and router.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1280..))]
    path_mtu: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Cabling {
    Switched,
    Routed,
    Direct,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let interrupt = Interrupt::install()?;
    let layout = match arguments.layout {
        Cabling::Switched => Layout::Switched,
        Cabling::Routed => Layout::Routed,
        Cabling::Direct => Layout::Direct,
    };
    let setup = if arguments.plain { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let mut builder = Topology::builder()
        .layout(layout)
        .setup(setup)
        .backends(arguments.backends)
        .tagging(arguments.vlan.map_or(Tagging::Untagged, Tagging::Vlan));
    if let Some(mtu) = arguments.path_mtu {
        builder = builder.path_mtu(mtu);
    }
    let net = builder.build()?;
    show(&net);
    while !interrupt.wait(Duration::from_secs(3600)) {}
    Ok(())
}

fn show(net: &Topology) {
    for namespace in net.namespaces() {
        println!("{}", namespace.name());
    }
    let node = net.node();
    println!("node: {} {} on {}", node.addresses.v4, node.addresses.v6, node.uplinks.join(" "));
    for backend in net.backends() {
        println!("{}: {} {}", backend.name(), backend.addresses().v4, backend.addresses().v6);
    }
    println!("vips: {} {}", net.vip4(80), net.vip6(80));
    println!("try:  ip netns exec {} curl http://{}/", net.client().name(), net.vip4(80));
}
