//! A frame as the packet path sees it: typed views at offsets, and room to grow or shrink at the front.

use bytemuck::Pod;

/// Largest offset of a view, bytes, and a mask: beyond the last header that a packet can have (two VLAN tags, IPv6, six
/// extension headers of 2 KiB, ICMPv6), and below the 64 KiB at which the kernel's verifier stops to follow an offset.
pub const OFFSET_MAX: u16 = 0x3fff;

/// A frame. Offsets are bytes from the start of the frame and change with [`Packet::grow_head`] and
/// [`Packet::shrink_head`]; views end there.
pub trait Packet {
    /// Length of the frame, bytes, of all its parts. In the kernel a call, so asked only where [`Packet::linear`] is not
    /// enough.
    fn length(&self) -> u32;
    /// Length of its first, linear part, bytes: all of it, mostly.
    fn linear(&self) -> u32;
    /// A view of the type at an offset; `None` where the frame (or its first, linear part) ends before.
    fn at<T: Pod>(&self, offset: u16) -> Option<&T>;
    /// A writable view of the type at an offset.
    fn at_mut<T: Pod>(&mut self, offset: u16) -> Option<&mut T>;
    /// Makes room for `bytes` more bytes before the frame. `false`: there is none, and nothing changed.
    fn grow_head(&mut self, bytes: u16) -> bool;
    /// Cuts `bytes` bytes off the front. `false`: refused, and nothing changed.
    fn shrink_head(&mut self, bytes: u16) -> bool;
    /// Cuts the frame to `bytes` bytes. `false`: refused, and nothing changed.
    fn truncate(&mut self, bytes: u32) -> bool;
}
