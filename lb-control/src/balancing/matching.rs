//! The table that moves least: a stable matching of slots and backends (Gale and Shapley, "College Admissions and the
//! Stability of Marriage", 1962).
//!
//! Every pair of a slot and a backend has a score, the time at which the backend's arrival comes to the slot: each
//! backend visits the slots in an order of its own, from two hashes of its identity, at the pace of its weight, as in a
//! weighted rendezvous hash. Slots and backends both want low scores, and a backend keeps no more slots than its quota.
//! Under strict scores there is exactly one matching in which no slot and backend would rather have each other, so the
//! table depends on the set of backends alone, and it does not matter in which order it is found:
//! - [`build`] lets all backends visit slots, up to a horizon of the score that grows until every slot is taken;
//! - [`rebuild`] begins with the table before a change and lets only those act whom the change gave a reason to.
//!
//! A quota is the backend's share and [`SLACK`] more, rounded up or down by a threshold of the backend's own: when the
//! total weight changes, the quotas of a few backends change, never those of all at once. So a backend has at most
//! `share * SLACK` slots, rounded up; nothing but chance keeps it from having fewer, as under any rendezvous hash.
//!
//! Only additions, multiplications, divisions and comparisons of floating point, which are the same on every node.

use super::Contender;
use xxhash_rust::xxh64::xxh64;

/// What a backend may have more than its share: with less, a change moves more slots; with more, loads differ more.
const SLACK: f64 = 1.03;
/// How much the slack grows where the quotas, rounded down, are too few for all slots.
const MORE_SLACK: f64 = 1.01;
/// What part of all slots is visited up to the first horizon, and by how much each further horizon is beyond the last.
const FIRST_HORIZON: f64 = 0.125;
const NEXT_HORIZON: f64 = 1.15;
/// From this share of backends on that come, go or change, building anew is quicker.
const MANY_CHANGES: usize = 8;

/// A score with the number of the backend in its low bits, which settle a tie: numbers are in order of identity.
type Offer = u64;
/// The offer of nobody: the worst.
const FREE: Offer = u64::MAX;
const BIDDER: u64 = 0xffff;

/// Builds the table of contenders, which are in order of identity, none of weight 0: for each slot 1 + the index of
/// its backend, 0 without any. `size` is a prime.
pub fn build(size: u32, contenders: &[Contender]) -> Vec<u16> {
    let mut market = Market::new(size, contenders);
    market.fill(contenders);
    market.table()
}

/// The same as [`build`], found from the table `before` of the contenders that `were`.
pub fn rebuild(size: u32, contenders: &[Contender], before: &[u16], were: &[Contender]) -> Vec<u16> {
    let kept = kept(were, contenders);
    let staying = kept.iter().flatten().count();
    let changes = were.len() - staying + contenders.len() - staying;
    if before.len() != size as usize || changes * MANY_CHANGES > contenders.len() {
        return build(size, contenders);
    }
    let mut market = Market::new(size, contenders);
    market.adopt(before, &kept);
    market.reconsider(&quotas(size, were), &kept);
    market.table()
}

/// Where each of those that `were` is now, unless it is gone or has another weight.
fn kept(were: &[Contender], are: &[Contender]) -> Vec<Option<usize>> {
    let place = |one: &Contender| are.binary_search_by(|other| other.identity.cmp(&one.identity)).ok();
    were.iter().map(|one| place(one).filter(|&now| are[now].weight == one.weight)).collect()
}

/// How many slots each contender may have; together at least as many as there are.
fn quotas(size: u32, contenders: &[Contender]) -> Vec<usize> {
    let total: f64 = contenders.iter().map(|one| f64::from(one.weight)).sum();
    let mut slack = SLACK;
    loop {
        let quota = |one: &Contender| {
            let share = f64::from(size) * f64::from(one.weight) / total;
            (share * slack + fraction(xxh64(&one.identity, 3))) as usize
        };
        let quotas: Vec<usize> = contenders.iter().map(quota).collect();
        if quotas.iter().sum::<usize>() >= size as usize || contenders.is_empty() {
            return quotas;
        }
        slack *= MORE_SLACK;
    }
}

