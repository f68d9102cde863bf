//! (d) The Maglev table: how long it takes to build, how even it is, how much moves when a backend leaves.

use std::time::Instant;

use lb_common::abi::flow::FlowBucket;
use lb_common::limits::{FLOW_WAYS, SLOTS_PER_VIP};
use lb_common::maglev::{Candidate, build, disruption};

use super::{Effort, median};

const WEIGHT: u16 = 100;

/// Keys and values.
pub fn run(effort: Effort) -> Vec<(&'static str, Option<f64>)> {
    let mut times: Vec<f64> = (0..effort.table_rounds()).map(|_| build_ms(1_000)).collect();
    vec![
        ("maglev_build_1000_ms", Some(median(&mut times))),
        ("evenness", Some(evenness(1_000))),
        ("maglev_disruption_10", Some(moved(10))),
        ("maglev_disruption_1000", Some(moved(1_000))),
        ("flow_bytes", Some((size_of::<FlowBucket>() / FLOW_WAYS) as f64)),
    ]
}

fn pool(backends: u16) -> Vec<Candidate> {
    let named = |row: u16| {
        let [high, low] = row.to_be_bytes();
        Candidate::new(&[10, 0, high, low, 0, 80], row, WEIGHT)
    };
    (1..=backends).map(named).collect()
}

fn table(mut candidates: Vec<Candidate>) -> Vec<u16> {
    let mut table = vec![0; SLOTS_PER_VIP as usize];
    build(&mut table, &mut candidates);
    table
}

fn build_ms(backends: u16) -> f64 {
    let candidates = pool(backends);
    let begin = Instant::now();
    std::hint::black_box(table(candidates));
    begin.elapsed().as_secs_f64() * 1e3
}

/// The fullest backend's slots over the mean.
fn evenness(backends: u16) -> f64 {
    let mut counts = vec![0u32; usize::from(backends) + 1];
    table(pool(backends)).iter().for_each(|row| counts[usize::from(*row)] += 1);
    let fullest = counts.iter().max().copied().unwrap_or(0);
    f64::from(fullest) / (f64::from(SLOTS_PER_VIP) / f64::from(backends))
}

/// Slots that move when one backend leaves, over those that it had: the mean over several that leave.
fn moved(backends: u16) -> f64 {
    let before = table(pool(backends));
    let leaving = [1, backends / 3, backends / 2, backends];
    let ratios = leaving.map(|gone| {
        let after = table(pool(backends).into_iter().filter(|c| c.row() != gone).collect());
        let had = before.iter().filter(|row| **row == gone).count();
        disruption(&before, &after) as f64 / had as f64
    });
    ratios.iter().sum::<f64>() / ratios.len() as f64
}
