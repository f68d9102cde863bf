//! The system calls that no library offers: BPF links and pins by descriptor, memory mappings of maps, the memory
//! barrier, the key's randomness. Thin and total: each returns the kernel's error, nothing is decided here.

use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use aya::maps::IterableMap;
use aya::util::nr_cpus;
use lb_common::abi::counter::Counter;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::kernel::{CountMap, total};

/// `enum bpf_cmd` of linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    ObjectPin = 6,
    ObjectGet = 7,
    TestRun = 10,
    ObjectInfo = 15,
    LookupBatch = 24,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDescriptor = 30,
    LinkDetach = 34,
}

/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
/// `BPF_LINK_TYPE_XDP`.
const LINK_XDP: u32 = 6;
/// `MEMBARRIER_CMD_GLOBAL`: returns after every CPU left the RCU read sections that it was in.
const MEMBARRIER_GLOBAL: libc::c_int = 1;

/// Calls bpf(2) with an attribute block, whose unused tail the kernel takes as zero.
fn bpf<T>(command: Command, attributes: &mut T) -> Result<i32> {
    // SAFETY: `attributes` is a live, exclusively borrowed block of exactly the size that is passed, in the layout of
    // `union bpf_attr` for this command; pointers within it stay valid for the call (each caller says why).
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(done as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: only called with the fresh descriptor that the kernel just returned, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::from(ErrorKind::InvalidInput))
}

#[repr(C)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object.
///
/// # Errors
/// EEXIST if there is a pin of that name, EPERM for a name with a dot, and others.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let path = c_path(path)?;
    // The string outlives the call.
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 };
    bpf(Command::ObjectPin, &mut attributes).map(drop)
}

/// Opens a pinned object.
///
/// # Errors
/// ENOENT if there is none, and others.
pub(super) fn pinned(path: &Path) -> Result<OwnedFd> {
    let path = c_path(path)?;
    // The string outlives the call.
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    bpf(Command::ObjectGet, &mut attributes).map(owned)
}

#[repr(C)]
struct LinkCreateAttributes {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Links an XDP program to a device; `flags` of `XDP_FLAGS_*`. The link ends with its last descriptor or pin.
///
/// # Errors
/// EBUSY if another program is there, EINVAL on a kernel without XDP links, EOPNOTSUPP without native XDP, and others.
pub(super) fn link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    let mut attributes = LinkCreateAttributes { program, ifindex, attach_type: ATTACH_XDP, flags };
    bpf(Command::LinkCreate, &mut attributes).map(owned)
}

#[repr(C)]
struct LinkUpdateAttributes {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts another program into a link, atomically: no packet meets neither.
///
/// # Errors
/// ENOLINK if the device is gone, and others.
pub(super) fn relink(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let (link, new_program) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    let mut attributes = LinkUpdateAttributes { link, new_program, flags: 0, old_program: 0 };
    bpf(Command::LinkUpdate, &mut attributes).map(drop)
}

/// Detaches a link, whoever else holds it.
///
/// # Errors
/// As the kernel says.
pub(super) fn unlink(link: BorrowedFd<'_>) -> Result<()> {
    let mut attributes = link.as_raw_fd() as u32;
    bpf(Command::LinkDetach, &mut attributes).map(drop)
}

/// What the kernel says about an XDP link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkState {
    /// Id of the program in it.
    pub(super) program: u32,
    /// The device; 0 = gone.
    pub(super) ifindex: u32,
}

#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    block: u64,
}

/// `struct bpf_link_info` up to the `xdp` member of its union, with room for larger kernels.
#[derive(Default)]
#[repr(C)]
struct LinkBlock {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    rest: [u32; 27],
}

