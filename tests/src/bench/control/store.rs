//! The log alone: an append beside a bare write of the same bytes, reading it back, and starting from a snapshot.
//!
//! Records are the commonest ones: one change of one backend's weight, a key, no reason. Everything lies on the file
//! system of the temporary directory.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lb_control::event::{Change, EVENT_VERSION, Event};
use lb_control::ledger::Ledger;
use lb_control::record::{IdempotencyKey, RECORD_VERSION, Record};
use lb_userspace::engine::fold;
use lb_userspace::journal::{EventStore, FileStore, offline};
use serde::Serialize;

use super::quantile;
use crate::bench::{Effort, median};
use crate::scratch::ScratchDir;

/// Events of the long log, and of the short one that a start from a snapshot is compared with.
const LONG: u64 = 1_000_000;
const SHORT: u64 = 10_000;
/// Records behind the snapshot.
const TAIL: u64 = 1_000;
/// Records in one append while a log is written: as many as 64 clients would share one.
const BATCH: u64 = 64;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct StoreReport {
    /// Median of a durable append over that of a bare write and fdatasync of the same bytes.
    pub append_ratio: f64,
    /// Median of a durable append, microseconds.
    pub append_us: f64,
    /// 99th percentile of a durable append, microseconds.
    pub append_p99_us: f64,
    /// Median of the bare write, microseconds.
    pub bare_us: f64,
    /// Events a second from the log to the state, every checksum verified.
    pub replay_eps: f64,
    /// Events a second of a whole verification: checksums, chain, and each record read.
    pub replay_chain_eps: f64,
    /// Time to start from a snapshot with [`LONG`] events, over that with [`SHORT`].
    pub snapshot_start_ratio: f64,
    /// Time to start from a snapshot with [`LONG`] events, milliseconds.
    pub snapshot_start_ms: f64,
    /// Bytes of a record.
    pub record_bytes: usize,
}

/// Measures it.
pub(super) fn run(effort: Effort) -> Result<StoreReport> {
    let mut report = StoreReport { record_bytes: record(1).to_bytes().len(), ..StoreReport::default() };
    appends(effort, &mut report)?;
    let long = ScratchDir::create()?;
    write(&long, LONG)?;
    replays(effort, &long, &mut report)?;
    let short = ScratchDir::create()?;
    write(&short, SHORT)?;
    let (mut long_ms, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..effort.table_rounds() {
        let (of_long, of_short) = (start_ms(&long, LONG)?, start_ms(&short, SHORT)?);
        ratios.push(of_long / of_short);
        long_ms.push(of_long);
    }
    report.snapshot_start_ratio = median(&mut ratios);
    report.snapshot_start_ms = median(&mut long_ms);
    Ok(report)
}

/// The record of a revision.
fn record(revision: u64) -> Arc<Record> {
    let (vip, backend) = (format!("v{}", revision % 1_000), format!("b{}", revision % 10));
    let change = Change::BackendWeightChanged { vip, backend, weight: (revision % 100) as u16 };
    let at_ms = 1_767_225_600_000 + revision;
    let id = format!("019b76da-a800-7000-8000-{revision:012x}");
    Arc::new(Record {
        v: RECORD_VERSION,
        revision,
        at_ms,
        actor: "root".to_owned(),
        command: "backend_set".to_owned(),
        correlation_id: id.clone(),
        command_id: id.clone(),
        causation_id: None,
        key: Some(IdempotencyKey { key: id, content: format!("{revision:016x}") }),
        reason: None,
        events: vec![Event { v: EVENT_VERSION, at_ms, change }],
    })
}

/// Appends and bare writes in turns, on the same file system.
fn appends(effort: Effort, report: &mut StoreReport) -> Result<()> {
    let scratch = ScratchDir::create()?;
    let mut store = FileStore::open(scratch.path()).context("make a log")?.store;
    let mut bare = File::create(scratch.path().join("bare")).context("make a file")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for revision in 1..=u64::from(effort.control_requests()) {
        let record = record(revision);
        let bytes = record.to_bytes();
        let begin = Instant::now();
        store.append(revision - 1, std::slice::from_ref(&record)).context("append")?;
        ours.push(begin.elapsed().as_secs_f64() * 1e6);
        let begin = Instant::now();
        bare.write_all(&bytes).and_then(|()| bare.sync_data()).context("write")?;
        theirs.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    report.append_us = quantile(&mut ours, 0.5);
    report.append_p99_us = quantile(&mut ours, 0.99);
    report.bare_us = quantile(&mut theirs, 0.5);
    report.append_ratio = report.append_us / report.bare_us;
    Ok(())
}

/// Writes a log of so many events, with a snapshot [`TAIL`] records before its end.
fn write(scratch: &ScratchDir, events: u64) -> Result<()> {
    let mut store = FileStore::open(scratch.path()).context("make a log")?.store;
    let mut ledger = Ledger::default();
    let mut revision = 0;
    while revision < events {
        let target = if revision < events - TAIL { events - TAIL } else { events };
        let until = target.min(revision + BATCH);
        let records: Vec<_> = (revision + 1..=until).map(record).collect();
        let head = store.append(revision, &records).context("append")?;
        records.iter().for_each(|record| ledger.apply(record));
        revision = until;
        if revision == events - TAIL {
            store.save_snapshot(head, &ledger.to_snapshot()).context("save a snapshot")?;
        }
    }
    Ok(())
}

fn replays(effort: Effort, long: &ScratchDir, report: &mut StoreReport) -> Result<()> {
    let (mut plain, mut chained) = (Vec::new(), Vec::new());
    for _ in 0..effort.replay_rounds() {
        let begin = Instant::now();
        let store = FileStore::open(long.path()).context("open a log")?.store;
        let ledger = fold::all(&*store.reader()).context("replay")?;
        ensure!(ledger.state.revision == LONG, "the log ends at {}", ledger.state.revision);
        plain.push(LONG as f64 / begin.elapsed().as_secs_f64());
        drop(store);
        let begin = Instant::now();
        let verified = offline::verify(long.path(), None).context("verify")?;
        ensure!(verified.records == LONG, "{} records were verified", verified.records);
        chained.push(LONG as f64 / begin.elapsed().as_secs_f64());
    }
    report.replay_eps = median(&mut plain);
    report.replay_chain_eps = median(&mut chained);
    Ok(())
}

/// From nothing to the state, by the snapshot and what follows it.
fn start_ms(scratch: &ScratchDir, events: u64) -> Result<f64> {
    let begin = Instant::now();
    let store = FileStore::open(scratch.path()).context("open a log")?.store;
    let folded = fold::latest(&*store.reader()).context("read a log")?;
    let (revision, replayed) = (folded.ledger.state.revision, folded.replayed);
    ensure!(revision == events && replayed == TAIL, "{replayed} records were read up to {revision}");
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
