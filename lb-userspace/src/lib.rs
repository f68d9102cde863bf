//! The edges: disk, kernel, sockets, clock.
