//! The daemon's real routes over a unix socket, on a data plane in memory, driven by the real command line. No root.

mod bad_input;
mod bench;
mod changes;
mod commands;
mod documents;
mod doubt;
mod faults;
mod past;
mod readers;
mod reading;
mod rollback;
mod ways;
