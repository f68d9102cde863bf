//! The frame adapter: an XDP context as `lb_common`'s `Packet`.

use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use bytemuck::Pod;
use lb_common::datapath::packet::{OFFSET_MAX, Packet};

/// A frame in the kernel. Views cover its first, linear part, which holds every header.
pub struct Frame(pub XdpContext);

impl Frame {
    /// Interface index that it came in by.
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.0.ctx).ingress_ifindex }
    }
    #[inline(always)]
    fn pointer<T: Pod>(&self, offset: u16) -> Option<*mut T> {
        // SAFETY: the context is valid. Volatile, because the verifier only knows as a packet's what was just loaded
        // from the context; the compiler would pass it on as a 32-bit number.
        let (data, end) = unsafe {
            let context = &raw const *self.0.ctx;
            ((&raw const (*context).data).read_volatile(), (&raw const (*context).data_end).read_volatile())
        };
        let start = data as usize + usize::from(offset & OFFSET_MAX);
        (start + size_of::<T>() <= end as usize).then_some(start as *mut T)
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as u32 }
    }
    #[inline(always)]
    fn linear(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.0.ctx).data_end.wrapping_sub((*self.0.ctx).data) }
    }
    #[inline(always)]
    fn at<T: Pod>(&self, offset: u16) -> Option<&T> {
        // SAFETY: within the frame, checked above as the verifier demands; `T` is plain data, aligned to 2 like every
        // header in an Ethernet frame, and nothing else writes the frame while the program runs.
        self.pointer(offset).map(|pointer| unsafe { &*pointer })
    }
    #[inline(always)]
    fn at_mut<T: Pod>(&mut self, offset: u16) -> Option<&mut T> {
        // SAFETY: as in `at`; `&mut self` makes the view the only one.
        self.pointer(offset).map(|pointer| unsafe { &mut *pointer })
    }
    #[inline(always)]
    fn grow_head(&mut self, bytes: u16) -> bool {
        // SAFETY: the context is valid; views ended with the borrow.
        unsafe { bpf_xdp_adjust_head(self.0.ctx, -i32::from(bytes)) == 0 }
    }
    #[inline(always)]
    fn shrink_head(&mut self, bytes: u16) -> bool {
        // SAFETY: the context is valid; views ended with the borrow.
        unsafe { bpf_xdp_adjust_head(self.0.ctx, i32::from(bytes)) == 0 }
    }
    #[inline(always)]
    fn truncate(&mut self, bytes: u32) -> bool {
        let cut = bytes as i32 - self.length() as i32;
        // SAFETY: the context is valid; views ended with the borrow.
        cut <= 0 && unsafe { bpf_xdp_adjust_tail(self.0.ctx, cut) == 0 }
    }
}
