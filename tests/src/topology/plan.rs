//! What has to be typed into `ip` and `ethtool` to lay cables, collected first and run in few processes.
//!
//! Every cable is a veth pair made for XDP: transmit checksums and segmentation in software (XDP loses the
//! mark of an unfinished checksum), VLAN tags in the frame (not beside it), GRO on at both ends (it starts
//! NAPI, without which a frame that XDP redirects into the pair never arrives). This room knows no roles.

use std::fmt::Write;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::address::Pair;
use crate::netns::Namespace;

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

/// How a cable's frames are tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tagging {
    /// No tag.
    #[default]
    Untagged,
    /// One 802.1Q tag with this VLAN id (1-4094).
    Vlan(u16),
    /// An 802.1ad tag around an 802.1Q tag.
    QinQ {
        /// VLAN id of the outer tag (1-4094).
        outer: u16,
        /// VLAN id of the inner tag (1-4094).
        inner: u16,
    },
}

impl Tagging {
    /// What the bare device must carry beyond `mtu`: one tag is free, each further one takes 4 bytes.
    fn device_mtu(self, mtu: u32) -> u32 {
        match self {
            Self::Untagged | Self::Vlan(_) => mtu,
            Self::QinQ { .. } => mtu + 4,
        }
    }

    /// The device that carries addresses when the bare one is called `device`.
    #[must_use]
    pub fn top_device(self, device: &str) -> String {
        match self {
            Self::Untagged => device.to_owned(),
            Self::Vlan(id) => format!("{device}.{id}"),
            Self::QinQ { outer, inner } => format!("{device}.{outer}.{inner}"),
        }
    }
}

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
    devices: Vec<(&'a Namespace, String)>,
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
            self.tag(plug.namespace, &plug.device, mtu, tagging);
            self.devices.push((plug.namespace, plug.device));
        }
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

    /// Gives `device` both addresses of `pair`, on-link with their /24 and /64.
    pub(crate) fn address(&mut self, namespace: &'a Namespace, device: &str, pair: Pair) {
        self.line(namespace, &format!("addr add {}/24 dev {device}", pair.v4));
        self.line(namespace, &format!("addr add {}/64 dev {device} nodad", pair.v6));
    }

    /// Gives `lo` both addresses of a vip. The IPv6 one is deprecated, so that it is never chosen as a source.
    pub(crate) fn loopback_address(&mut self, namespace: &'a Namespace, pair: Pair) {
        self.line(namespace, &format!("addr add {}/32 dev lo", pair.v4));
        self.line(namespace, &format!("addr add {}/128 dev lo nodad preferred_lft 0", pair.v6));
    }

    /// Routes `to` (one prefix for each family, or `default`) by way of `via`.
    pub(crate) fn route(&mut self, namespace: &'a Namespace, to: (&str, &str), via: Pair) {
        self.line(namespace, &format!("route add {} via {}", to.0, via.v4));
        self.line(namespace, &format!("route add {} via {}", to.1, via.v6));
    }

    /// Runs everything: cables, features, then the lines of each namespace.
    pub(crate) fn apply(self) -> Result<()> {
        let Some((anywhere, _)) = self.inside.first() else { return Ok(()) };
        // Both ends name their namespace, so it matters not from where the cables are laid.
        anywhere.ip_batch(&self.cables)?;
        for (namespace, device) in &self.devices {
            set_features(namespace, device)?;
        }
        for (namespace, lines) in &self.inside {
            namespace.ip_batch(lines)?;
        }
        Ok(())
    }

    fn tag(&mut self, namespace: &'a Namespace, device: &str, mtu: u32, tagging: Tagging) {
        let top = tagging.top_device(device);
        match tagging {
            Tagging::Untagged => return,
            Tagging::Vlan(id) => {
                self.line(
                    namespace,
                    &format!("link add link {device} name {top} mtu {mtu} type vlan id {id}"),
                );
            }
            Tagging::QinQ { outer, inner } => {
                let middle = format!("{device}.{outer}");
                self.line(
                    namespace,
                    &format!("link add link {device} name {middle} type vlan proto 802.1ad id {outer}"),
                );
                self.line(namespace, &format!("link set {middle} up"));
                self.line(
                    namespace,
                    &format!("link add link {middle} name {top} mtu {mtu} type vlan id {inner}"),
                );
            }
        }
        self.line(namespace, &format!("link set {top} up"));
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
