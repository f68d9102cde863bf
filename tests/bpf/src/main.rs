//! Programs of the benchmark: what makes packets (`drive`, `generate`), what the balancer is compared with, flow
//! hashes alone, and where packets end. Measures nothing itself; the binary `bench` of crate `lb-tests` does.
//!
//! All take frames in parts, as the balancer does: the kernel lets a program call only its like.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the attribute on entry points makes more of them")]

mod flow;
mod hash;
mod reference;

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::btf_maps::{DevMap, ProgramArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use lb_common::datapath::packet::Packet;
use lb_common::datapath::pipeline;
use lb_common::datapath::wire::ethernet::{ETHERNET, Ethernet};
use lb_common::datapath::wire::ipv4::Ipv4;
use lb_ebpf::frame::Frame;
use lb_ebpf::run;

/// Programs under test, by number.
#[btf_map]
static BENCH_PROGRAMS: ProgramArray<8> = ProgramArray::new();
/// Devices that the bare redirect spreads over.
#[btf_map]
static BENCH_DEVICES: DevMap<4> = DevMap::new();

/// Makes the next packet anew in the frame that the one before was in, and hands it to the program under test.
#[xdp(frags)]
pub fn drive(context: XdpContext) -> u32 {
    let target = flow::load().map_or(0, |load| load.target);
    let mut frame = Frame(context);
    if flow::write(&mut frame).is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: nothing here needs to be dropped.
    unsafe { BENCH_PROGRAMS.tail_call(&frame.0, target) };
    XDP_ABORTED
}

/// Makes the next packet anew and sends it out of the device that it is said to have come in by.
#[xdp(frags)]
pub fn generate(context: XdpContext) -> u32 {
    if flow::write(&mut Frame(context)).is_some() { XDP_TX } else { XDP_ABORTED }
}

/// Does nothing: what is left is the cost of measuring.
#[xdp(frags)]
pub fn empty(_context: XdpContext) -> u32 {
    XDP_TX
}

/// The least that a forwarder does: sends a frame back with its MAC addresses swapped.
#[xdp(frags)]
pub fn mac_swap(context: XdpContext) -> u32 {
    let mut frame = Frame(context);
    let Some(header) = frame.at_mut::<Ethernet>(0) else { return XDP_ABORTED };
    core::mem::swap(&mut header.dst, &mut header.src);
    XDP_TX
}

/// The balancer's path with the field's usual tracking.
#[xdp(frags)]
pub fn reference(context: XdpContext) -> u32 {
    run(context, |frame, maps, walk| pipeline::run::<_, _, reference::LeastRecentlyUsed>(frame, maps, walk))
}

/// Spreads frames over four devices by the client's address, and does nothing else.
#[xdp(frags)]
pub fn bare_redirect(context: XdpContext) -> u32 {
    let frame = Frame(context);
    let Some(header) = frame.at::<Ipv4>(ETHERNET) else { return XDP_ABORTED };
    BENCH_DEVICES.redirect(header.src.host() & 3, 0).unwrap_or(XDP_DROP)
}

/// No hash: what all else of the next four costs.
#[xdp(frags)]
pub fn hash_nothing(context: XdpContext) -> u32 {
    hash::chain(context, false, hash::nothing).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// The balancer's hash, IPv4.
#[xdp(frags)]
pub fn hash_siphash(context: XdpContext) -> u32 {
    hash::chain(context, false, hash::siphash).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// The quicker hash that is no PRF, IPv4.
#[xdp(frags)]
pub fn hash_xxh64(context: XdpContext) -> u32 {
    hash::chain(context, false, hash::seeded_xxh64).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// The balancer's hash, IPv6.
#[xdp(frags)]
pub fn hash_siphash_v6(context: XdpContext) -> u32 {
    hash::chain(context, true, hash::siphash).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// The quicker hash that is no PRF, IPv6.
#[xdp(frags)]
pub fn hash_xxh64_v6(context: XdpContext) -> u32 {
    hash::chain(context, true, hash::seeded_xxh64).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// Where packets end.
#[xdp(frags)]
pub fn sink(_context: XdpContext) -> u32 {
    XDP_DROP
}

/// Nothing here panics.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Needed by the kernel for helpers that are licensed so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
