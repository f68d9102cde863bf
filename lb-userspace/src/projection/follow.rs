//! The thread that follows the log: what it hears of live it takes in at once; what it missed it reads.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lb_control::projection::Projection;
use lb_control::projection::health::Health;
use lb_control::record::Record;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{BATCH, Shared, held};
use crate::clock::unix_ms;
use crate::journal::LogReader;
use crate::journal::observation::ObservationJournal;
use crate::vital;

/// Without news for so long, it looks whether it missed some; also the pause after a log that could not be read.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the thread. It does not keep the log open: it ends when all others have let go of it.
pub(super) fn start(shared: Arc<Shared>, log: &Arc<dyn LogReader>, observations: Option<ObservationJournal>) {
    // Before the first look, so that nothing falls between the two.
    let live = log.subscribe();
    let follower = Follower { shared: shared.clone(), log: Arc::downgrade(log) };
    vital::spawn("projections", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let both = async {
            tokio::select! {
                () = follower.run(live) => {}
                () = observe(&shared, observations) => {}
            }
        };
        runtime.expect("a daemon that starts can have a timer").block_on(both);
    });
}

/// Follows what the node observes. It has no end of its own.
async fn observe(shared: &Shared, observations: Option<ObservationJournal>) {
    let Some(journal) = observations else { return std::future::pending().await };
    let mut live = journal.subscribe();
    loop {
        let mut health = Health::default();
        match journal.read(0, usize::MAX) {
            Ok(kept) => kept.iter().for_each(|one| health.observe(one)),
            // What is to come can still be heard of.
            Err(error) => tracing::warn!(%error, "cannot read what was observed before"),
        }
        loop {
            shared.health.store(Arc::new(health.clone()));
            match live.recv().await {
                Ok(observation) => health.observe(&observation),
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return std::future::pending().await,
            }
            while let Ok(observation) = live.try_recv() {
                health.observe(&observation);
            }
        }
    }
}

struct Follower {
    shared: Arc<Shared>,
    log: Weak<dyn LogReader>,
}

impl Follower {
    async fn run(self, mut live: Receiver<Arc<Record>>) {
        while let Some(log) = self.log.upgrade() {
            let read = self.catch_up(&*log);
            drop(log);
            match read {
                Ok(()) if self.listen(&mut live).await.is_err() => return,
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(%error, "the projections cannot read the log");
                    held(&self.shared.progress).fault = Some(error.to_string());
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Reads on from where the model is until the log has no more.
    fn catch_up(&self, log: &dyn LogReader) -> Result<(), crate::journal::StoreError> {
        held(&self.shared.progress).resyncs += 1;
        loop {
            let from = held(&self.shared.model).revision();
            let records = log.read(from, BATCH)?;
            if records.is_empty() || !self.take(&records, false) {
                held(&self.shared.progress).fault = None;
                return Ok(());
            }
        }
    }

    /// Takes in what is heard of, until something was missed. The error says that there will be no more.
    async fn listen(&self, live: &mut Receiver<Arc<Record>>) -> Result<(), ()> {
        loop {
            let heard = tokio::time::timeout(LOOK, live.recv()).await;
            let mut records = match heard {
                Ok(Ok(record)) => vec![record],
                Ok(Err(RecvError::Lagged(_))) => return Ok(()),
                Ok(Err(RecvError::Closed)) => return Err(()),
                Err(_) if self.is_behind() => return Ok(()),
                Err(_) => continue,
            };
            while records.len() < BATCH
                && let Ok(record) = live.try_recv()
            {
                records.push(record);
            }
            if !self.take(&records, true) {
                return Ok(());
            }
        }
    }

    fn is_behind(&self) -> bool {
        let latest = self.log.upgrade().map_or(0, |log| log.latest().revision);
        *self.shared.revision.borrow() < latest
    }

    /// Takes records in and publishes; false if one does not follow on what is there, because some are missing.
    fn take(&self, records: &[Arc<Record>], live: bool) -> bool {
        let mut model = held(&self.shared.model);
        let (before, mut taken, mut whole) = (model.revision(), 0, true);
        for record in records.iter().filter(|record| record.revision > before) {
            if record.revision_before() != model.inventory.revision() {
                whole = false;
                break;
            }
            model.apply(record);
            held(&self.shared.past).note(&model.inventory);
            taken += 1;
        }
        if taken > 0 {
            self.count(taken, records.last().filter(|_| live));
            self.shared.publish(&model);
        }
        // Nothing new from the log's own answer means that reading on would go round for ever.
        whole && (live || taken > 0)
    }

    fn count(&self, taken: u64, last: Option<&Arc<Record>>) {
        let mut progress = held(&self.shared.progress);
        progress.records += taken;
        if let Some(last) = last {
            progress.last_lag_ms = unix_ms().saturating_sub(last.at_ms);
            progress.longest_lag_ms = progress.longest_lag_ms.max(progress.last_lag_ms);
        }
    }
}
