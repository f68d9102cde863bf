//! Counters of the kernel inside a namespace: per interface, and the protocol counters of `/proc/net/snmp`.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::netns::Namespace;

/// What one interface has counted since it was made. Includes frames that XDP took or sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Received frames dropped.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames to send that were dropped.
    pub tx_dropped: u64,
}

/// Reads the counters of `device` inside `namespace`.
///
/// # Errors
/// When there is no such device.
pub fn interface_counters(namespace: &Namespace, device: &str) -> Result<InterfaceCounters> {
    let table = interface_table(namespace)?;
    parse_interface(&table, device).with_context(|| format!("no device {device} in {}", namespace.name()))
}

/// The counters of all devices as the kernel prints them, for people.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn interface_table(namespace: &Namespace) -> Result<String> {
    namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev").context("read net/dev"))
}

/// Reads a protocol counter, e.g. `("Tcp", "InCsumErrors")` of `/proc/net/snmp`.
///
/// # Errors
/// When this kernel has no such counter.
pub fn protocol_counter(namespace: &Namespace, protocol: &str, counter: &str) -> Result<i64> {
    let table = namespace.run(|| fs::read_to_string("/proc/thread-self/net/snmp").context("read snmp"))?;
    parse_protocol(&table, protocol, counter).with_context(|| format!("no counter {protocol} {counter}"))
}

fn parse_interface(table: &str, device: &str) -> Option<InterfaceCounters> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let fields = line.split_whitespace().map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?;
    Some(InterfaceCounters {
        rx_bytes: *fields.first()?,
        rx_packets: *fields.get(1)?,
        rx_dropped: *fields.get(3)?,
        tx_bytes: *fields.get(8)?,
        tx_packets: *fields.get(9)?,
        tx_dropped: *fields.get(11)?,
    })
}

fn parse_protocol(table: &str, protocol: &str, counter: &str) -> Option<i64> {
    let mut lines = table.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let (names, values) = (lines.next()?, lines.next()?);
    let index = names.split_whitespace().position(|name| name == counter)?;
    values.split_whitespace().nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_right_columns() {
        let table = "Inter-|   Receive\n face |bytes\n    lo:       9       1    0    0    0     0          0         0        9       1    0    0    0     0       0          0\n  eth0: 10 11 12 13 14 15 16 17 20 21 22 23 24 25 26 27\n";
        let counters = parse_interface(table, "eth0").unwrap();
        assert_eq!((counters.rx_bytes, counters.rx_packets, counters.rx_dropped), (10, 11, 13));
        assert_eq!((counters.tx_bytes, counters.tx_packets, counters.tx_dropped), (20, 21, 23));
        assert_eq!(parse_interface(table, "eth"), None);
    }

    #[test]
    fn reads_a_protocol_counter() {
        let table = "Tcp: RtoMin MaxConn InCsumErrors\nTcp: 200 -1 7\nUdp: InDatagrams\nUdp: 3\n";
        assert_eq!(parse_protocol(table, "Tcp", "InCsumErrors"), Some(7));
        assert_eq!(parse_protocol(table, "Tcp", "MaxConn"), Some(-1));
        assert_eq!(parse_protocol(table, "Udp", "InCsumErrors"), None);
    }
}
