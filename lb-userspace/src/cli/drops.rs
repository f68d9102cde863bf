//! `lb drops`: what became of packets, by reason, with what to do about it.

use super::text::{count, packet_rate};
use super::{Done, Session};
use crate::api::views::{DropView, ListView};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show every reason, not only those of dropped packets; their sum is the packets seen.
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let mut list: ListView<DropView> = session.client.read("/v1/views/drops").await?;
    let seen: u64 = list.items.iter().map(|reason| reason.packets).sum();
    list.items.retain(|reason| args.all || reason.class == "drop");
    list.items.sort_by_key(|reason| std::cmp::Reverse((reason.last_minute_packets, reason.packets)));
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    if list.items.is_empty() {
        session.out.line(&format!("no packet was dropped ({} seen)", count(seen)));
        return Ok(None);
    }
    table(session, &list.items);
    session.out.line(&format!("  {} packets seen since the maps were made", count(seen)));
    Ok(None)
}

/// The reasons, one a line.
pub(super) fn table(session: &mut Session<'_>, reasons: &[DropView]) {
    let row = |reason: &DropView| {
        vec![
            reason.reason.clone(),
            packet_rate(reason.rate_pps),
            count(reason.last_minute_packets),
            count(reason.packets),
            reason.text.clone(),
        ]
    };
    let rows = reasons.iter().map(row).collect();
    session.out.table(&["reason", "now", "last minute", "ever", "meaning and what to do"], rows);
}
