//! Entry points: `balance` on a node, `decap` on a backend.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::pipeline;
use lb_common::datapath::{Verdict, decap};
use lb_ebpf::frame::Frame;
use lb_ebpf::maps::{LB_DEVICES, notes};
use lb_ebpf::tables::Maps;

/// Balances what comes in.
#[xdp(frags)]
pub fn balance(context: XdpContext) -> u32 {
    let mut frame = Frame::new(context);
    let maps = Maps::of(&frame);
    let Some(walk) = notes() else { return XDP_PASS };
    action(pipeline::run::<_, _, MovedOnly>(&mut frame, &maps, walk))
}

/// Takes a balancer's outer header off.
#[xdp(frags)]
pub fn decap(context: XdpContext) -> u32 {
    let mut frame = Frame::new(context);
    let maps = Maps::of(&frame);
    let Some(walk) = notes() else { return XDP_PASS };
    action(decap::run(&mut frame, &maps, &mut walk.parsed))
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
