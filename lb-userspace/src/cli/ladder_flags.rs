//! The flags of a vip's ladder, for `lb vip add` and `lb vip set`, and how it is shown.

use lb_control::degradation::{LadderSettings, LadderWish};

/// Settings of the ladder; what is not named stays, or has its default.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LadderFlags {
    /// Whether clients are refused at once while nobody serves, by a TCP reset or ICMP; true unless named.
    #[arg(long, value_name = "true|false")]
    fail_fast: Option<bool>,
    /// Whether the last set of backends that worked serves when all have failed their probes; true unless named.
    #[arg(long, value_name = "true|false")]
    last_known_good: Option<bool>,
    /// The vip whose pool serves when nobody of its own pool and backups can; an empty name: none.
    #[arg(long, value_name = "VIP")]
    fallback: Option<String>,
}

impl LadderFlags {
    /// The wish that they say; none if they say nothing.
    pub(super) fn wish(&self) -> Option<LadderWish> {
        let wish = LadderWish {
            fail_fast: self.fail_fast,
            last_known_good: self.last_known_good,
            fallback: self.fallback.clone(),
        };
        (wish != LadderWish::default()).then_some(wish)
    }
}

/// What is done when nobody of the pool and its backups serves, one line.
pub(super) fn text(ladder: &LadderSettings) -> String {
    let end = if ladder.fail_fast { "clients are refused" } else { "packets are dropped" };
    let good = if ladder.last_known_good { ", last known good" } else { "" };
    let fallback = ladder.fallback.as_ref().map_or_else(String::new, |vip| format!(", the pool of {vip}"));
    format!("pool, backups{fallback}{good}; while nobody serves {end}")
}
