//! The kernel side of the balancer: BPF maps, the frame adapter and the table adapter. Glue only: what happens to a
//! packet is decided in `lb-common`.
#![no_std]
#![feature(core_intrinsics)]
#![allow(internal_features)]

pub mod frame;
pub mod maps;
pub mod tables;
