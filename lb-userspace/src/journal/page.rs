//! Records as bytes, many at once: what a reader of a long log gathers before it parses.
//!
//! It knows neither files nor revisions; the order is that in which the bytes came. Parsing is what reading costs, so
//! several threads share it.

use std::num::NonZero;
use std::sync::Arc;

use lb_control::record::{Record, RecordError};

/// Records below this number are not worth a thread: starting one takes as long as a few dozen of them.
const WORTH_A_THREAD: usize = 512;
/// Threads at most: more would wait for the one that reads.
const THREADS_MAX: usize = 4;

/// How many threads parse at a time.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX)
}

/// Bytes of records, gathered to be parsed.
#[derive(Debug, Default)]
pub struct Page {
    bytes: Vec<u8>,
    /// Where each record ends in `bytes`.
    ends: Vec<usize>,
}

impl Page {
    /// Records so far.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds one.
    pub fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    /// Takes all out; their room stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// All of them, in their order.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|index| self.record(index))
    }

    /// What they take, bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    fn record(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }

    /// Those before a number, in their order; each by itself may be malformed.
    pub(super) fn parse(&self, until: usize) -> Vec<Result<Arc<Record>, RecordError>> {
        let count = self.len().min(until);
        let share = count.div_ceil(threads()).max(WORTH_A_THREAD);
        let parts: Vec<_> = (0..count).step_by(share).map(|from| from..count.min(from + share)).collect();
        let Some((first, others)) = parts.split_first() else { return Vec::new() };
        std::thread::scope(|scope| {
            let running: Vec<_> =
                others.iter().map(|part| scope.spawn(move || self.parse_part(part.clone()))).collect();
            let mut parsed = self.parse_part(first.clone());
            for (thread, part) in running.into_iter().zip(others) {
                // A parser that panicked is asked again here, where the panic belongs to whoever reads.
                parsed.extend(thread.join().unwrap_or_else(|_| self.parse_part(part.clone())));
            }
            parsed
        })
    }

    fn parse_part(&self, part: std::ops::Range<usize>) -> Vec<Result<Arc<Record>, RecordError>> {
        part.map(|index| Record::parse(self.record(index)).map(Arc::new)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_their_order_however_many_threads_read_them() {
        for count in [0, 1, WORTH_A_THREAD, 5 * WORTH_A_THREAD + 1] {
            let mut page = Page::default();
            for revision in 1..=count {
                let text = format!(
                    r#"{{"v":1,"revision":{revision},"at_ms":0,"actor":"a","command":"c","command_id":"i","correlation_id":"i","events":[]}}"#
                );
                page.push(if revision == 7 { b"damaged" } else { text.as_bytes() });
            }
            for until in [0, 9, count] {
                let revisions: Vec<_> =
                    page.parse(until).into_iter().map(|one| one.ok().map(|one| one.revision)).collect();
                let due: Vec<_> = (1..=count.min(until) as u64)
                    .map(|revision| (revision != 7).then_some(revision))
                    .collect();
                assert_eq!(revisions, due);
            }
            assert_eq!(page.records().count(), count);
            page.clear();
            assert!(page.is_empty() && page.size() == 0 && page.records().next().is_none());
        }
    }
}
