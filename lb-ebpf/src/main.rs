//! Entry points: `balance` on a node, `decap` on a backend.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the attribute on entry points makes more of them")]

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::{decap, pipeline};
use lb_ebpf::run;

/// Balances what comes in.
#[xdp(frags)]
pub fn balance(context: XdpContext) -> u32 {
    run(context, |frame, maps, walk| pipeline::run::<_, _, MovedOnly>(frame, maps, walk))
}

/// Takes a balancer's outer header off.
#[xdp(frags)]
pub fn decap(context: XdpContext) -> u32 {
    run(context, |frame, maps, walk| decap::run(frame, maps, &mut walk.parsed))
}

/// Nothing here panics: what could is a verdict.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Needed by the kernel for helpers that are licensed so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
