//! Every capacity, with its unit and why. A map's size at load time may be smaller or larger than the default
//! here (`lb serve --max-…`); what must fit into a field of a layout is a hard limit and says so.

/// Rows of the vip table, vips. A vip row is 64 bytes.
pub const VIPS: u32 = 4_096;
/// Keys of the vip hash: a key per vip and one per distinct address.
pub const VIP_KEYS: u32 = 2 * VIPS;
/// Notes of where a vip key led, for each CPU; a power of two.
pub const VIP_HINTS: u32 = 4_096;
/// Rows of the backend table, rows of 64 bytes; row 0 is "none". Hard limit: a row number is 16 bits wide.
pub const BACKENDS: u32 = 16_384;
/// Hard limit of [`BACKENDS`].
pub const BACKENDS_MAX: u32 = 65_536;
/// Rows of the egress table: device, VLAN tags and source MAC of a way out.
pub const EGRESSES: u32 = 256;
/// The node's own source addresses for tunnels and NAT, addresses. Hard limit: a source number is 4 bits wide.
pub const SOURCES: u32 = 16;
/// Slots of all tables together, slots of 8 bytes: 128 MiB, 256 vips of the default size.
pub const SLOTS: u32 = 16 * 1024 * 1024;
/// Slots of a vip's table unless it asks for another prime (Eisenbud et al., "Maglev", NSDI 2016, section 5.3).
pub const SLOTS_PER_VIP: u32 = 65_537;
/// Largest prime that a vip may ask for; hard limit: a slot number is 17 bits wide in a flow entry.
pub const SLOTS_PER_VIP_MAX: u32 = 131_071;
/// Smallest prime that a vip may ask for.
pub const SLOTS_PER_VIP_MIN: u32 = 251;
/// Buckets of the flow table, buckets of 64 bytes and 4 entries: 64 MiB, a million flows at a quarter full.
pub const FLOW_BUCKETS: u32 = 1024 * 1024;
/// Entries of a bucket: with 16 bytes each, one cache line.
pub const FLOW_WAYS: usize = 4;
/// A change in the last second of a slot's window opens the next window, seconds: a plan takes less than this to be
/// carried out, or is made anew.
pub const WINDOW_SLACK_S: u32 = 1;
/// VLAN tags that are parsed and written: one, or QinQ's two.
pub const VLAN_TAGS: usize = 2;
/// IPv6 extension headers that are followed before the packet is refused. RFC 8504 section 5.3 allows a limit.
pub const V6_EXTENSIONS: usize = 6;
/// Rows of the tenant table, tenants with limits; row 0 is "none". A row is 128 bytes, and a meter as many on each CPU.
pub const TENANTS: u32 = 512;
/// Credit of a tenant that a CPU takes at once, nanoseconds of the rate: what it may have left over, and so what a
/// bucket can be wrong by, is this for each CPU (64 CPUs: 0.6 % of a second), and the shared word changes at most ten
/// thousand times a second for each bucket.
pub const TENANT_SLICE_NS: u64 = 100_000;
/// Largest rate of a tenant, units a second: a terabit. A slice of it, in billionths, is far below 64 bits.
pub const TENANT_RATE_MAX: u64 = 1_000_000_000_000;
/// NAT ports that are tried for a new flow, ports. At 75 % use all 16 are taken with a chance of 1 %.
pub const NAT_PROBES: u32 = 16;
/// Lowest source port that NAT uses: the ones below are reserved for well-known uses (RFC 6056, 3.2).
pub const NAT_PORT_FIRST: u32 = 1_024;
/// Ports of one plane and protocol; NAT uses `NAT_PORT_FIRST..NAT_PORTS`, below Linux' ephemeral range
/// (32,768 and up), so that a probe's own port never collides.
pub const NAT_PORTS: u32 = 32_768;
/// Planes of the NAT table, a power of two; each holds every port of both protocols in 4 MiB. Backends are spread
/// over them, and only backends of one plane compete for ports.
pub const NAT_PLANES: u32 = 4;
/// The port of a NAT flow that both sides closed is used again after this long without a packet, seconds.
pub const NAT_CLOSING_S: u32 = 2;
/// A NAT flow that one side closed keeps its port for this long without a packet at least, seconds. RFC 5382, REQ-5:
/// "the transitory connection idle-timeout [...] MUST NOT be less than 4 minutes".
pub const NAT_HALF_CLOSED_S: u32 = 240;
/// While there is another, a port without a packet for less than this is not given to a new flow, seconds: a backend
/// remembers a closed connection so long (Linux' TIME-WAIT) and may refuse another one of the same ports. A flow that was
/// reset keeps its port as long.
pub const NAT_REST_S: u32 = 60;
/// ICMP messages that the node itself sends, per CPU and second.
pub const ICMP_RATE_PPS: u64 = 1_000;
/// ICMP messages that may follow each other at once, per CPU.
pub const ICMP_BURST_PACKETS: u64 = 250;
/// A flow entry made by a SYN is dropped first when no packet confirms it within this time, seconds: one
/// retransmitted SYN/ACK more than Linux' default handshake needs to succeed over a lossy path.
pub const SYN_TIMEOUT_S: u32 = 30;
/// A probationary entry becomes a confirmed one when it is seen again this much later, seconds.
pub const PROBATION_S: u32 = 1;
/// An entry whose client closed is kept this long after its last packet, seconds.
pub const CLOSING_TIMEOUT_S: u32 = 10;
/// How far beyond ISN + 1 a sequence number confirms a SYN's entry: the largest window that a SYN can open (it is
/// never scaled, RFC 7323 section 2.2) and the most data a SYN carries (RFC 7413), one jumbo frame.
pub const SYN_WINDOW: u32 = 65_535 + 9_000;
/// Of so many flows whose SYN goes by its slot alone, one is watched for SYNs that come again; a power of two. It keeps the
/// cache of a CPU under a flood: of a million SYNs a second, sixteen thousand touch a mark.
pub const SYN_SAMPLE: u32 = 64;
/// Marks of the SYNs of sampled flows, words of 8 bytes: 32 KiB, about a first-level cache; a power of two. At 100,000 SYNs a
/// second two marks of three are still there when a client repeats its SYN, after a second (RFC 6298, 2.1).
pub const SYN_MARKS: u32 = 4_096;
/// Weight of a backend, 0 to this.
pub const WEIGHT_MAX: u16 = 65_535;
/// Outer IPv4 header without options, bytes.
pub const IPV4_OVERHEAD: u16 = 20;
/// Outer IPv6 header, bytes.
pub const IPV6_OVERHEAD: u16 = 40;
/// TTL or hop limit of an outer header and of our own ICMP messages (RFC 1700's default).
pub const OUTER_TTL: u8 = 64;
/// Bytes of an offending packet quoted in an ICMPv4 error: header, options and 8 bytes (RFC 792); 28 suffices for
/// a client without options and keeps every answer smaller than two minimal frames.
pub const ICMP4_QUOTE: u16 = 28;
/// Bytes of an offending packet quoted in an ICMPv6 error: the IPv6 header and the start of the transport header,
/// so that an answer is never much larger than what caused it.
pub const ICMP6_QUOTE: u16 = 48;
