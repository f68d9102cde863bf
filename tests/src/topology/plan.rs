//! What has to be typed into `ip` and `ethtool` to lay cables, collected first and run in few processes.
//!
//! Every cable is a veth pair made for XDP: transmit checksums and segmentation in software (XDP loses the
//! mark of an unfinished checksum), VLAN tags in the frame (not beside it), GRO on at both ends (it starts
//! NAPI, without which a frame that XDP redirects into the pair never arrives). XDP_TX needs still more: the
//! kernel wakes the other end's NAPI only if an XDP program is there, else the frame waits for the next one.
//! This room knows no roles.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::address::Pair;
use super::tagging::Tagging;
use crate::netns::{Hook, Namespace, XDP_PASS};

/// Device features every end of a cable gets.
const FEATURES: [&str; 16] = [
    "tx",
    "off",
    "tso",
    "off",
    "gso",
    "off",
    "gro",
    "on",
    "rxvlan",
    "off",
    "txvlan",
    "off",
    "tx-vlan-stag-hw-insert",
    "off",
    "rx-vlan-stag-hw-parse",
    "off",
];

/// One plug of a cable.
pub(crate) struct Plug<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) device: String,
    pub(crate) mac: String,
}

/// Lines for `ip -batch`, by namespace, and devices for `ethtool`.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    cables: String,
    inside: Vec<(&'a Namespace, String)>,
    devices: Vec<(&'a Namespace, String, Tagging)>,
    woken: Vec<(&'a Namespace, String)>,
}

impl<'a> Plan<'a> {
    /// Lays a cable between two namespaces and brings both ends up.
    pub(crate) fn cable(&mut self, one: Plug<'a>, other: Plug<'a>, mtu: u32, tagging: Tagging) {
        let mtu_device = tagging.device_mtu(mtu);
        let _ = writeln!(
            self.cables,
            "link add name {} address {} mtu {mtu_device} netns {} type veth \
             peer name {} address {} mtu {mtu_device} netns {}",
            one.device,
            one.mac,
            one.namespace.name(),
            other.device,
            other.mac,
            other.namespace.name(),
        );
        for plug in [one, other] {
            self.line(plug.namespace, &format!("link set {} up", plug.device));
            self.devices.push((plug.namespace, plug.device, tagging));
        }
    }

    /// Makes what the other end sends by XDP_TX arrive at `device`, by a program that lets everything pass.
    pub(crate) fn wake_by_xdp_tx(&mut self, namespace: &'a Namespace, device: &str) {
        self.woken.push((namespace, device.to_owned()));
    }

    /// Adds one `ip` command to be run inside `namespace`, after all cables are there.
    pub(crate) fn line(&mut self, namespace: &'a Namespace, line: &str) {
        let known = self.inside.iter().position(|(other, _)| std::ptr::eq(*other, namespace));
        let index = known.unwrap_or_else(|| {
            self.inside.push((namespace, "link set lo up\n".to_owned()));
            self.inside.len() - 1
        });
        self.inside[index].1.push_str(line);
        self.inside[index].1.push('\n');
    }

    /// Gives `device` both addresses of `pair`, on-link with their /24 and /64; with `mtu`, these routes say
    /// it, since the device has a larger one.
    pub(crate) fn address(&mut self, namespace: &'a Namespace, device: &str, pair: Pair, mtu: Option<u32>) {
        let Some(mtu) = mtu else {
            self.line(namespace, &format!("addr add {}/24 dev {device}", pair.v4));
            self.line(namespace, &format!("addr add {}/64 dev {device} nodad", pair.v6));
            return;
        };
        self.line(namespace, &format!("addr add {}/24 dev {device} noprefixroute", pair.v4));
        self.line(namespace, &format!("addr add {}/64 dev {device} nodad noprefixroute", pair.v6));
        let (net4, net6) = pair.networks();
        self.line(namespace, &format!("route add {net4} dev {device} src {} mtu {mtu}", pair.v4));
        self.line(namespace, &format!("route add {net6} dev {device} mtu {mtu}"));
    }

    /// Gives `lo` both addresses of a vip. The IPv6 one is deprecated, so that it is never chosen as a source.
    pub(crate) fn loopback_address(&mut self, namespace: &'a Namespace, pair: Pair) {
        self.line(namespace, &format!("addr add {}/32 dev lo", pair.v4));
        self.line(namespace, &format!("addr add {}/128 dev lo nodad preferred_lft 0", pair.v6));
    }

    /// Routes `to` (one prefix for each family, or `default`) by way of `via`; `mtu` as for
    /// [`Plan::address`].
    pub(crate) fn route(&mut self, namespace: &'a Namespace, to: (&str, &str), via: Pair, mtu: Option<u32>) {
        let mtu = mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
        self.line(namespace, &format!("route add {} via {}{mtu}", to.0, via.v4));
        self.line(namespace, &format!("route add {} via {}{mtu}", to.1, via.v6));
    }

    /// Runs everything: cables, features and programs, then the lines of each namespace. The programs stay
    /// while the returned links are open.
    pub(crate) fn apply(self) -> Result<Vec<OwnedFd>> {
        let mut links = Vec::new();
        let Some((anywhere, _)) = self.inside.first() else { return Ok(links) };
        // Both ends name their namespace, so it matters not from where the cables are laid.
        anywhere.ip_batch(&self.cables)?;
        for (namespace, device, tagging) in &self.devices {
            set_features(namespace, device)?;
            links.extend(tagging.attach(namespace, device)?);
        }
        for (namespace, device) in &self.woken {
            links.push(namespace.attach_program(device, Hook::Xdp, &XDP_PASS)?);
        }
        for (namespace, lines) in &self.inside {
            namespace.ip_batch(lines)?;
        }
        Ok(links)
    }
}

fn set_features(namespace: &Namespace, device: &str) -> Result<()> {
    let output = namespace.output(Command::new("ethtool").args(["-K", device]).args(FEATURES))?;
    ensure!(
        output.status.success(),
        "ethtool -K {device} in {}: {}",
        namespace.name(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Settings of the network stack that every namespace gets before its first link is made.
pub(crate) fn set_common_sysctls(namespace: &Namespace, role: Role) -> Result<()> {
    let mut settings = Vec::from(COMMON);
    // First, since it resets others to their defaults.
    if role.forwards() {
        settings.splice(0..0, FORWARDING);
    }
    match role {
        Role::Client | Role::Backend => settings.extend(MANY_CONNECTIONS),
        Role::DirectReturnBackend => {
            settings.extend(MANY_CONNECTIONS);
            settings.extend(SILENT_ON_VIPS);
        }
        Role::Switch => settings.extend(NO_IPV6),
        Role::Router | Role::Node | Role::ForwardingNode => {}
    }
    namespace.write_sysctls(&settings).context("settings of the network stack")
}

/// What a namespace is for, as far as its settings differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Router,
    Switch,
    Node,
    ForwardingNode,
    Backend,
    DirectReturnBackend,
}

impl Role {
    fn forwards(self) -> bool {
        matches!(self, Self::Router | Self::ForwardingNode)
    }
}

const COMMON: [(&str, &str); 16] = [
    // Direct return comes back another way than it went.
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    // Router, node and backends share a segment; a shortcut around the node would void the test.
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    // Addresses are usable at once.
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    // Every ICMP error counts in these tests; the kernel's own limit would swallow some.
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
    ("net.ipv4.icmp_msgs_per_sec", "100000"),
];

const FORWARDING: [(&str, &str); 2] = [("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];

const MANY_CONNECTIONS: [(&str, &str); 4] = [
    ("net.ipv4.ip_local_port_range", "1024 65535"),
    ("net.ipv4.tcp_tw_reuse", "1"),
    ("net.core.somaxconn", "65535"),
    ("net.ipv4.tcp_max_syn_backlog", "65535"),
];

/// A vip on lo must not be answered for by ARP, nor be the source of an ARP request.
const SILENT_ON_VIPS: [(&str, &str); 4] = [
    ("net.ipv4.conf.all.arp_ignore", "1"),
    ("net.ipv4.conf.all.arp_announce", "2"),
    ("net.ipv4.conf.default.arp_ignore", "1"),
    ("net.ipv4.conf.default.arp_announce", "2"),
];

const NO_IPV6: [(&str, &str); 2] =
    [("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv6.conf.default.disable_ipv6", "1")];
