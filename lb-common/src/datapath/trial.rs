//! A backend on trial: of the new connections that its slots, or its vip's algorithm, have for it, as many as it has
//! tokens for go to it, at a rate that all CPUs share; each of the others goes to the slot's next choice, the backend of a
//! slot behind it, and is remembered there.
//!
//! Which backend is on trial, and at which rate, a word of its row says. Only what a packet shows to be the beginning of a
//! connection can be counted: a SYN. Older connections of the backend stay with it.

use super::connection::control;
use super::pipeline::Trail;
use super::tables::Tables;
use crate::abi::backend::BackendRow;
use crate::abi::slot::Slot;
use crate::abi::vip::extent;

/// Slots behind its own that a connection looks at for another backend. Slots that follow each other are unrelated, and a
/// backend on trial has few of them: a tenth of its half, of two equal backends, fails four times once in 160,000.
const NEXT_SLOTS: u32 = 4;

/// New connections per second that a backend is given while it is on trial; 0 = it is not.
#[inline(always)]
pub fn rate_cps<T: Tables>(row: u16, tables: &T) -> u64 {
    tables.backend(row.into()).map_or(0, |backend| backend.trial_cps.load())
}

/// The backend row of a new connection for which `row`, which is on trial, was found.
#[inline(never)]
pub fn admitted<T: Tables>(row: u16, trail: &Trail, tables: &T) -> u16 {
    match tables.backend(row.into()) {
        Some(backend) if !take(backend, tables) => next_choice(trail, tables).unwrap_or(row),
        _ => row,
    }
}

/// The backend of a slot behind a connection's own that takes new flows and is not on trial itself.
#[inline(always)]
fn next_choice<T: Tables>(trail: &Trail, tables: &T) -> Option<u16> {
    let (first, count) = extent(tables.vip(trail.vip_row)?.table.load());
    let mut number = trail.slot_number;
    for _ in 0..NEXT_SLOTS {
        number += 1;
        if number >= count {
            number = 0;
        }
        let row = Slot(tables.slot(first.wrapping_add(number))?.load()).current();
        if control(row, tables).takes_new() && rate_cps(row, tables) == 0 {
            return Some(row);
        }
    }
    None
}

/// Takes a token, if one is due. One that nobody took may be made up for by the next, so that the mean is the rate. Who
/// meets another CPU at it goes without.
#[inline(always)]
fn take<T: Tables>(backend: &BackendRow, tables: &T) -> bool {
    let rate_cps = backend.trial_cps.load();
    if rate_cps == 0 {
        return true;
    }
    let interval_ns = 1_000_000_000 / rate_cps;
    let (now_ns, due_ns) = (tables.now_ns(), backend.trial_due_ns.load());
    if now_ns < due_ns {
        return false;
    }
    let from_ns = due_ns.max(now_ns.saturating_sub(interval_ns));
    tables.compare_swap(&backend.trial_due_ns, due_ns, from_ns + interval_ns)
}
