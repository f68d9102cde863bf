//! Rows of an array map as a slice: the map's memory itself, shared with the packet path.
//!
//! Reading and writing costs no system call, and words are swapped atomically, which map system calls cannot.

use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use lb_common::abi::backend::BackendRow;
use lb_common::abi::config::ConfigRow;
use lb_common::abi::egress::EgressRow;
use lb_common::abi::flow::FlowBucket;
use lb_common::abi::nat::NatRow;
use lb_common::abi::source::SourceRow;
use lb_common::abi::tenant::TenantRow;
use lb_common::abi::vip::VipRow;
use lb_common::abi::word::Word;

use super::sys;

/// A row made of [`Word`]s only.
///
/// # Safety
/// Every byte of the type belongs to a [`Word`], so that any bit pattern is a value and changes by others are atomic,
/// and its size is a multiple of 8, so that the kernel lays rows out without gaps.
pub(super) unsafe trait Row {}

macro_rules! rows {
    ($($row:ty)*) => {
        $(
            // SAFETY: its definition in `lb_common::abi` holds words only.
            unsafe impl Row for $row {}
            const _: () = assert!(size_of::<$row>() % 8 == 0 && align_of::<$row>() <= 8);
        )*
    };
}

rows!(Word ConfigRow VipRow BackendRow EgressRow SourceRow FlowBucket NatRow TenantRow);

/// The rows of a map, mapped into memory.
#[derive(Debug)]
pub(super) struct Mapped<T: Row> {
    at: NonNull<u8>,
    bytes: usize,
    rows: usize,
    row: PhantomData<T>,
}

// SAFETY: rows are words, which are atomics; the mapping belongs to no thread.
unsafe impl<T: Row> Send for Mapped<T> {}
// SAFETY: as above; all access is by shared references to atomics.
unsafe impl<T: Row> Sync for Mapped<T> {}

impl<T: Row> Mapped<T> {
    /// Maps all `rows` rows of an array map whose value is a `T`.
    ///
    /// # Errors
    /// The map is smaller, or not made for it (`BPF_F_MMAPABLE`).
    pub(super) fn new<F: AsFd>(map: &F, rows: u32) -> std::io::Result<Self> {
        let rows = rows as usize;
        let bytes = (rows * size_of::<T>()).next_multiple_of(page_size());
        Ok(Self { at: sys::map_memory(map, bytes)?, bytes, rows, row: PhantomData })
    }
}

impl<T: Row> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is live until drop, page-aligned, and at least `rows * size_of::<T>()` bytes long; any
        // bytes are a `T`, and concurrent changes go to atomics (`Row`).
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.rows) }
    }
}

impl<T: Row> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: made by `map_memory` with these arguments; slices borrow from `self`, which ends here.
        unsafe { sys::unmap_memory(self.at, self.bytes) };
    }
}

/// Size of a page, bytes.
fn page_size() -> usize {
    // SAFETY: reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_memory_of_the_file() {
        let file = tempfile_of(3 * page_size());
        let rows = Mapped::<VipRow>::new(&file, 100).unwrap();
        assert_eq!(rows.len(), 100);
        rows[99].table.store(7);
        assert!(rows[99].table.compare_swap(7, 8) && !rows[99].table.compare_swap(7, 9));
        let again = Mapped::<VipRow>::new(&file, 100).unwrap();
        assert_eq!((again[99].table.load(), again[98].table.load()), (8, 0));
    }

    fn tempfile_of(bytes: usize) -> std::fs::File {
        let path = std::env::temp_dir().join(format!("lb-mapped-{}", std::process::id()));
        let file =
            std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(bytes as u64).unwrap();
        file
    }
}
