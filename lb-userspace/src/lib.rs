//! The edges: disk, kernel, sockets, clock.

pub mod dataplane;
mod netlink;
