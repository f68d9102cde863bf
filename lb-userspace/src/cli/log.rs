//! `lb log`: the log of a state directory itself: where it ends, whether it is whole, what is in it. Needs no daemon, and
//! does not disturb one; only `repair` needs that none runs.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use tokio::sync::mpsc;

use super::number::whole;
use super::object::when;
use super::text::{count, several};
use super::{Done, Session};
use crate::api::SCHEMA;
use crate::journal::Head;
use crate::journal::offline::{self, OfflineError};
use crate::problem::{Code, Problem};
use crate::projection::moment::rfc3339;

/// Bytes of an export that are printed at a time.
const PIECE: usize = 64 * 1024;
/// Pieces that may wait to be printed: however long the log, no more of it is in memory.
const PIECES: usize = 4;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the log.
    #[arg(long, global = true, value_name = "PATH", default_value = "/var/lib/lb")]
    state_dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print where it ends, as REVISION:HASH. Keep it elsewhere: it is what a rewritten log cannot lead to.
    Head,
    /// Check every record and the chain of all of them.
    Verify {
        /// A head that was kept: check that the log leads to it.
        #[arg(long, value_name = "REV:HASH")]
        head: Option<String>,
    },
    /// Print its records, a JSON object a line.
    Export {
        /// Only those after this revision, which must be a record's end.
        #[arg(long, value_name = "REV", default_value_t = 0, allow_negative_numbers = true, value_parser = whole::<u64>("from 0 on"))]
        after: u64,
    },
    /// Show its size and span.
    Stats,
    /// Cut it at a revision, for a log that no daemon starts from; a copy is kept. What came after it is lost.
    Repair {
        /// The end of the last record to keep.
        #[arg(long, value_name = "REV", allow_negative_numbers = true, value_parser = whole::<u64>("from 0 on"))]
        truncate_at: u64,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let dir = args.state_dir;
    if !dir.is_dir() {
        let text = format!("{} is no directory", dir.display());
        return Err(Problem::new(Code::StateDir, text).with_help("Name the daemon's with --state-dir."));
    }
    match args.verb {
        Verb::Head => head(session, &dir).await,
        Verb::Verify { head } => verify(session, &dir, head).await,
        Verb::Export { after } => export(session, &dir, after).await,
        Verb::Stats => stats(session, &dir).await,
        Verb::Repair { truncate_at, yes } => repair(session, &dir, truncate_at, yes).await,
    }
}

/// Runs what reads a disk off the runtime.
async fn reading<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&Path) -> Result<T, OfflineError> + Send + 'static,
) -> Result<T, Problem> {
    let owned = dir.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&owned)).await;
    done.map_err(|error| Problem::bug(error.to_string()))?.map_err(|error| problem(&error, dir))
}

fn problem(error: &OfflineError, dir: &Path) -> Problem {
    let code = match error {
        OfflineError::Store(error) => error.code(),
        OfflineError::OtherHead { .. } => Code::JournalDamaged,
        OfflineError::Held(_) => Code::StateHeld,
        OfflineError::Output(_) => Code::StateDir,
        OfflineError::NoRecordEnd { .. } => Code::Usage,
    };
    let problem = Problem::new(code, error.to_string()).at(dir.display().to_string());
    match error {
        OfflineError::OtherHead { .. } => {
            problem.with_help("The log was cut or rewritten after that head was taken; compare with a copy.")
        }
        OfflineError::NoRecordEnd { before, .. } => {
            problem.with_help(format!("Take --truncate-at {before}."))
        }
        _ => problem,
    }
}

async fn head(session: &mut Session<'_>, dir: &Path) -> Done {
    let head = reading(dir, offline::head).await?;
    if session.out.json {
        let text = head.to_string();
        session.out.value(&json!({ "schema": SCHEMA, "revision": head.revision, "head": text }))?;
    } else {
        session.out.line(&head.to_string());
    }
    Ok(None)
}

async fn verify(session: &mut Session<'_>, dir: &Path, head: Option<String>) -> Done {
    let expected: Option<Head> = head
        .map(|text| text.parse::<Head>().map_err(|error| Problem::new(Code::Usage, error)))
        .transpose()?;
    let expected = expected.map(|head| (head.revision, head.hash));
    let found = reading(dir, move |dir| offline::verify(dir, expected)).await?;
    if session.out.json {
        session.out.value(&json!({
            "schema": SCHEMA, "head": found.head.to_string(), "revision": found.head.revision,
            "first": found.first, "records": found.records, "segments": found.segments,
            "unfinished_bytes": found.unfinished_bytes, "expected_found": found.expected_found,
        }))?;
        return Ok(None);
    }
    session.out.line(&format!(
        "whole: {} records in {}, revisions {} to {}, every checksum and every link of the chain",
        count(found.records),
        several(found.segments, "segment"),
        count(found.first),
        count(found.head.revision)
    ));
    session.out.line(&format!("head {}", found.head));
    if found.expected_found {
        session.out.line("it leads to the head that was kept");
    }
    if found.unfinished_bytes > 0 {
        session.out.warn(&format!(
            "{} bytes of an unfinished record at its end: an append under way, or what a crash left",
            count(found.unfinished_bytes)
        ));
    }
    Ok(None)
}

