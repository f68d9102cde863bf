//! What is left behind: nothing, after drop, Ctrl-C and SIGTERM; after kill -9 the next run sweeps.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_tests::require_root;
use lb_tests::sweep::{names_of_process, sweep_stale};
use lb_tests::topology::Topology;
use lb_tests::wait::{wait_for, wait_until};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn nothing_is_left_behind() {
    require_root!("leftovers::nothing_is_left_behind", "nginx", "curl");
    let net = Topology::builder().path_mtu(1300).build().unwrap();
    let (group, dir) = (net.group(), net.dir().to_owned());
    let pids: Vec<i32> = net.namespaces().iter().flat_map(|namespace| namespace.pids()).collect();
    assert_eq!((pids.len(), Topology::leftovers(group).len(), dir.exists()), (3, 8, true));
    drop(net);
    assert_eq!(Topology::leftovers(group), Vec::<String>::new());
    assert!(!dir.exists());
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
}

#[test]
fn set_up_is_quick() {
    require_root!("leftovers::set_up_is_quick", "nginx");
    // The first of a process also sweeps; other tests share the machine, so the best of three counts.
    let took = (0..3).map(|_| {
        let start = Instant::now();
        drop(Topology::builder().backends(3).build().unwrap());
        start.elapsed()
    });
    let best = took.min().unwrap();
    assert!(best < 2 * SECOND, "{best:?}");
}

/// Starts the program that holds a network, waits until it does, ends it by `signal`.
fn hold_and_end(signal: &str) -> (u32, std::process::ExitStatus) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lb-topology"))
        .args(["--backends", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let nginx_runs = || {
        let names = names_of_process(pid);
        let backend = names.iter().find(|name| name.ends_with("-b0"))?;
        let listing = Command::new("ip").args(["netns", "pids", backend]).output().ok()?;
        (!listing.stdout.is_empty()).then_some(())
    };
    wait_for("the network of a child", 10 * SECOND, nginx_runs).unwrap();
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    let (status, _) = wait_for("its end", 10 * SECOND, || child.try_wait().unwrap()).unwrap();
    (pid, status)
}

#[test]
fn interrupted_program_cleans_up() {
    require_root!("leftovers::interrupted_program_cleans_up", "nginx");
    for signal in ["-INT", "-TERM"] {
        let (pid, status) = hold_and_end(signal);
        assert_eq!((names_of_process(pid), status.code()), (Vec::new(), Some(0)), "{signal}");
    }
}

#[test]
fn next_run_sweeps_after_a_killed_one() {
    require_root!("leftovers::next_run_sweeps_after_a_killed_one", "nginx");
    let (pid, _) = hold_and_end("-KILL");
    // Another run may be sweeping the same names at this moment, so how many fall to us is open.
    let _ = sweep_stale();
    wait_until("nothing left of the killed run", 10 * SECOND, || names_of_process(pid).is_empty()).unwrap();
    let scratch = std::env::temp_dir().join(format!("lb-{pid}-0"));
    wait_until("its directory gone", 10 * SECOND, || !scratch.exists()).unwrap();
}
