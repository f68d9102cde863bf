//! Entry points: `balance` on a node, `decap` on a backend.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the attribute on entry points makes more of them")]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::pipeline::{self, Walk};
use lb_common::datapath::{Verdict, decap};
use lb_ebpf::frame::Frame;
use lb_ebpf::maps::{LB_DEVICES, notes};
use lb_ebpf::tables::Maps;

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

#[inline(always)]
fn run(context: XdpContext, path: impl FnOnce(&mut Frame, &Maps, &mut Walk) -> Verdict) -> u32 {
    let mut frame = Frame(context);
    let maps = Maps(frame.ifindex());
    notes().map_or(XDP_PASS, |walk| action(path(&mut frame, &maps, walk)))
}

/// A verdict as XDP puts it.
#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) => XDP_PASS,
        Verdict::Drop(_) => XDP_DROP,
        Verdict::Transmit(_) => XDP_TX,
        Verdict::Redirect(_, egress) => LB_DEVICES.redirect(egress.into(), 0).unwrap_or(XDP_DROP),
    }
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