/// Reads an XDP link's state.
///
/// # Errors
/// EINVAL if it is another kind of link, and others.
pub(super) fn link_state(link: BorrowedFd<'_>) -> Result<LinkState> {
    let mut block = LinkBlock::default();
    let mut attributes = InfoAttributes {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkBlock>() as u32,
        // The block outlives the call, and its size is passed with it.
        block: std::ptr::from_mut(&mut block) as u64,
    };
    bpf(Command::ObjectInfo, &mut attributes)?;
    if block.kind != LINK_XDP {
        return Err(Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(LinkState { program: block.program, ifindex: block.ifindex })
}

/// A descriptor of the link with an id.
///
/// # Errors
/// ENOENT if there is none, and others.
pub(super) fn link_of_id(id: u32) -> Result<OwnedFd> {
    // The union's first member is the id; the open flags that end the block are 0.
    let mut attributes = [id, 0, 0];
    bpf(Command::LinkDescriptor, &mut attributes).map(owned)
}

/// The `test` member of `union bpf_attr`.
#[derive(Default)]
#[repr(C)]
struct TestAttributes {
    program: u32,
    answer: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs an XDP program once on a frame, as if it had come in by the loopback device; returns the program's answer,
/// and leaves the frame as the program did.
///
/// # Errors
/// EINVAL for a frame shorter than an Ethernet header, and others.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &mut Vec<u8>) -> Result<u32> {
    // Room for every header that the program may add.
    let mut out = vec![0; frame.len() + 256];
    let mut attributes = TestAttributes {
        program: program.as_raw_fd() as u32,
        size_in: frame.len() as u32,
        size_out: out.len() as u32,
        // Both buffers outlive the call, and their sizes are passed with them.
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ..TestAttributes::default()
    };
    bpf(Command::TestRun, &mut attributes)?;
    out.truncate(attributes.size_out as usize);
    *frame = out;
    Ok(attributes.answer)
}

#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    /// Where the key is after which to begin; 0: at the first.
    after: u64,
    /// Where the kernel puts the last key.
    last: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Entries that are read by one call.
const BATCH: u32 = 1_024;

/// The first `count` counters of a map, each summed over CPUs; fewer, if it has no more.
///
/// # Errors
/// As the kernel says.
pub(super) fn counters(map: &CountMap, count: u32) -> Result<Vec<Counter>> {
    let count = count.min(map.len());
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    let (mut keys, mut values) = ([0u32; BATCH as usize], vec![Counter::default(); BATCH as usize * cpus]);
    let mut sums = Vec::with_capacity(count as usize);
    for first in (0..count).step_by(BATCH as usize) {
        let wanted = BATCH.min(count - first);
        let (after, mut last) = (first.wrapping_sub(1), 0u32);
        let mut attributes = BatchAttributes {
            // All four outlive the call. The map's type says that its keys are u32 and its values a counter for each CPU
            // that there may be; there is room for `BATCH` of both, and no more are asked for.
            after: if first == 0 { 0 } else { std::ptr::from_ref(&after) as u64 },
            last: std::ptr::from_mut(&mut last) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: wanted,
            map: map.map().fd().as_fd().as_raw_fd() as u32,
            ..BatchAttributes::default()
        };
        bpf(Command::LookupBatch, &mut attributes)?;
        let read = values.chunks_exact(cpus).take(attributes.count as usize);
        sums.extend(read.map(|of_cpus| total(of_cpus.iter())));
    }
    Ok(sums)
}

/// Waits until every packet that is being handled now is done: one RCU grace period.
pub(super) fn grace_period() {
    // SAFETY: membarrier takes no pointers and changes nothing.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if done < 0 {
        // EINVAL where the kernel runs tickless (nohz_full). A packet is handled within microseconds; this is
        // longer than any of them by orders of magnitude.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A fresh secret from the kernel's random source.
///
/// # Errors
/// As the kernel says.
pub(super) fn random_key() -> Result<[u64; 2]> {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer is live, writable and of the size passed; for up to 256 bytes the call is all or nothing.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if read != bytes.len() as isize {
        return Err(Error::last_os_error());
    }
    Ok([0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))))
}

/// Offloads of a device that change what XDP sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offloads {
    /// VLAN tags are taken off frames as they come in.
    pub(super) rx_vlan: bool,
    /// Segments are merged as they come in.
    pub(super) lro: bool,
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// Asks for a device's offloads.
///
/// # Errors
/// EOPNOTSUPP if the driver knows none, ENODEV, and others.
pub(super) fn offloads(device: &str) -> Result<Offloads> {
    /// `ETHTOOL_GFLAGS`, and `ETH_FLAG_RXVLAN` and `ETH_FLAG_LRO` of its answer.
    const GET_FLAGS: u32 = 0x25;
    const RX_VLAN: u32 = 1 << 8;
    const LRO: u32 = 1 << 15;
    /// linux/sockios.h.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // Any socket will do: it only says which network namespace is meant.
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None).map_err(Error::from)?;
    let mut value = EthtoolValue { command: GET_FLAGS, value: 0 };
    // SAFETY: `ifreq` is plain integers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    request.ifr_name.iter_mut().zip(device.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the request is live and names a zero-ended device; its data points to a live `ethtool_value`, which is
    // what the kernel reads and writes for this command.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, std::ptr::from_mut(&mut request)) };
    if done < 0 {
        return Err(Error::last_os_error());
    }
    Ok(Offloads { rx_vlan: value.value & RX_VLAN != 0, lro: value.value & LRO != 0 })
}

/// Maps `bytes` bytes (whole pages) of a map into memory, shared and writable.
///
/// # Errors
/// EINVAL if the map is not `BPF_F_MMAPABLE` or smaller, and others.
pub(super) fn map_memory<F: AsFd>(map: &F, bytes: usize) -> Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let fd = map.as_fd().as_raw_fd();
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| Error::from(ErrorKind::AddrNotAvailable))
}

/// Ends a mapping.
///
/// # Safety
/// `at` and `bytes` are those of one [`map_memory`], and nothing borrows from it any more.
pub(super) unsafe fn unmap_memory(at: NonNull<u8>, bytes: usize) {
    // SAFETY: as the caller promises. A failure would leave the mapping: harmless, and nothing can be done.
    unsafe { libc::munmap(at.as_ptr().cast(), bytes) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fresh() {
        assert_ne!(random_key().unwrap(), random_key().unwrap());
    }

    #[test]
    fn a_grace_period_ends() {
        grace_period();
    }

    #[test]
    fn a_pin_that_is_not_there_is_an_error() {
        assert!(pinned(Path::new("/sys/fs/bpf/no-such-directory/x")).is_err());
    }
}
