//! The shared core: ABI and packet path.
#![no_std]
#![forbid(unsafe_code)]
