//! The read side at work: one thread follows the log, folds every record into each projection and publishes them as one
//! [`Model`], which any number of readers load without waiting.
//!
//! Readers meet neither the writer nor each other. What they ask of the log they ask of its readers' side. Not here:
//! what a projection holds (`lb_control::projection`), and how answers look (`api::queries`).
//!
//! Invariants:
//! - a model is of one revision, but for a projection that is being replaced by its rebuild, which is the same;
//! - one who falls behind the log, or was told nothing, reads on from the log where it was: nothing is left out;
//! - a question waits for nothing but the records that were durable when it was asked, and for those only a moment.

mod follow;
pub mod moment;
mod past;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use lb_control::projection::Projection;
use lb_control::projection::audit::Audit;
use lb_control::projection::health::Health;
use lb_control::projection::inventory::Inventory;
use lb_control::projection::tenant_usage::TenantUsage;
use lb_control::projection::timeline::Timeline;
use lb_control::record::Record;
use tokio::sync::watch;

use crate::clock::unix_ms;
use crate::journal::observation::ObservationJournal;
use crate::journal::{LogReader, StoreError};
use past::Past;

/// Names of the projections.
pub const NAMES: [&str; 4] = [Inventory::NAME, TenantUsage::NAME, Audit::NAME, Timeline::NAME];
/// Records that are read from the log at once.
const BATCH: usize = 1_024;
/// How long a question waits for what was durable when it was asked; then it is answered from what there is.
const FRESH: Duration = Duration::from_millis(100);

/// All projections, of one revision.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What there is.
    pub inventory: Inventory,
    /// What each tenant has.
    pub usage: TenantUsage,
    /// Who set what.
    pub audit: Audit,
    /// Where in the log something is found.
    pub timeline: Timeline,
}

impl Model {
    /// The revision that all of them have come to.
    pub fn revision(&self) -> u64 {
        let own = self.revisions().map(|(_, revision)| revision);
        own.into_iter().min().unwrap_or(0)
    }

    /// The revision of each, by name.
    pub fn revisions(&self) -> [(&'static str, u64); NAMES.len()] {
        [
            (Inventory::NAME, self.inventory.revision()),
            (TenantUsage::NAME, self.usage.revision()),
            (Audit::NAME, self.audit.revision()),
            (Timeline::NAME, self.timeline.revision()),
        ]
    }

    fn apply(&mut self, record: &Record) {
        next(&mut self.inventory, record);
        next(&mut self.usage, record);
        next(&mut self.audit, record);
        next(&mut self.timeline, record);
    }
}

/// Takes a record in, if it is the next one.
fn next<P: Projection>(projection: &mut P, record: &Record) {
    if projection.revision() == record.revision_before() {
        projection.apply(record);
    }
}

/// What a question is answered from.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The projections.
    pub model: Arc<Model>,
    /// When they were all that was durable, milliseconds since the Unix epoch.
    pub as_of_ms: u64,
    /// How long what they lack has been durable, milliseconds; 0: they lack nothing.
    pub lag_ms: u64,
}

/// A revision was not reached in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Where the projections are.
    pub revision: u64,
}

/// What a rebuild did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The projection.
    pub name: &'static str,
    /// Records that it was built from.
    pub records: u64,
    /// How long it took; the old one answered meanwhile.
    pub took: Duration,
    /// The revision that it has come to.
    pub revision: u64,
    /// Whether it is what the old one was.
    pub same: bool,
}

/// How the projections get on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// From a decision until it was published here, the last one, milliseconds: durability is in it.
    pub last_lag_ms: u64,
    /// The longest of those since the start that were heard of live.
    pub longest_lag_ms: u64,
    /// Records taken in since the start.
    pub records: u64,
    /// How often the thread had to read on from the log, the first time included.
    pub resyncs: u64,
    /// Why the log cannot be read, if so.
    pub fault: Option<String>,
}

/// The projections of a node; clones share them.
#[derive(Clone)]
pub struct Projections {
    shared: Arc<Shared>,
    log: Arc<dyn LogReader>,
}

struct Shared {
    published: ArcSwap<Model>,
    /// What was observed: it has no revision, and changes without the model.
    health: ArcSwap<Health>,
    /// The published revision, for those who wait.
    revision: watch::Sender<u64>,
    /// The model that grows; held while records are taken in.
    model: Mutex<Model>,
    past: Mutex<Past>,
    progress: Mutex<Progress>,
}

/// A value that is whole whatever happened to a thread that held it.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to follow a log, and what the node observes if that is kept, until the log's store is gone.
pub fn start(log: Arc<dyn LogReader>, observations: Option<ObservationJournal>) -> Projections {
    let shared = Arc::new(Shared {
        published: ArcSwap::default(),
        health: ArcSwap::default(),
        revision: watch::Sender::new(0),
        model: Mutex::default(),
        past: Mutex::default(),
        progress: Mutex::default(),
    });
    follow::start(shared.clone(), &log, observations);
    Projections { shared, log }
}

impl Projections {
    /// What is published now, however old.
    pub fn model(&self) -> Arc<Model> {
        self.shared.published.load_full()
    }

    /// What was observed, as published now.
    pub fn health(&self) -> Arc<Health> {
        self.shared.health.load_full()
    }

    /// How the following gets on.
    pub fn progress(&self) -> Progress {
        held(&self.shared.progress).clone()
    }

