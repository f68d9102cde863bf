//! The state directory on a real disk that is full, write-protected, or turned read-only by an error: commands are refused,
//! nothing else is harmed, and a dead backend is still taken out.
//!
//! The disk is an ext4 image on a loop device, mounted in a mount namespace of the test's own thread and what that starts:
//! nobody else sees it, and it is gone with them. Disks that fail in finer ways are played beside the journal.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_control::health::Health;
use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::fetch;
use lb_tests::wait::{wait_for, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

const SECOND: Duration = Duration::from_secs(1);
/// Size of the disk, bytes: room for a journal, and soon full.
const DISK_BYTES: u64 = 16 << 20;
/// Commands after which a journal on a full disk has surely used the room that it had made.
const COMMANDS_MAX: u32 = 600;

fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A disk of our own, mounted; unmounted when dropped.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Puts what lies in a directory on a disk, and the disk in the directory's place.
    fn under(at: &Path) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        let (image, before) = (at.with_extension("ext4"), at.with_extension("before"));
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-m0".as_ref(), "-F".as_ref(), &image]);
        fs::rename(at, &before).unwrap();
        fs::create_dir(at).unwrap();
        let disk = Self { image, at: at.to_owned() };
        disk.mount();
        run("cp", &["-a".as_ref(), &before.join("."), at]);
        disk
    }

    fn mount(&self) {
        run("mount", &["-o".as_ref(), "loop,errors=remount-ro".as_ref(), &self.image, &self.at]);
    }

    fn unmount(&self) {
        umount2(&self.at, MntFlags::empty()).unwrap();
    }

    /// Fills it to the last byte with a file of that name.
    fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        for piece in [1 << 16, 1 << 10, 1] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
        // What was taken so far is on the disk, so nothing gives room back later.
        file.sync_all().unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// As a disk does that fails: the kernel turns the file system read-only under whoever uses it.
    fn fail(&self) {
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let own = mounts.lines().find(|line| line.split(' ').nth(1) == self.at.to_str()).unwrap();
        let device = own.split(' ').next().and_then(|device| device.strip_prefix("/dev/")).unwrap();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "on purpose").unwrap();
        File::create(self.ballast()).unwrap_err();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The daemon may still hold it: then the device goes with the daemon.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// The disk is dropped first, and then the daemon.
struct Bench {
    disk: Disk,
    site: Site,
}

impl Bench {
    fn new() -> Self {
        let topology = Topology::builder().setup(BackendSetup::DirectReturn);
        let site = Site::builder(topology, Mode::L2).families(&[Family::V4]).kinds(&[Served::Http]);
        let mut site = site.start().unwrap();
        site.lb.stop().unwrap();
        let disk = Disk::under(site.lb.state_dir());
        site.lb.restart(&site.net).unwrap();
        site.wait_serving().unwrap();
        Self { disk, site }
    }

    /// Gives `b0` another weight than it had, with as long a reason as may be; what was refused is the error.
    fn command(&self, number: u32) -> Result<(), String> {
        let (weight, reason) = ((100 + number % 2).to_string(), "x".repeat(1_000));
        let words = ["backend", "weight", "http4/b0", &weight, "-m", &reason];
        let answer = self.site.lb.try_lb(&words).unwrap();
        if answer.is_success() { Ok(()) } else { Err(answer.stderr) }
    }

    /// The log's last revision, as the views have it once they lack nothing.
    fn revision(&self) -> u64 {
        let current = || self.site.status().ok().filter(|status| status.lag_ms == 0);
        wait_for("views that lack nothing", 10 * SECOND, current).unwrap().0.revision
    }

    /// What is refused is refused clearly, and changes nothing; all else goes on.
    fn refuses_and_goes_on(&mut self, why: &str, dying: usize) {
        let before = self.revision();
        for number in 0..2 {
            let refused = self.command(number).unwrap_err();
            assert!(refused.contains("LB5008") && refused.contains(why), "{refused}");
        }
        assert_eq!(self.revision(), before);
        let name = format!("b{dying}");
        self.site.net.backend_mut(dying).kill();
        wait_until("a dead backend taken out", 10 * SECOND, || {
            let seen = self.site.backend("http4", &name).unwrap();
            seen.health == Health::Down && seen.share == 0.0
        })
        .unwrap();
        for _ in 0..8 {
            let reply = fetch(self.site.client(), self.site.vip(Served::Http, Family::V4), "/").unwrap();
            assert_ne!(reply.text(), name);
        }
        let history = self.site.lb.lb("history --limit 1").unwrap();
        assert!(!history.is_empty());
    }

    /// Without a restart, a command is taken again; nothing was lost or added on the way.
    fn takes_commands_again(&self) {
        let before = self.revision();
        wait_until("a command taken again", 10 * SECOND, || {
            (0..2).all(|number| self.command(number).is_ok())
        })
        .unwrap();
        assert_eq!(self.revision(), before + 2);
        self.is_whole();
    }

    fn is_whole(&self) {
        let line = format!("log verify --state-dir {}", self.disk.at.display());
        self.site.lb.lb(&line).unwrap();
    }

    fn back(&mut self, index: usize) {
        self.site.net.backend_mut(index).start().unwrap();
        self.site.wait_serving().unwrap();
    }
}

#[test]
fn a_full_disk_refuses_commands_and_nothing_else() {
    require_root!("e2e_disk::a_full_disk_refuses_commands_and_nothing_else", "nginx", "curl", "mkfs.ext4");
    let mut bench = Bench::new();
    bench.disk.fill();
    let taken = (0..COMMANDS_MAX).find(|number| bench.command(*number).is_err());
    println!("{} commands until the room made before was used", taken.expect("a full disk refuses"));
    bench.refuses_and_goes_on("No space left on device", 1);
    fs::remove_file(bench.disk.ballast()).unwrap();
    bench.takes_commands_again();
    bench.back(1);
    let revision = bench.revision();
    bench.site.lb.kill();
    bench.site.lb.restart(&bench.site.net).unwrap();
    assert_eq!(bench.revision(), revision);
}

#[test]
fn a_read_only_disk_refuses_commands_and_nothing_else() {
    require_root!(
        "e2e_disk::a_read_only_disk_refuses_commands_and_nothing_else",
        "nginx",
        "curl",
        "mkfs.ext4",
        "chattr"
    );
    let mut bench = Bench::new();
    bench.command(0).unwrap();
    let journal = bench.disk.at.join("journal");
    run("chattr", &["-R".as_ref(), "+i".as_ref(), &journal]);
    bench.refuses_and_goes_on("Operation not permitted", 1);
    run("chattr", &["-R".as_ref(), "-i".as_ref(), &journal]);
    bench.takes_commands_again();
    bench.back(1);

    // The kernel's own way takes a new mount to undo, which takes a daemon that lets go: packets do not wait for it.
    bench.disk.fail();
    bench.refuses_and_goes_on("Read-only file system", 2);
    let revision = bench.revision();
    bench.site.lb.stop().unwrap();
    bench.disk.unmount();
    bench.disk.mount();
    bench.site.lb.restart(&bench.site.net).unwrap();
    assert_eq!(bench.revision(), revision);
    bench.takes_commands_again();
    bench.back(2);
}
