//! Why a packet went where it went. One list makes the enum, its names, its texts and its metric labels.
//!
//! Exactly one reason is counted per packet, so the sum over all reasons is the number of packets seen.

/// What was done with a packet, by its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Ours, and sent on or answered.
    Forward,
    /// Not ours: handed to the kernel untouched.
    Pass,
    /// Ours and refused, or malformed.
    Drop,
}

macro_rules! reasons {
    ($($id:ident $class:ident $name:literal $text:literal;)*) => {
        /// A verdict's reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $text] $id,)*
        }

        /// The first of the list, as all-zero memory has it.
        impl Default for Reason {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// Stable name, as in metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }
            /// What it means and, where there is something to do, what to do.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$id => $text,)* }
            }
            /// What was done with the packet.
            pub const fn class(self) -> Class {
                match self { $(Self::$id => Class::$class,)* }
            }
        }
    };
}

reasons! {
    Forwarded Forward "forwarded" "sent to a backend";
    NatReply Forward "nat_reply" "a backend's reply, translated and sent back to the client";
    IcmpErrorForwarded Forward "icmp_error_forwarded" "an ICMP error, sent to the party of the flow that it quotes";
    EchoReplied Forward "echo_replied" "an ICMP echo to a vip, answered by the node";
    TooBigReplied Forward "too_big_replied" "larger than the way onwards allows: the sender was told the MTU";
    HopLimitReplied Forward "hop_limit_replied" "TTL or hop limit used up: the sender was told";
    ResetReplied Forward "reset_replied" "nobody serves the vip: a new connection was refused with a TCP reset; see `lb status`";
    UnreachableReplied Forward "unreachable_replied" "nobody serves the vip: the sender of a datagram was told; see `lb status`";

    NotIp Pass "not_ip" "neither IPv4 nor IPv6, such as ARP";
    NotUnicast Pass "not_unicast" "a broadcast or multicast frame";
    OtherProtocol Pass "other_protocol" "an IP protocol that no vip serves";
    NoVip Pass "no_vip" "not to a vip";
    IcmpOther Pass "icmp_other" "an ICMP message that is neither an echo to a vip nor an error about a flow of ours";
    Bypass Pass "bypass" "the emergency bypass is on: `lb bypass off` ends it";

    EthernetTruncated Drop "ethernet_truncated" "shorter than an Ethernet header with its VLAN tags";
    Ipv4Truncated Drop "ipv4_truncated" "the frame ends within the IPv4 header or before its total length";
    Ipv4Header Drop "ipv4_header" "wrong version, header length under 20, or total length under the header length";
    Ipv6Truncated Drop "ipv6_truncated" "the frame ends within the IPv6 header or before its payload length";
    Ipv6Header Drop "ipv6_header" "wrong version in an IPv6 header, or an IPv4-mapped address";
    Ipv6Extensions Drop "ipv6_extensions" "to a vip, with more IPv6 extension headers than are followed, or one cut off";
    TransportTruncated Drop "transport_truncated" "to a vip, but the packet ends within its TCP, UDP or ICMP header";
    TcpHeader Drop "tcp_header" "to a vip, with a TCP data offset that is under 20 bytes or beyond the packet";
    UdpLength Drop "udp_length" "to a vip, with a UDP length that is under 8 bytes or beyond the packet";
    IcmpQuote Drop "icmp_quote" "an ICMP error to a vip that quotes too little, or no packet of that vip";
    Fragment Drop "fragment" "a fragment to a vip: fragments are not forwarded yet";
    NoBackend Drop "no_backend" "the vip has no backend that takes new flows, and no answer was due: see `lb status`";
    BackendDead Drop "backend_dead" "the flow's backend is down or gone and its slot not yet moved: it will be in moments";
    NoNextHop Drop "no_next_hop" "the way to the backend is not known: no route, or its neighbour does not answer";
    HopLimit Drop "hop_limit" "TTL or hop limit used up, and no answer was due";
    TooBig Drop "too_big" "larger than the way onwards allows, and no answer was due (fragmenting allowed, or an ICMP error)";
    IcmpLimited Drop "icmp_limited" "an answer by ICMP, or a TCP reset, was due, but the node has sent as many of its kind as it may";
    NatPorts Drop "nat_ports" "every NAT port that a new flow may have is in use: `lb serve --max-nat-flows` makes room for more";
    NatBusy Drop "nat_busy" "the flow's NAT entry was replaced while this packet was on its way";
    TenantPacketRate Drop "tenant_packet_rate" "the tenant has had its packets a second: `lb tenant top` shows who, `lb tenant set` gives more";
    TenantBitRate Drop "tenant_bit_rate" "the tenant has had its bits a second: `lb tenant top` shows who, `lb tenant set` gives more";
    TenantConnectionRate Drop "tenant_connection_rate" "the tenant has had its new connections a second: `lb tenant set` gives more";
    TenantConnections Drop "tenant_connections" "the tenant has as many tracked connections as it may: `lb tenant set` gives more";
    TenantNatPorts Drop "tenant_nat_ports" "the tenant has as many NAT ports as it may: `lb tenant set` gives more";
    NoHeadroom Drop "no_headroom" "the driver leaves too little room before the frame for the outer header";
    TableInconsistent Drop "table_inconsistent" "a table names a row that does not exist: a bug, please report it";

    DecapNotTunnel Pass "decap_not_tunnel" "decapsulation: not an IP-in-IP packet";
    DecapUnwrapped Pass "decap_unwrapped" "decapsulation: the outer header was taken off";
    DecapUnknownPeer Drop "decap_unknown_peer" "decapsulation: the tunnel's outer source is no known balancer";
    DecapUnknownVip Drop "decap_unknown_vip" "decapsulation: the inner destination is no vip of this backend";
    DecapMalformed Drop "decap_malformed" "decapsulation: an outer or inner header is cut off, inconsistent or a fragment";
    DecapEcn Drop "decap_ecn" "decapsulation: congestion marked outside, on a packet that cannot say so (RFC 6040)";
}

/// Entries of the reason counters: room for reasons to come.
pub const REASON_CAPACITY: u32 = 64;

const _: () = assert!(Reason::ALL.len() <= REASON_CAPACITY as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_list_and_names_are_distinct() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(Reason::ALL[index + 1..].iter().all(|other| other.name() != reason.name()));
        }
    }
}
