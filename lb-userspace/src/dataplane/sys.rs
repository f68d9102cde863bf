//! The system calls that no library offers: BPF links and pins by descriptor, memory mappings of maps, the memory
//! barrier, the key's randomness. Thin and total: each returns the kernel's error, nothing is decided here.

use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

/// `enum bpf_cmd` of linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    ObjectPin = 6,
    ObjectGet = 7,
    ObjectInfo = 15,
    LinkCreate = 28,
    LinkUpdate = 29,
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
