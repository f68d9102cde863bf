//! The way to a backend as packets use it, and what speaks against it now.
//!
//! A way once known stays in the maps when its neighbour falls silent or its route goes: whether packets are sent at all is
//! for health to decide. So that a way is in use does not say that it leads anywhere; [`stale`] does. Not here: how ways are
//! looked for ([`crate::neighbour`]).

use lb_control::plan::{Actual, BackendContent, Way};

use super::super::views::WayView;
use super::vips::device_name;
use crate::dataplane::LiveSlots;

/// What was found when the way was looked for last; `None`: nobody looked yet.
pub(in crate::api) type Looked<'a> = Option<&'a Result<Way, String>>;

/// Why a way that was known may lead nowhere now; `None`: nothing speaks against it.
pub(in crate::api) fn stale(looked: Looked<'_>) -> Option<String> {
    match looked? {
        Err(why) => Some(why.clone()),
        Ok(way) if way.next_hop_mac.is_none() => Some("its neighbour does not answer".to_owned()),
        Ok(_) => None,
    }
}

/// The way as packets use it; that it is not known is told by who looks for it.
pub(super) fn view(looked: Looked<'_>, row: Option<(&Actual<LiveSlots>, &BackendContent)>) -> WayView {
    let used = row.filter(|(_, content)| content.next_hop.is_known());
    let Some((actual, content)) = used else {
        let why_not = if looked.is_none() { Some("not looked up yet".to_owned()) } else { stale(looked) };
        return WayView { why_not, ..WayView::default() };
    };
    let egress = actual.egresses.get(&content.next_hop.egress());
    let number = u8::try_from(content.control.source()).ok();
    WayView {
        known: true,
        device: egress.map(|egress| device_name(egress.ifindex)),
        next_hop: Some(mac_text(content.next_hop.mac().octets())),
        source: number.and_then(|number| actual.sources.get(&number)).copied(),
        why_not: None,
        stale: stale(looked),
    }
}

fn mac_text(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}
