//! Records out of bytes, many at once: parsing is what reading a long log costs, so several threads share it.
//!
//! It knows neither files nor revisions; the order is that in which the bytes came.

use std::num::NonZero;

use lb_control::record::RecordError;

/// How one record's bytes are read.
pub(super) type Parse<T> = fn(&[u8]) -> Result<T, RecordError>;

/// Records below this number are not worth a thread: starting one takes as long as a few dozen of them.
const WORTH_A_THREAD: usize = 512;
/// Threads at most: more would wait for the one that reads.
const THREADS_MAX: usize = 4;

/// Bytes of records, gathered to be parsed.
#[derive(Debug, Default)]
pub(super) struct Page {
    bytes: Vec<u8>,
    /// Where each record ends in `bytes`.
    ends: Vec<usize>,
}

impl Page {
    /// Records so far.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds one.
    pub(super) fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    /// All of them, in their order; each by itself may be malformed.
    pub(super) fn parse<T: Send>(&self, parse: Parse<T>) -> Vec<Result<T, RecordError>> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        let share = self.len().div_ceil(threads).max(WORTH_A_THREAD);
        let parts: Vec<_> =
            (0..self.len()).step_by(share).map(|from| from..self.len().min(from + share)).collect();
        let Some((first, others)) = parts.split_first() else { return Vec::new() };
        std::thread::scope(|scope| {
            let running: Vec<_> =
                others.iter().map(|part| scope.spawn(move || self.parse_part(part.clone(), parse))).collect();
            let mut parsed = self.parse_part(first.clone(), parse);
            for (thread, part) in running.into_iter().zip(others) {
                // A parser that panicked is asked again here, where the panic belongs to whoever reads.
                parsed.extend(thread.join().unwrap_or_else(|_| self.parse_part(part.clone(), parse)));
            }
            parsed
        })
    }

    fn parse_part<T>(&self, part: std::ops::Range<usize>, parse: Parse<T>) -> Vec<Result<T, RecordError>> {
        let start = |index: usize| index.checked_sub(1).map_or(0, |before| self.ends[before]);
        part.map(|index| parse(&self.bytes[start(index)..self.ends[index]])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::record::Record;

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
            let revisions: Vec<_> =
                page.parse(Record::parse).into_iter().map(|one| one.ok().map(|one| one.revision)).collect();
            let due: Vec<_> =
                (1..=count as u64).map(|revision| (revision != 7).then_some(revision)).collect();
            assert_eq!(revisions, due);
        }
    }
}
