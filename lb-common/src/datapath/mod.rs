//! The packet path, in packet order: `parse`, `vip`, `connection` (which `select`s), `forward`, `account`; `icmp`
//! answers. [`pipeline::run`] is the whole of it on one screen.

pub mod packet;
pub mod tables;
