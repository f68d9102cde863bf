//! What a keyed hash of a flow costs: the flow of the packet, hashed several times, each time with the hash before
//! in its source address. So no hash can begin before the one before is done, as no lookup of a slot can.
//!
//! xxh64 gets the message that suits it best: whole words and no rest.

use aya_ebpf::programs::XdpContext;
use lb_common::addr::{Addr, Mac};
use lb_common::be::Be16;
use lb_common::datapath::packet::Packet;
use lb_common::datapath::wire::ethernet::{ETHERNET, Ethernet};
use lb_common::datapath::wire::ipv4::{IPV4, Ipv4};
use lb_common::datapath::wire::transport::Ports;
use lb_common::hash::{HashKey, Tuple, flow_hash};
use lb_ebpf::frame::Frame;
use lb_ebpf::maps::{LB_HASH_KEY, global};
use xxhash_rust::xxh64::xxh64;

/// Hashes for one packet; the benchmark divides by it.
const HASHES: u32 = 8;
/// First words of an IPv6 address, 2001:db8::.
const PREFIX: [u32; 2] = [0xb80d_0120, 0];

/// Hashes the packet's flow with IPv4 addresses, or with IPv6 addresses that end in these, and leaves the hash in the
/// frame, where nobody can say that it was not needed.
#[inline(always)]
pub fn chain(context: XdpContext, v6: bool, hash: impl Fn(HashKey, &Tuple) -> u64) -> Option<()> {
    let mut frame = Frame(context);
    let header: &Ipv4 = frame.at(ETHERNET)?;
    let (src, dst) = (Addr::v4(header.src), Addr::v4(header.dst));
    let ports: &Ports = frame.at(ETHERNET + IPV4)?;
    let mut tuple = Tuple { src, dst, src_port: ports.src, dst_port: ports.dst, protocol: 6 };
    if v6 {
        for address in [&mut tuple.src, &mut tuple.dst] {
            address.0 = [PREFIX[0], PREFIX[1], address.0[2], address.0[3]];
        }
    }
    let key = HashKey(global(&LB_HASH_KEY));
    let mut last = 0;
    for _ in 0..HASHES {
        last = hash(key, &tuple);
        tuple.src.0[3] ^= last as u32;
        tuple.src_port = Be16::from_raw(tuple.src_port.raw() ^ (last >> 32) as u16);
    }
    frame.at_mut::<Ethernet>(0)?.src = Mac(last).field();
    Some(())
}

/// No hash: what all else costs.
#[inline(always)]
pub fn nothing(_key: HashKey, tuple: &Tuple) -> u64 {
    tuple.src.words()[1]
}

/// What the balancer uses.
#[inline(always)]
pub fn siphash(key: HashKey, tuple: &Tuple) -> u64 {
    flow_hash(key, tuple)
}

/// xxh64, its seed half of the key.
#[inline(always)]
pub fn seeded_xxh64(key: HashKey, tuple: &Tuple) -> u64 {
    let ports = u64::from(tuple.src_port.raw()) | u64::from(tuple.dst_port.raw()) << 16;
    let tail = ports | u64::from(tuple.protocol) << 32;
    if tuple.dst.is_v4() {
        let addresses = u64::from(tuple.src.0[3]) | u64::from(tuple.dst.0[3]) << 32;
        xxh64([addresses, tail].map(u64::to_ne_bytes).as_flattened(), key.0[0])
    } else {
        let ([a, b], [c, d]) = (tuple.src.words(), tuple.dst.words());
        xxh64([a, b, c, d, tail].map(u64::to_ne_bytes).as_flattened(), key.0[0])
    }
}
