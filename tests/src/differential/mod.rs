//! The differential test: the same frames through the program in the kernel and through the same path on the host,
//! over equal tables, with a stopped clock. Verdict, bytes, counters and every table must stay equal.
//!
//! `packets` makes frames, `mutate` damages them, `script` plays connections, `world` holds the tables of the host,
//! `kernel` those of the kernel, `run` drives both and counts what was reached. Nothing here knows what the right
//! answer is: that two compilers and two adapters agree is the claim. Golden frames and the law say what is right.

pub mod kernel;
pub mod mutate;
pub mod packets;
pub mod run;
pub mod script;
pub mod world;