    /// What answers a question: with everything in it that was durable when it was asked, if that takes no longer than
    /// a moment; and how far it is behind.
    pub async fn read(&self) -> Reading {
        let _ = self.wait(self.log.latest().revision, FRESH).await;
        self.reading()
    }

    /// The same, when a revision has been reached.
    ///
    /// # Errors
    /// It was not, in that time.
    pub async fn read_from(&self, min_revision: u64, patience: Duration) -> Result<Reading, Behind> {
        let reached = self.wait(min_revision, patience).await;
        let reading = self.reading();
        if reached { Ok(reading) } else { Err(Behind { revision: reading.model.revision() }) }
    }

    async fn wait(&self, revision: u64, patience: Duration) -> bool {
        if *self.shared.revision.borrow() >= revision {
            return true;
        }
        let mut follow = self.shared.revision.subscribe();
        let reached = follow.wait_for(|now| *now >= revision);
        matches!(tokio::time::timeout(patience, reached).await, Ok(Ok(_)))
    }

    fn reading(&self) -> Reading {
        let (model, now_ms) = (self.model(), unix_ms());
        let lag_ms = self.lag_ms(model.revision(), now_ms);
        Reading { model, as_of_ms: now_ms.saturating_sub(lag_ms), lag_ms }
    }

    /// How long there have been records after a revision, milliseconds; at least 1 if there are any.
    pub fn lag_ms(&self, revision: u64, now_ms: u64) -> u64 {
        if revision >= self.log.latest().revision {
            return 0;
        }
        let waiting = self.log.read(revision, 1).ok().and_then(|records| records.first().cloned());
        waiting.map_or(0, |record| now_ms.saturating_sub(record.at_ms).max(1))
    }

    /// What there was after the record that ends at a revision (or is the last before it). Takes the time of reading
    /// at most as many records as lie between two kept inventories.
    ///
    /// # Errors
    /// The log cannot be read there.
    pub fn inventory_at(&self, revision: u64) -> Result<Inventory, StoreError> {
        let now = self.model();
        if now.inventory.revision() <= revision {
            return Ok(now.inventory.clone());
        }
        let mut inventory = held(&self.shared.past).before(revision);
        self.advance(&mut inventory, revision)?;
        Ok(inventory)
    }

    /// Takes an inventory of the past on to a later revision, record by record.
    ///
    /// # Errors
    /// The log cannot be read there.
    pub fn advance(&self, inventory: &mut Inventory, revision: u64) -> Result<(), StoreError> {
        while inventory.revision() < revision {
            let records = self.log.read(inventory.revision(), BATCH)?;
            let wanted = records.iter().take_while(|record| record.revision <= revision);
            let before = inventory.revision();
            wanted.for_each(|record| next(inventory, record));
            if inventory.revision() == before {
                break;
            }
        }
        Ok(())
    }

    /// Builds a projection (or, without a name, each) anew from the whole log, while the old one goes on answering; then
    /// takes its place.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn rebuild(&self, name: Option<&str>) -> Result<Vec<Rebuilt>, StoreError> {
        let wanted = |own: &str| name.is_none_or(|name| name == own);
        let mut rebuilt = Vec::new();
        if wanted(Inventory::NAME) {
            rebuilt.push(self.rebuild_one(|model| &mut model.inventory)?);
        }
        if wanted(TenantUsage::NAME) {
            rebuilt.push(self.rebuild_one(|model| &mut model.usage)?);
        }
        if wanted(Audit::NAME) {
            rebuilt.push(self.rebuild_one(|model| &mut model.audit)?);
        }
        if wanted(Timeline::NAME) {
            rebuilt.push(self.rebuild_one(|model| &mut model.timeline)?);
        }
        Ok(rebuilt)
    }

    fn rebuild_one<P: Projection + PartialEq>(
        &self,
        part: impl Fn(&mut Model) -> &mut P,
    ) -> Result<Rebuilt, StoreError> {
        let (begin, mut fresh, mut records) = (Instant::now(), P::default(), 0);
        let mut on = |fresh: &mut P, until: u64| -> Result<(), StoreError> {
            while fresh.revision() < until {
                let batch = self.log.read(fresh.revision(), BATCH)?;
                let (before, due) = (fresh.revision(), batch.iter().take_while(|one| one.revision <= until));
                due.for_each(|record| {
                    next(fresh, record);
                    records += 1;
                });
                if fresh.revision() == before {
                    break;
                }
            }
            Ok(())
        };
        on(&mut fresh, self.log.latest().revision)?;
        // The little that came meanwhile, with the others standing still.
        let mut model = held(&self.shared.model);
        let until = part(&mut model).revision();
        on(&mut fresh, until)?;
        // What it read beyond that is folded again with the others.
        if fresh.revision() > until {
            fresh = P::default();
            on(&mut fresh, until)?;
        }
        let same = *part(&mut model) == fresh;
        let revision = fresh.revision();
        *part(&mut model) = fresh;
        self.shared.publish(&model);
        Ok(Rebuilt { name: P::NAME, records, took: begin.elapsed(), revision, same })
    }
}

impl Shared {
    /// Shows the model to readers.
    fn publish(&self, model: &Model) {
        self.published.store(Arc::new(model.clone()));
        self.revision.send_replace(model.revision());
    }
}

#[cfg(test)]
mod tests;
