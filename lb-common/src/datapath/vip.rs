//! Stage 2: whose packet is it? Exact address, port and protocol, then every port, then the mark of the address.

use super::Halt;
use super::parse::{Content, Parsed};
use super::pipeline::Trail;
use super::tables::Tables;
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

/// The vip of a key. The row repeats the key: a hash map that changes while it is read can give another key's value.
#[inline(always)]
fn lookup<'t, T: Tables>(key: &VipKey, tables: &'t T, trail: &mut Trail) -> Option<&'t VipRow> {
    let row = tables.vip_entry(key)?.row();
    let vip = tables.vip(row)?;
    let addr = key.addr.words();
    let same = vip.key.load() == VipRow::key_word(key.port, key.protocol)
        && vip.addr[0].load() == addr[0]
        && vip.addr[1].load() == addr[1];
    trail.vip_row = row;
    same.then_some(vip)
}
