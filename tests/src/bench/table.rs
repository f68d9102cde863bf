//! (d) The tables: how long they take to build and to change, how even they are, how much moves when the pool changes.

use std::time::Instant;

use lb_common::abi::flow::FlowBucket;
use lb_common::limits::{FLOW_WAYS, SLOTS_PER_VIP};
use lb_common::maglev::{Candidate, build, disruption};
use lb_control::balancing::{Contender, matching};

use super::{Effort, median};

const WEIGHT: u16 = 100;
const MAGLEV_POOL: u16 = 1_000;

/// Keys and values.
pub fn run(effort: Effort) -> Vec<(&'static str, Option<f64>)> {
    let mut times: Vec<f64> = (0..effort.table_rounds()).map(|_| build_ms(MAGLEV_POOL)).collect();
    let mut keys = vec![
        ("maglev_build_1000_ms", Some(median(&mut times))),
        ("evenness", Some(evenness(MAGLEV_POOL))),
        ("maglev_disruption_10", Some(moved(10))),
        ("maglev_disruption_1000", Some(moved(MAGLEV_POOL))),
    ];
    keys.extend(matched(effort));
    keys.push(("flow_bytes", Some((size_of::<FlowBucket>() / FLOW_WAYS) as f64)));
    keys
}

/// The default table: means over random changes of the pool.
fn matched(effort: Effort) -> Vec<(&'static str, Option<f64>)> {
    let changes = effort.table_changes();
    let [ten, hundred, thousand] = [10, 100, 1_000].map(|backends| Changes::of(backends, changes));
    let mut builds: Vec<f64> = (0..effort.table_rounds()).map(|_| matching_build_ms()).collect();
    let mut incremental = thousand.times_ms;
    vec![
        ("table_disruption_10", Some(ten.disruption)),
        ("table_disruption_100", Some(hundred.disruption)),
        ("table_disruption_1000", Some(thousand.disruption)),
        ("table_evenness", Some(thousand.fullest)),
        ("table_emptiest", Some(thousand.emptiest)),
        ("table_build_ms", Some(median(&mut builds))),
        ("table_incremental_ms", Some(median(&mut incremental))),
    ]
}

/// What random removals, additions and changes of weight (to a half up to twice as much) did, each by itself to a pool
/// of equals.
struct Changes {
    /// Mean of slots that moved / slots that had to: the share that one backend gives or takes.
    disruption: f64,
    /// Of the pool of equals and of those without or with one more: the fullest and the emptiest over the mean.
    fullest: f64,
    emptiest: f64,
    times_ms: Vec<f64>,
}

impl Changes {
    fn of(backends: u32, changes: u32) -> Self {
        let mut rng = fastrand::Rng::with_seed(65_537);
        let before = equals(backends, &mut rng);
        let table = matching::build(SLOTS_PER_VIP, &before);
        let (mut ratios, mut times_ms) = (Vec::new(), Vec::new());
        let (fullest, emptiest) = spread(&table, before.len());
        let mut changed = Self { disruption: 0.0, fullest, emptiest, times_ms: Vec::new() };
        for change in 0..changes {
            let (after, ideal) = changed_pool(&before, change, &mut rng);
            let begin = Instant::now();
            let new = matching::rebuild(SLOTS_PER_VIP, &after, &table, &before);
            times_ms.push(begin.elapsed().as_secs_f64() * 1e3);
            let pairs = table.iter().zip(&new);
            let name = |pool: &[Contender], one: u16| pool[usize::from(one) - 1].identity;
            let moved = pairs.filter(|(was, is)| name(&before, **was) != name(&after, **is)).count();
            ratios.push(moved as f64 / ideal);
            if after.iter().all(|one| one.weight == WEIGHT) {
                let (fullest, emptiest) = spread(&new, after.len());
                changed.fullest = changed.fullest.max(fullest);
                changed.emptiest = changed.emptiest.min(emptiest);
            }
        }
        changed.disruption = ratios.iter().sum::<f64>() / ratios.len() as f64;
        Self { times_ms, ..changed }
    }
}

/// Contenders of one weight, in order of identity.
fn equals(backends: u32, rng: &mut fastrand::Rng) -> Vec<Contender> {
    let mut pool: Vec<_> = (0..backends).map(|_| contender(rng)).collect();
    pool.sort_unstable();
    pool
}

fn contender(rng: &mut fastrand::Rng) -> Contender {
    Contender { identity: std::array::from_fn(|_| rng.u8(..)), weight: WEIGHT }
}

/// A pool after a change, and how many slots must move.
fn changed_pool(before: &[Contender], change: u32, rng: &mut fastrand::Rng) -> (Vec<Contender>, f64) {
    let (slots, mut after) = (f64::from(SLOTS_PER_VIP), before.to_vec());
    let total = before.len() as f64 * f64::from(WEIGHT);
    let one = rng.usize(0..after.len());
    let moved = match change % 3 {
        0 => {
            after.remove(one);
            1.0 / before.len() as f64
        }
        1 => {
            after.push(contender(rng));
            after.sort_unstable();
            1.0 / after.len() as f64
        }
        _ => {
            let weight = if rng.bool() { rng.u16(50..=75) } else { rng.u16(125..=200) };
            after[one].weight = weight;
            let share = f64::from(weight) / (total - f64::from(WEIGHT) + f64::from(weight));
            (share - f64::from(WEIGHT) / total).abs()
        }
    };
    (after, slots * moved)
}

/// The fullest and the emptiest backend's slots over the mean.
fn spread(table: &[u16], backends: usize) -> (f64, f64) {
    let mut counts = vec![0_u32; backends + 1];
    table.iter().for_each(|one| counts[usize::from(*one)] += 1);
    let mean = table.len() as f64 / backends as f64;
    let over = |count: Option<&u32>| f64::from(count.copied().unwrap_or(0)) / mean;
    (over(counts[1..].iter().max()), over(counts[1..].iter().min()))
}

fn matching_build_ms() -> f64 {
    let pool = equals(1_000, &mut fastrand::Rng::with_seed(7));
    let begin = Instant::now();
    std::hint::black_box(matching::build(SLOTS_PER_VIP, &pool));
    begin.elapsed().as_secs_f64() * 1e3
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
    spread(&table(pool(backends)), backends.into()).0
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
