//! Tests of the path as a whole: frames in, frames out, and the law. Frames come from another implementation (`shape`).
//! What one stage's arithmetic does by itself is tested at the bottom of its file.

mod bulkhead;
mod decap;
mod forward;
mod icmp;
mod law;
mod nat;
mod parse;
mod pick;
mod refuse;
mod select;
mod shape;
mod site;
mod trial;
