//! Stage 2: whose packet is it? Exact address, port and protocol, then every port, then the mark of the address.

use super::Halt;
use super::parse::{Content, Parsed};
use super::pipeline::Trail;
use super::tables::{NO_ROW, Tables};
use crate::abi::vip::{VipKey, VipRow};
use crate::be::Be16;
use crate::reason::Reason;

/// Where a packet belongs.
pub enum Target<'t> {
    /// To a vip.
    Vip(&'t VipRow),
    /// Perhaps a backend's reply to NAT.
    Reply,
    /// An echo to a vip's address.
    Echo,
}

/// Finds where a packet belongs; passes what is not ours.
#[inline(always)]
pub fn find<'t, T: Tables>(parsed: &Parsed, tables: &'t T, trail: &mut Trail) -> Result<Target<'t>, Halt> {
    let flow = &parsed.flow;
    if matches!(parsed.content, Content::Segment | Content::Error) {
        for port in [flow.dst_port, Be16::from_raw(0)] {
            let key = VipKey::new(flow.dst, port, flow.protocol);
            if let Some(vip) = lookup(&key, tables, trail) {
                return Ok(Target::Vip(vip));
            }
        }
    }
    let Some(mark) = tables.vip_entry(&VipKey::mark(flow.dst)) else { return Err(Halt::pass(Reason::NoVip)) };
    match parsed.content {
        Content::Segment | Content::Error if mark.is_source() => Ok(Target::Reply),
        Content::Echo if mark.is_address() => Ok(Target::Echo),
        Content::Unusable if parsed.refusal == Reason::IcmpOther => Err(Halt::pass(Reason::IcmpOther)),
        Content::Unusable if mark.is_address() => Err(Halt::drop(parsed.refusal)),
        _ => Err(Halt::pass(Reason::NoVip)),
    }
}

/// The vip of a key: in the row where this CPU last found it, or else where the hash map says.
#[inline(always)]
fn lookup<'t, T: Tables>(key: &VipKey, tables: &'t T, trail: &mut Trail) -> Option<&'t VipRow> {
    let hint = tables.vip_hint(key.hint());
    trail.vip_row = hint.map_or(NO_ROW, |hint| hint.load() as u32);
    if let Some(vip) = in_row(trail.vip_row, key, tables) {
        return Some(vip);
    }
    trail.vip_row = NO_ROW;
    let row = tables.vip_entry(key)?.row();
    let vip = in_row(row, key, tables)?;
    if let Some(hint) = hint {
        hint.store(row.into());
    }
    trail.vip_row = row;
    Some(vip)
}

/// The vip of a row, if it is the key's. The row repeats the key and decides: what led here may be old, or, from a hash
/// map that changes while it is read, another key's.
#[inline(always)]
fn in_row<'t, T: Tables>(row: u32, key: &VipKey, tables: &'t T) -> Option<&'t VipRow> {
    let vip = tables.vip(row)?;
    let addr = key.addr.words();
    let same = vip.key.load() == VipRow::key_word(key.port, key.protocol)
        && vip.addr[0].load() == addr[0]
        && vip.addr[1].load() == addr[1];
    same.then_some(vip)
}
