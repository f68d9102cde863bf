//! Suspects: backends against which their clients' traffic speaks. Each is probed at once, as often as a doubt would have
//! it, and told of; what a probe then says is another's business, as is what follows from it. No suspicion ever reaches a
//! breaker or the plan: a forged flood brings about probes, and nothing else.
//!
//! What speaks against one: `lb_control::suspicion` says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lb_common::ids::BackendId;
use lb_control::suspicion::Watch;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::unix_ms;
use crate::dataplane::Dataplane;
use crate::engine::Published;
use crate::probe::ProbeNow;
use crate::vital;

/// From one look at the counters to the next.
const LOOK: Duration = Duration::from_millis(250);
/// How long a suspicion is shown after its last sign.
const KEPT: Duration = Duration::from_secs(10);

/// A backend against which its traffic speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The first sign, one sentence.
    pub evidence: String,
    /// When that was, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// Suspects by backend.
pub type Suspects = Arc<BTreeMap<BackendId, Suspect>>;

/// Looks at the counters until the published states end; `now` has a backend probed.
pub fn start(
    dataplane: Arc<dyn Dataplane>,
    states: watch::Receiver<Published>,
    now: ProbeNow,
) -> watch::Receiver<Suspects> {
    let (suspects, follow) = watch::channel(Suspects::default());
    vital::spawn("suspects", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let looker = Looker { dataplane, now, suspects, watched: BTreeMap::new(), seen: BTreeMap::new() };
        runtime.expect("a daemon that starts can have a timer").block_on(looker.run(states));
    });
    follow
}

struct Looker {
    dataplane: Arc<dyn Dataplane>,
    now: ProbeNow,
    suspects: watch::Sender<Suspects>,
    watched: BTreeMap<BackendId, Watch>,
    /// Suspects, and when the last sign against each was seen.
    seen: BTreeMap<BackendId, Instant>,
}

impl Looker {
    async fn run(mut self, mut states: watch::Receiver<Published>) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                _ = tick.tick() => self.look(),
            }
        }
    }

    fn look(&mut self) {
        let last = |id| self.watched.get(&id)?.last();
        let readings = match self.dataplane.readings(&last) {
            Ok(readings) => readings,
            Err(fault) => return tracing::warn!(code = %fault.code, message = fault.message, "no signals"),
        };
        let mut said = BTreeMap::new();
        self.watched.retain(|id, _| readings.contains_key(id));
        for (id, reading) in readings {
            if let Some(evidence) = self.watched.entry(id).or_default().read(reading) {
                self.now.probe(id);
                self.seen.insert(id, Instant::now());
                said.insert(id, evidence);
            }
        }
        self.seen.retain(|_, last| last.elapsed() < KEPT);
        self.publish(said);
    }

    fn publish(&self, said: BTreeMap<BackendId, String>) {
        self.suspects.send_if_modified(|suspects| {
            let goes = suspects.keys().any(|id| !self.seen.contains_key(id));
            let comes = said.keys().any(|id| !suspects.contains_key(id));
            if goes || comes {
                let suspects = Arc::make_mut(suspects);
                suspects.retain(|id, _| self.seen.contains_key(id));
                for (id, evidence) in said {
                    suspects.entry(id).or_insert_with(|| {
                        tracing::info!(backend = id.0, evidence, "suspect");
                        Suspect { evidence, since_ms: unix_ms() }
                    });
                }
            }
            goes || comes
        });
    }
}
