//! Engines that could keep the records: the same records by revision, each append durable, each read back in order.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::journal::{EventStore, FileStore, read_all};
use crate::{GROUP, Size, filled, percentiles, record, timed};

/// An engine under comparison.
trait Engine {
    /// Appends records, durably when this returns.
    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<()>;
    /// Reads all of them in order and says how many.
    fn replay(&self) -> Result<u64>;
}

/// Table of records in redb.
const RECORDS: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("records");

struct Redb(redb::Database);

impl Engine for Redb {
    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<()> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (revision, bytes) in records {
                table.insert(revision, bytes.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn replay(&self) -> Result<u64> {
        use redb::{ReadableDatabase, ReadableTable};
        let table = self.0.begin_read()?.open_table(RECORDS)?;
        let mut read = 0;
        for entry in table.iter()? {
            read += u64::from(!entry?.1.value().is_empty());
        }
        Ok(read)
    }
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Engine for Fjall {
    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<()> {
        let mut batch = self.0.batch();
        for (revision, bytes) in records {
            batch.insert(&self.1, revision.to_be_bytes(), bytes.as_slice());
        }
        batch.commit()?;
        Ok(self.0.persist(fjall::PersistMode::SyncData)?)
    }

    fn replay(&self) -> Result<u64> {
        let mut read = 0;
        for entry in self.1.iter() {
            read += u64::from(!entry.value()?.is_empty());
        }
        Ok(read)
    }
}

#[cfg(feature = "sqlite")]
struct Sqlite(rusqlite::Connection);

#[cfg(feature = "sqlite")]
impl Engine for Sqlite {
    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO records VALUES (?1, ?2)")?;
            for (revision, bytes) in records {
                insert.execute((*revision as i64, bytes))?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn replay(&self) -> Result<u64> {
        let mut select = self.0.prepare("SELECT body FROM records ORDER BY revision")?;
        let mut rows = select.query([])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            read += u64::from(!row.get_ref(0)?.as_blob()?.is_empty());
        }
        Ok(read)
    }
}

#[cfg(feature = "sqlite")]
fn sqlite(path: &Path) -> Result<Sqlite> {
    let connection = rusqlite::Connection::open(path.join("records.sqlite"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("CREATE TABLE records (revision INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
    Ok(Sqlite(connection))
}

fn bytes_of(from: u64, to: u64) -> Vec<(u64, Vec<u8>)> {
    (from..to).map(|revision| (revision, record(revision).to_bytes())).collect()
}

/// The log behind the same door; its replay checks checksums and reads the records as the daemon does.
struct Log(FileStore);

impl Engine for Log {
    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<()> {
        let Some((first, _)) = records.first() else { return Ok(()) };
        let group: Vec<_> = records.iter().map(|(revision, _)| record(*revision)).collect();
        self.0.append(*first, &group)?;
        Ok(())
    }

    fn replay(&self) -> Result<u64> {
        Ok(read_all(&*self.0.reader(), 0)?.len() as u64)
    }
}

fn measured(
    name: &str,
    size: &Size,
    open: impl Fn(&Path) -> Result<Box<dyn Engine>>,
) -> Result<serde_json::Value> {
    let directory = tempfile::tempdir_in(".")?;
    let mut engine = open(directory.path())?;
    let mut times = Vec::new();
    for revision in 0..size.appends {
        let one = bytes_of(revision, revision + 1);
        timed(&mut times, || engine.append(&one))?;
    }
    for from in (size.appends..size.replayed).step_by(GROUP as usize) {
        engine.append(&bytes_of(from, (from + GROUP).min(size.replayed)))?;
    }
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        ensure!(engine.replay()? == size.replayed, "{name} lost records");
        best = best.min(began.elapsed());
    }
    let (p50, p99) = percentiles(times);
    let disk_mib = disk_bytes(directory.path())? as f64 / f64::from(1 << 20);
    Ok(serde_json::json!({
        "engine": name, "append_p50_us": p50, "append_p99_us": p99,
        "replay_ms": best.as_secs_f64() * 1e3, "disk_mib": disk_mib,
    }))
}

fn disk_bytes(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { disk_bytes(&entry.path())? } else { found.blocks() * 512 };
    }
    Ok(bytes)
}

/// Every engine over the same records.
pub(crate) fn compare(size: &Size) -> Result<Vec<serde_json::Value>> {
    Ok(vec![
        measured("log", size, |path| Ok(Box::new(Log(filled(path, 0)?))))?,
        measured("redb", size, |path| {
            Ok(Box::new(Redb(redb::Database::create(path.join("records.redb"))?)))
        })?,
        measured("fjall", size, |path| {
            let database = fjall::Database::builder(path.join("fjall")).open()?;
            let records = database.keyspace("records", fjall::KeyspaceCreateOptions::default)?;
            Ok(Box::new(Fjall(database, records)))
        })?,
        #[cfg(feature = "sqlite")]
        measured("sqlite", size, |path| Ok(Box::new(sqlite(path)?)))?,
    ])
}
