//! Makes packets: draws a flow and writes the whole frame of its next packet, whatever the frame held before.
//!
//! Who says which flows is the benchmark, by one row of a map that it writes between runs.

use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::addr::Mac;
use lb_common::be::{Be16, Be32};
use lb_common::datapath::packet::Packet;
use lb_common::datapath::wire::ethernet::{ETHERNET, Ethernet, TYPE_IPV4};
use lb_common::datapath::wire::ipv4::{IPV4, Ipv4};
use lb_common::datapath::wire::transport::{Ports, TCP, Tcp};
use lb_ebpf::frame::Frame;

/// Length of every frame, bytes, without the frame check sequence: the least that Ethernet has.
const FRAME: u32 = 60;
/// First address of the clients, 10.0.0.0.
const CLIENTS: u32 = 10 << 24;
/// Flows whose clients differ; the next ones differ in the port.
const CLIENT_BITS: u32 = 24;

/// What to make.
#[repr(C)]
pub struct Load {
    /// Number of flows; flow numbers are below.
    pub flows: u32,
    /// 0: each packet is of a flow drawn at random. Otherwise of the next one.
    pub in_turn: u32,
    /// TCP flags.
    pub tcp_flags: u32,
    /// Number of the program under test.
    pub target: u32,
    /// The vip's address, as it lies in memory.
    pub vip: u32,
    /// The vip's port, host order.
    pub port: u32,
    /// Destination MAC, octets 0-3 and 4-5 as they lie in memory.
    pub mac: [u32; 2],
}

#[btf_map]
static BENCH_LOAD: Array<Load, 1> = Array::new();
/// State of the generator of this CPU: a counter.
#[btf_map]
static BENCH_STATE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// What to make.
#[inline(always)]
pub fn load() -> Option<&'static Load> {
    BENCH_LOAD.get(0)
}

/// Number of the next packet's flow.
#[inline(always)]
fn draw(load: &Load) -> Option<u32> {
    let state = BENCH_STATE.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element; a program is not interrupted by itself on its CPU.
    let state = unsafe { &mut *state };
    *state = state.wrapping_add(1);
    if load.in_turn != 0 {
        return (*state as u32).checked_rem(load.flows);
    }
    // SplitMix64 (Steele, Lea, Flood, 2014): its increment, and one of its two rounds of mixing.
    let mixed = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    Some(((mixed >> 32) * u64::from(load.flows) >> 32) as u32)
}

/// Writes the next packet.
#[inline(always)]
pub fn write(frame: &mut Frame) -> Option<()> {
    let load = load()?;
    let flow = draw(load)?;
    // What encapsulation put before the last packet is still there.
    let grown = frame.length() - FRAME;
    if grown > 0 && !frame.shrink_head(grown as u16) {
        return None;
    }
    let octets = u64::from(load.mac[0]) | u64::from(load.mac[1]) << 32;
    *frame.at_mut(0)? =
        Ethernet { dst: Mac(octets).field(), src: Mac(0x0100_0000_0002).field(), ethertype: TYPE_IPV4 };
    let mut header = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_length: Be16::new(IPV4 + size_of::<Tcp>() as u16),
        id: Be16::new(0),
        fragment: Be16::new(0x4000),
        ttl: 64,
        protocol: TCP,
        checksum: Be16::new(0),
        src: Be32::new(CLIENTS | flow & ((1 << CLIENT_BITS) - 1)),
        dst: Be32::from_raw(load.vip),
    };
    header.seal();
    *frame.at_mut(ETHERNET)? = header;
    let src = Be16::new(1024 + (flow >> CLIENT_BITS) as u16);
    *frame.at_mut(ETHERNET + IPV4)? = Tcp {
        ports: Ports { src, dst: Be16::new(load.port as u16) },
        sequence: Be32::new(1),
        acknowledgement: Be32::new(1),
        offset: 5 << 4,
        flags: load.tcp_flags as u8,
        window: Be16::new(65_535),
        checksum: Be16::new(0),
        urgent: Be16::new(0),
    };
    Some(())
}