async fn export(session: &mut Session<'_>, dir: &Path, after: u64) -> Done {
    let (pieces, mut ready) = mpsc::channel(PIECES);
    let exported = reading(dir, move |dir| {
        let mut output = BufWriter::with_capacity(PIECE, Pieces(pieces));
        let count = offline::export(dir, after, &mut output)?;
        output.flush()?;
        Ok(count)
    });
    let printed = async {
        while let Some(piece) = ready.recv().await {
            session.out.bytes(&piece);
        }
    };
    let (records, ()) = tokio::join!(exported, printed);
    session.out.say(&format!("{} records", count(records?)));
    Ok(None)
}

/// Hands on what is written, in pieces, and waits while [`PIECES`] of them are not printed.
struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn stats(session: &mut Session<'_>, dir: &Path) -> Done {
    let stats = reading(dir, offline::stats).await?;
    let span = stats.span_ms.map(|(first, last)| (rfc3339(first), rfc3339(last)));
    if session.out.json {
        session.out.value(&json!({
            "schema": SCHEMA, "head": stats.head.to_string(), "revision": stats.head.revision,
            "first": stats.first, "records": stats.records, "segments": stats.segments,
            "archived_segments": stats.archived, "bytes": stats.bytes, "disk_bytes": stats.disk_bytes,
            "snapshots": stats.snapshots, "first_at": span.as_ref().map(|span| &span.0),
            "last_at": span.as_ref().map(|span| &span.1),
        }))?;
        return Ok(None);
    }
    let mut line = |name: &str, value: String| session.out.line(&format!("  {name:<10} {value}"));
    line("head", stats.head.to_string());
    line("records", format!("{}, after revision {}", count(stats.records), count(stats.first)));
    line("segments", format!("{}, {} more in the archive", stats.segments, stats.archived));
    line("bytes", format!("{}, {} on the disk", count(stats.bytes), count(stats.disk_bytes)));
    let at: Vec<String> = stats.snapshots.iter().map(|revision| count(*revision)).collect();
    line("snapshots", if at.is_empty() { "none".to_owned() } else { format!("at {}", at.join(", ")) });
    if let Some((first, last)) = span {
        line("time", format!("{} to {} UTC", when(&first), when(&last)));
    }
    Ok(None)
}

async fn repair(session: &mut Session<'_>, dir: &Path, at: u64, yes: bool) -> Done {
    if !yes {
        session.out.say(&format!(
            "This ends the log in {} at revision {at}. What came after it is lost, also what was acknowledged.",
            dir.display()
        ));
        session.out.say("Type the revision again to do it:");
        let typed = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        let typed = typed.await.map_err(|error| Problem::bug(error.to_string()))?.unwrap_or_default();
        if typed.trim() != at.to_string() {
            return Err(Problem::new(Code::Usage, "it was not confirmed; nothing was changed")
                .with_help("Type the revision, or say --yes."));
        }
    }
    let repaired = reading(dir, move |dir| offline::repair(dir, at)).await?;
    if session.out.json {
        session.out.value(&json!({
            "schema": SCHEMA, "head": repaired.head.to_string(), "revision": repaired.head.revision,
            "cut_bytes": repaired.cut_bytes, "kept": repaired.kept,
        }))?;
        return Ok(None);
    }
    session.out.line(&format!("cut {} bytes; the log ends at {}", count(repaired.cut_bytes), repaired.head));
    session.out.line(&format!("as it was: {}", repaired.kept.display()));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_waits_for_its_reader() {
        let (pieces, mut ready) = mpsc::channel(PIECES);
        let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let so_far = written.clone();
        let line = [b'x'; 1_000];
        let writing = std::thread::spawn(move || {
            let mut output = BufWriter::with_capacity(PIECE, Pieces(pieces));
            for _ in 0..2_000 {
                output.write_all(&line).unwrap();
                so_far.fetch_add(line.len(), std::sync::atomic::Ordering::SeqCst);
            }
            output.flush().unwrap();
        });
        let mut read = 0;
        while let Some(piece) = ready.blocking_recv() {
            read += piece.len();
            let ahead = written.load(std::sync::atomic::Ordering::SeqCst).saturating_sub(read);
            assert!(piece.len() <= PIECE && ahead <= (PIECES + 2) * PIECE, "{ahead} bytes ahead");
        }
        writing.join().unwrap();
        assert_eq!(read, 2_000 * line.len());
    }
}
