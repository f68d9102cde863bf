//! The kernel side of the balancer: BPF maps, the frame adapter and the table adapter. Glue only: what happens to a
//! packet is decided in `lb-common`.
#![no_std]
#![feature(core_intrinsics)]
#![allow(internal_features)]

pub mod frame;
pub mod maps;
pub mod tables;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::programs::XdpContext;
use frame::Frame;
use lb_common::datapath::Verdict;
use lb_common::datapath::pipeline::Walk;
use maps::{LB_DEVICES, notes};
use tables::Maps;

/// Takes a packet through `path` and puts the verdict as XDP does.
#[inline(always)]
pub fn run(context: XdpContext, path: impl FnOnce(&mut Frame, &Maps, &mut Walk) -> Verdict) -> u32 {
    let mut frame = Frame(context);
    let maps = Maps(frame.ifindex());
    notes().map_or(XDP_PASS, |walk| action(path(&mut frame, &maps, walk)))
}

#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) => XDP_PASS,
        Verdict::Drop(_) => XDP_DROP,
        Verdict::Transmit(_) => XDP_TX,
        Verdict::Redirect(_, egress) => LB_DEVICES.redirect(egress.into(), 0).unwrap_or(XDP_DROP),
    }
}
