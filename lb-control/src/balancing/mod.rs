//! How a vip spreads new flows over its backends: the algorithm that a person asks for, what it needs of the vip, and the
//! table that it rests on. The packet's side of it is `lb-common`'s `datapath/select.rs`.
//!
//! Pure, and the same on every node: a table depends on its size and on the set of its contenders alone.

mod algorithm;
pub mod matching;
pub mod turns;

pub use algorithm::{Algorithm, Balancing, BalancingWish};
use lb_common::maglev;

/// A backend that wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contender {
    /// What it is to the table; the same on every node.
    pub identity: [u8; 18],
    /// Its weight, not 0.
    pub weight: u16,
}

/// Which table an algorithm rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Builder {
    /// [`maglev`].
    Maglev,
    /// [`matching`].
    Matching,
    /// [`turns`].
    Turns,
}

impl Builder {
    /// Builds the table of contenders, which are in order of identity, none of weight 0: for each slot 1 + the index
    /// of its backend; empty without any.
    pub fn build(self, size: u32, contenders: &[Contender]) -> Vec<u16> {
        match self {
            _ if contenders.is_empty() => Vec::new(),
            Self::Maglev => maglev(size, contenders),
            Self::Matching => matching::build(size, contenders),
            Self::Turns => turns::build(size, contenders),
        }
    }
    /// The same, perhaps quicker by the table `before`, which this builder built of the contenders that `were`.
    pub fn rebuild(
        self,
        size: u32,
        contenders: &[Contender],
        before: &[u16],
        were: &[Contender],
    ) -> Vec<u16> {
        match self {
            Self::Matching if !contenders.is_empty() => matching::rebuild(size, contenders, before, were),
            _ => self.build(size, contenders),
        }
    }
}

fn maglev(size: u32, contenders: &[Contender]) -> Vec<u16> {
    let mut table = vec![0; size as usize];
    let numbered = contenders.iter().zip(1_u16..);
    let mut wanting: Vec<_> =
        numbered.map(|(one, row)| maglev::Candidate::new(&one.identity, row, one.weight)).collect();
    maglev::build(&mut table, &mut wanting);
    table
}
