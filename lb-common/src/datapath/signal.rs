//! What a packet says of its backend by itself: a SYN, one that came again, a reset or an ICMP error for an answer. Counted
//! only: the daemon compares the counts with all packets of the backend, and has it probed if they look bad. Nothing here
//! decides about a packet, so whoever forges such signals brings about probes and nothing else.
//!
//! The common packet pays one test: it is neither SYN nor reset nor ICMP error.

use super::parse::{Content, Parsed};
use super::pipeline::{Choice, Trail};
use super::tables::{NO_ROW, Tables};
use super::wire::transport::{ACK, RST, SYN};
use crate::abi::mark::Mark;
use crate::abi::signal::Signal;

/// Counts what a packet that went its way says of its backend.
#[inline(always)]
pub fn note<T: Tables>(parsed: &Parsed, trail: &Trail, tables: &T) {
    if (parsed.tcp_flags & (SYN | RST)) | (parsed.content == Content::Error) as u8 != 0 {
        noted(parsed, trail, tables);
    }
}

#[inline(never)]
fn noted<T: Tables>(parsed: &Parsed, trail: &Trail, tables: &T) {
    if trail.backend_row == NO_ROW {
        return;
    }
    // What has a vip came from a client, what has none from the backend.
    if trail.vip_row == NO_ROW {
        if parsed.content == Content::Error && parsed.unreachable {
            tables.count_signal(Signal::Unreachable.index(trail.backend_row));
        }
        // The reset of a SYN has no number of its own (RFC 9293 section 3.10.7.1); one that ends a connection has.
        if parsed.tcp_flags & (RST | ACK) == RST | ACK && parsed.sequence == 0 {
            tables.count_signal(Signal::Reset.index(trail.backend_row));
        }
        return;
    }
    if parsed.is_syn() {
        tables.count_signal(Signal::Syn.index(trail.backend_row));
        if trail.choice == Choice::Remembered && trail.moves.repeated() {
            tables.count_signal(Signal::Repeated.index(trail.backend_row));
        }
        if trail.choice == Choice::Slot && came_again(parsed, trail, tables) {
            tables.count_signal(Signal::SampledRepeated.index(trail.backend_row));
        }
    }
}

/// Whether this SYN, whose flow nobody remembers, went to its backend before: seen by its mark if its flow is sampled. Leaves
/// the mark.
#[inline(always)]
fn came_again<T: Tables>(parsed: &Parsed, trail: &Trail, tables: &T) -> bool {
    let Some(word) = Mark::place(trail.hash).and_then(|place| tables.syn_mark(place)) else { return false };
    let mark = Mark::new(trail.hash, trail.backend_row as u16, parsed.sequence);
    let again = word.load() == mark.0;
    word.store(mark.0);
    again
}
