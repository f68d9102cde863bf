//! How long to wait before the next attempt: exponential, capped, jittered. Pure: chance enters as a seed.

/// Largest part of a delay that jitter takes off, percent. Without it a fleet that failed together tries together.
const JITTER_PERCENT: u64 = 20;
/// Doublings after which any base has reached any cap that can be set (1 ms to an hour).
pub const LEVEL_MAX: u8 = 32;

/// The delay of a level, milliseconds: `base_ms` doubled `level` times, at most `cap_ms`, less up to a fifth of it as
/// `seed` decides. The same arguments give the same delay.
pub fn delay_ms(base_ms: u32, cap_ms: u32, level: u8, seed: u64) -> u64 {
    let doubled = u64::from(base_ms) << level.min(LEVEL_MAX);
    let whole = doubled.min(u64::from(cap_ms));
    whole - ((whole * JITTER_PERCENT / 100 * (mixed(seed) >> 32)) >> 32)
}

/// A number whose every bit depends on every bit of the seed (the finaliser of SplitMix64; Steele et al., 2014).
fn mixed(seed: u64) -> u64 {
    let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ seed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ seed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_cap_and_loses_at_most_a_fifth() {
        for level in 0..=u8::MAX {
            let whole = (1_000_u64 << level.min(LEVEL_MAX)).min(60_000);
            let delays: Vec<u64> = (0..1_000).map(|seed| delay_ms(1_000, 60_000, level, seed)).collect();
            assert!(delays.iter().all(|&delay| (whole * 4 / 5..=whole).contains(&delay)), "level {level}");
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(most - least > whole / 6, "level {level}: {least} to {most}");
        }
    }

    #[test]
    fn neighbours_do_not_march_in_step() {
        let delays = |level| -> std::collections::BTreeSet<u64> {
            (0..1_000).map(|seed| delay_ms(10_000, 60_000, level, seed)).collect()
        };
        assert!(delays(0).len() > 700);
    }

    #[test]
    fn the_largest_settings_do_not_overflow() {
        assert!(delay_ms(u32::MAX, u32::MAX, u8::MAX, 7) <= u64::from(u32::MAX));
    }
}
