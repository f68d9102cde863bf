//! The daemon's real routes over a unix socket, on a data plane in memory, driven by the real command line. No root.

mod bench;
mod changes;
mod documents;
mod faults;
mod past;
mod readers;
mod reading;