/// A hash as a number from 0 to 1, without 1.
fn fraction(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// A backend that visits slots: the slot of visit `rank` is `first + rank * skip`, modulo the size.
struct Bidder {
    first: u32,
    skip: u32,
    /// The inverse of `skip`, modulo the size.
    unskip: u32,
    /// Where between two visits it begins.
    phase: f64,
    /// One over its weight.
    pace: f64,
    quota: usize,
    held: usize,
    /// Its next visit, and the slot of it.
    rank: u32,
    next: u32,
}

impl Bidder {
    fn new(size: u32, contender: &Contender, quota: usize) -> Self {
        let hash = |seed| xxh64(&contender.identity, seed);
        let first = (hash(0) % u64::from(size)) as u32;
        let skip = (hash(1) % u64::from(size - 1)) as u32 + 1;
        Self {
            first,
            skip,
            unskip: inverse(skip, size),
            phase: fraction(hash(2)),
            pace: 1.0 / f64::from(contender.weight),
            quota,
            held: 0,
            rank: 0,
            next: first,
        }
    }
    fn is_full(&self) -> bool {
        self.held >= self.quota
    }
    fn step(&mut self, size: u32) {
        self.rank += 1;
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}

/// The inverse modulo a prime, by Fermat's little theorem.
fn inverse(of: u32, prime: u32) -> u32 {
    let prime = u64::from(prime);
    let (mut power, mut base, mut exponent) = (1, u64::from(of), prime - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = power * base % prime;
        }
        base = base * base % prime;
        exponent >>= 1;
    }
    power as u32
}

struct Market {
    size: u32,
    /// By rank: when a visitor of weight 1 comes, which is exponentially distributed over the ranks: the sum of
    /// 1 / (slots not visited yet).
    times: Vec<f64>,
    bidders: Vec<Bidder>,
    /// The best offer of each slot.
    slots: Vec<Offer>,
    free: usize,
}

impl Market {
    fn new(size: u32, contenders: &[Contender]) -> Self {
        let quotas = quotas(size, contenders);
        let bidders = contenders.iter().zip(quotas).map(|(one, quota)| Bidder::new(size, one, quota));
        let mut time = 0.0;
        let times = (0..size).map(|rank| {
            let at = time;
            time += 1.0 / f64::from(size - rank);
            at
        });
        Self {
            size,
            times: times.collect(),
            bidders: bidders.collect(),
            slots: vec![FREE; size as usize],
            free: size as usize,
        }
    }

    /// A bidder's offer at its visit `rank`.
    fn offer(&self, bidder: usize, rank: u32) -> Offer {
        let Bidder { phase, pace, .. } = self.bidders[bidder];
        let time = self.times[rank as usize] + phase / f64::from(self.size - rank);
        ((time * pace).to_bits() & !BIDDER) | bidder as u64
    }
    /// A bidder's offer to a slot.
    fn offer_to(&self, bidder: usize, slot: usize) -> Offer {
        let Bidder { first, unskip, .. } = self.bidders[bidder];
        let size = u64::from(self.size);
        let rank = (slot as u64 + size - u64::from(first)) * u64::from(unskip) % size;
        self.offer(bidder, rank as u32)
    }
    fn table(&self) -> Vec<u16> {
        let one = |offer: &Offer| if *offer == FREE { 0 } else { (offer & BIDDER) as u16 + 1 };
        self.slots.iter().map(one).collect()
    }

    /// Every bidder visits slots, up to one horizon after the other, until every slot is taken: whoever comes later
    /// than the horizon finds nothing to better.
    fn fill(&mut self, contenders: &[Contender]) {
        let total: f64 = contenders.iter().map(|one| f64::from(one.weight)).sum();
        let mut horizon = FIRST_HORIZON / total;
        let mut waiting = Vec::new();
        while self.free > 0 && !self.bidders.is_empty() {
            for bidder in 0..self.bidders.len() {
                waiting.push(bidder);
                while let Some(bidder) = waiting.pop() {
                    self.visit(bidder, horizon.to_bits(), &mut waiting);
                }
            }
            horizon *= NEXT_HORIZON;
        }
    }
    /// A bidder visits slots until it has its quota or is at the horizon; whom it drives out goes on visiting.
    fn visit(&mut self, bidder: usize, horizon: Offer, driven_out: &mut Vec<usize>) {
        while !self.bidders[bidder].is_full() && self.bidders[bidder].rank < self.size {
            let Bidder { rank, next, .. } = self.bidders[bidder];
            let offer = self.offer(bidder, rank);
            if offer > horizon {
                return;
            }
            self.bidders[bidder].step(self.size);
            if offer < self.slots[next as usize] {
                driven_out.extend(self.take(next as usize, offer));
            }
        }
    }
    /// Gives a slot to whoever made an offer; returns who had it.
    fn take(&mut self, slot: usize, offer: Offer) -> Option<usize> {
        let before = std::mem::replace(&mut self.slots[slot], offer);
        self.bidders[(offer & BIDDER) as usize].held += 1;
        if before == FREE {
            self.free -= 1;
            return None;
        }
        let loser = (before & BIDDER) as usize;
        self.bidders[loser].held -= 1;
        Some(loser)
    }

    /// Takes over what stays of a table.
    fn adopt(&mut self, before: &[u16], kept: &[Option<usize>]) {
        for (slot, &one) in before.iter().enumerate() {
            let bidder = usize::from(one).checked_sub(1).and_then(|was| kept[was]);
            if let Some(bidder) = bidder {
                self.take(slot, self.offer_to(bidder, slot));
            }
        }
    }

    /// Lets those act who have a reason to, until nobody has: slots that are free, backends that were full and may
    /// have more, backends that are new. Each step gives a slot and a backend a better score than all that it takes
    /// away, so there is an end, and it is the one stable matching.
    fn reconsider(&mut self, former_quotas: &[usize], kept: &[Option<usize>]) {
        let mut known = vec![None; self.bidders.len()];
        for (was, now) in kept.iter().enumerate() {
            if let Some(now) = now {
                known[*now] = Some(former_quotas[was]);
            }
        }
        let reason = |(bidder, former): (usize, &Option<usize>)| {
            let grown = former.is_none_or(|former| self.bidders[bidder].held >= former);
            (grown && !self.bidders[bidder].is_full()).then_some(bidder)
        };
        let mut wanting: Vec<usize> = known.iter().enumerate().filter_map(reason).collect();
        let mut homeless: Vec<usize> = (0..self.slots.len()).filter(|&s| self.slots[s] == FREE).collect();
        let mut holdings = Holdings::of(self);
        for bidder in 0..self.bidders.len() {
            while self.bidders[bidder].held > self.bidders[bidder].quota {
                homeless.push(self.evict(bidder, &mut holdings));
            }
        }
        loop {
            if let Some(slot) = homeless.pop() {
                self.house(slot, &mut holdings, &mut homeless);
            } else if let Some(bidder) = wanting.pop() {
                self.search(bidder, &mut holdings, &mut homeless, &mut wanting);
            } else {
                return;
            }
        }
    }
    /// A backend gives up its worst slot.
    fn evict(&mut self, bidder: usize, holdings: &mut Holdings) -> usize {
        let slot = holdings.worst(bidder, &self.slots).map_or(0, |(_, slot)| slot);
        holdings.lose(bidder, slot);
        self.bidders[bidder].held -= 1;
        self.slots[slot] = FREE;
        self.free += 1;
        slot
    }
    /// A free slot goes to the best of those who have room for it, or a worse slot to give up for it.
    fn house(&mut self, slot: usize, holdings: &mut Holdings, homeless: &mut Vec<usize>) {
        if self.slots[slot] != FREE {
            return;
        }
        let mut best = FREE;
        for bidder in 0..self.bidders.len() {
            let offer = self.offer_to(bidder, slot);
            let better = |(worst, _)| offer < worst;
            let takes = |bidder: usize, holdings: &mut Holdings| {
                !self.bidders[bidder].is_full() || holdings.worst(bidder, &self.slots).is_some_and(better)
            };
            if offer < best && takes(bidder, holdings) {
                best = offer;
            }
        }
        let bidder = (best & BIDDER) as usize;
        if self.bidders[bidder].is_full() {
            homeless.push(self.evict(bidder, holdings));
        }
        self.take(slot, best);
        holdings.gain(bidder, slot);
    }
    /// A backend that had a reason to takes the slots that would rather have it, in its own order, as long as it has
    /// room or a worse one to give up: meanwhile it may have become full with slots that nobody better wanted.
    fn search(
        &mut self,
        bidder: usize,
        holdings: &mut Holdings,
        homeless: &mut Vec<usize>,
        wanting: &mut Vec<usize>,
    ) {
        let horizon = self.slots.iter().copied().max().unwrap_or(FREE);
        (self.bidders[bidder].rank, self.bidders[bidder].next) = (0, self.bidders[bidder].first);
        while self.bidders[bidder].rank < self.size {
            let Bidder { rank, next, .. } = self.bidders[bidder];
            let (offer, slot) = (self.offer(bidder, rank), next as usize);
            let limit = if self.bidders[bidder].is_full() {
                holdings.worst(bidder, &self.slots).map_or(0, |(worst, _)| worst)
            } else {
                horizon
            };
            if offer > limit {
                return;
            }
            self.bidders[bidder].step(self.size);
            if offer < self.slots[slot] {
                if self.bidders[bidder].is_full() {
                    homeless.push(self.evict(bidder, holdings));
                }
                holdings.gain(bidder, slot);
                if let Some(loser) = self.take(slot, offer) {
                    holdings.lose(loser, slot);
                    wanting
                        .extend((self.bidders[loser].held + 1 == self.bidders[loser].quota).then_some(loser));
                }
            }
        }
    }
}

/// The slots of each bidder, and the worst of them where that is known.
struct Holdings {
    slots: Vec<Vec<usize>>,
    worst: Vec<Option<(Offer, usize)>>,
}

impl Holdings {
    fn of(market: &Market) -> Self {
        let none = vec![Vec::new(); market.bidders.len()];
        let mut holdings = Self { slots: none, worst: vec![None; market.bidders.len()] };
        for (slot, offer) in market.slots.iter().enumerate().filter(|(_, offer)| **offer != FREE) {
            holdings.slots[(offer & BIDDER) as usize].push(slot);
        }
        holdings
    }
    fn gain(&mut self, bidder: usize, slot: usize) {
        self.slots[bidder].push(slot);
        self.worst[bidder] = None;
    }
    fn lose(&mut self, bidder: usize, slot: usize) {
        self.slots[bidder].retain(|&one| one != slot);
        self.worst[bidder] = None;
    }
    /// The worst slot that a bidder holds, with its offer.
    fn worst(&mut self, bidder: usize, offers: &[Offer]) -> Option<(Offer, usize)> {
        if self.worst[bidder].is_none() {
            self.worst[bidder] = self.slots[bidder].iter().map(|&slot| (offers[slot], slot)).max();
        }
        self.worst[bidder]
    }
}

#[cfg(test)]
mod tests;
