//! The journal's log measured: against a bare write and sync, and against engines that could keep the records instead.
//!
//! `cargo run --release --manifest-path tests/stores/Cargo.toml [-- --quick]`; one JSON object at the end. Not part of the
//! build: the engines are compared, never used (`docs/adr/0008`). The log's source is taken in as it stands, so that the
//! comparison builds without the daemon.

#![allow(dead_code)]

mod engines;
#[path = "../../../lb-userspace/src/journal/mod.rs"]
mod journal;

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use journal::{EventStore, FileStore, LogReader, Verification, read_all};
use lb_control::event::{Change, EVENT_VERSION, Event};
use lb_control::ledger::Ledger;
use lb_control::record::Record;

/// How much is measured.
struct Size {
    /// Durable appends of one record.
    appends: u64,
    /// Records that are replayed.
    replayed: u64,
    /// Records of a long log, whose start is compared with that of a log of a hundredth.
    long: u64,
}

/// Records that are appended at once where a log is only filled.
const GROUP: u64 = 1_000;

/// A record of one event.
fn record(revision: u64) -> Arc<Record> {
    let change = Change::BackendWeightChanged {
        vip: "web".to_owned(),
        backend: format!("b{}", revision % 1_000),
        weight: (revision % 256) as u16,
    };
    let at_ms = 1_700_000_000_000 + revision;
    Arc::new(Record {
        v: 1,
        revision: revision + 1,
        at_ms,
        actor: "root".to_owned(),
        command: "set_weight".to_owned(),
        command_id: format!("{revision:032x}"),
        correlation_id: format!("{revision:032x}"),
        causation_id: None,
        key: None,
        reason: None,
        events: vec![Event { v: EVENT_VERSION, at_ms, change }],
    })
}

/// Times of calls, as median and 99th percentile, microseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

fn timed<T>(times: &mut Vec<Duration>, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let answer = call()?;
    times.push(began.elapsed());
    Ok(answer)
}

fn filled(directory: &Path, records: u64) -> Result<FileStore> {
    let mut store = FileStore::open(directory)?.store;
    let mut from = store.reader().latest().revision;
    while from < records {
        let group: Vec<_> = (from..(from + GROUP).min(records)).map(record).collect();
        from = store.append(from, &group)?.revision;
    }
    Ok(store)
}

/// Durable appends of one record, by turns with a bare write and sync of the same bytes: both meet the same disk.
fn appends(count: u64) -> Result<serde_json::Value> {
    let directory = tempfile::tempdir_in(".")?;
    let bare = File::create(directory.path().join("bare"))?;
    let mut store = FileStore::open(directory.path())?.store;
    let (mut end, mut log, mut plain) = (0, Vec::new(), Vec::new());
    for revision in 0..count {
        let one = record(revision);
        // The log's frame around the record, so that the bytes are as many.
        let bytes = [vec![1; 60], one.to_bytes()].concat();
        timed(&mut plain, || {
            bare.write_all_at(&bytes, end)?;
            Ok(bare.sync_data()?)
        })?;
        end += bytes.len() as u64;
        timed(&mut log, || Ok(store.append(revision, &[one])?))?;
    }
    let ((log50, log99), (bare50, bare99)) = (percentiles(log), percentiles(plain));
    Ok(serde_json::json!({
        "append_p50_us": log50, "append_p99_us": log99,
        "bare_p50_us": bare50, "bare_p99_us": bare99, "append_ratio": log50 / bare50,
    }))
}

fn replay(records: u64) -> Result<serde_json::Value> {
    let directory = tempfile::tempdir_in(".")?;
    let files = filled(directory.path(), records)?.files();
    let best = |mut pass: Box<dyn FnMut() -> Result<()> + '_>| -> Result<f64> {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            pass()?;
            best = best.min(began.elapsed());
        }
        Ok(records as f64 / best.as_secs_f64())
    };
    let sums = best(Box::new(|| {
        ensure!(files.check_sums()? == records);
        Ok(())
    }))?;
    let chain = best(Box::new(|| {
        let found = files.verify_older(|_| ControlFlow::Continue(()));
        ensure!(matches!(found, Verification::Whole { .. }), "{found:?}");
        Ok(())
    }))?;
    let parsed = best(Box::new(|| {
        ensure!(read_all(&*files, 0)?.len() as u64 == records);
        Ok(())
    }))?;
    let all = read_all(&*files, 0)?;
    let folded = best(Box::new(|| {
        let ledger = Ledger::replay(all.iter().map(|record| &**record));
        ensure!(ledger.state.revision == records);
        Ok(())
    }))?;
    Ok(serde_json::json!({
        "replay_eps": sums, "replay_chain_eps": chain, "read_and_parse_eps": parsed, "fold_eps": folded,
    }))
}

/// The start with a snapshot at the end of a log, microseconds: opened, snapshot read, rest read.
fn start_us(records: u64) -> Result<f64> {
    let directory = tempfile::tempdir_in(".")?;
    let mut store = filled(directory.path(), records)?;
    store.save_snapshot(store.reader().latest(), &vec![b'x'; 100_000])?;
    for revision in records..records + 10 {
        store.append(revision, &[record(revision)])?;
    }
    drop(store);
    let mut times = Vec::new();
    for _ in 0..21 {
        timed(&mut times, || {
            let reader = FileStore::open(directory.path())?.store.reader();
            let (revision, _) = reader.snapshot(u64::MAX).unwrap_or_default();
            ensure!(read_all(&*reader, revision)?.len() == 10);
            Ok(())
        })?;
    }
    Ok(percentiles(times).0)
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let size = match quick {
        true => Size { appends: 300, replayed: 20_000, long: 100_000 },
        false => Size { appends: 3_000, replayed: 100_000, long: 1_000_000 },
    };
    let (short, long) = (start_us(size.long / 100)?, start_us(size.long)?);
    let found = serde_json::json!({
        "record_bytes": record(1).to_bytes().len(),
        "append": appends(size.appends)?,
        "replay": replay(size.replayed)?,
        "start": {
            "records": [size.long / 100, size.long], "us": [short, long], "snapshot_start_ratio": long / short,
        },
        "engines": engines::compare(&size)?,
    });
    println!("{found:#}");
    Ok(())
}
