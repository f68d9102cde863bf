//! What holds for the whole node and may change while packets flow. (What is fixed at load, the hash key and the
//! size of the flow table, are read-only globals of the program.)

use super::word::Word;

/// The only row of the config map. Written by the daemon.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ConfigRow {
    /// 1: every packet passes untouched (`lb bypass on`); 0: normal.
    pub bypass: Word,
    /// [`super::ABI_VERSION`] of who made the maps, in the low 32 bits.
    pub version: Word,
    /// The hash key that the loaded program was given: an adopting daemon must use the same.
    pub hash_key: [Word; 2],
}

const _: () = assert!(size_of::<ConfigRow>() == 32);
