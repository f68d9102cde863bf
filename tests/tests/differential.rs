//! A million frames through host and kernel, which must agree. `LB_FRAMES` sets how many, `LB_SEED` the seed.

use lb_common::reason::Reason;
use lb_tests::differential::{kernel, run};
use lb_tests::skip;

/// Frames of an ordinary run.
const FRAMES: u64 = 1_000_000;
/// How often each reason must be met in a million frames.
const OFTEN: u64 = 1_000;
/// Not to be met here, and why.
const UNREACHABLE: &[(Reason, &str)] =
    &[(Reason::NatBusy, "needs another CPU in the middle of a packet; a unit test lets its swap fail")];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

#[test]
fn host_and_kernel_agree() {
    lb_tests::require_root!("host_and_kernel_agree");
    if !kernel::object_path().is_file() {
        skip::report_skip("host_and_kernel_agree", "no BPF object: run `cargo xtask build`");
        return;
    }
    let frames = number("LB_FRAMES").unwrap_or(FRAMES);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("LB_SEED").unwrap_or(clock.as_secs());
    println!("LB_SEED={seed} LB_FRAMES={frames}");
    let coverage = run::run(seed, frames).unwrap_or_else(|error| panic!("{error:?}"));
    println!("{}", coverage.table());
    for (reason, why) in UNREACHABLE {
        println!("not met here: {}: {why}", reason.name());
    }
    let expected = Reason::ALL.iter().filter(|reason| UNREACHABLE.iter().all(|(no, _)| no != *reason));
    // A shorter run proves no frequency.
    let least = if frames < FRAMES { 0 } else { OFTEN };
    let rare: Vec<_> = expected.filter(|reason| coverage.reasons[**reason as usize] < least).collect();
    assert!(rare.is_empty(), "met less than {least} times: {rare:?}");
}
