//! A file whose every block differs from every other, made and checked without a second copy: what a
//! download must equal, byte by byte. Swapped, lost, doubled and altered pieces all show.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Bytes of one block. The first eight hold its number, the rest is the same noise in all.
const BLOCK_BYTES: usize = 1 << 16;

/// Writes the first `bytes` bytes of the pattern to `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_file(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut writer = BufWriter::with_capacity(BLOCK_BYTES, file);
    let mut block = noise();
    let mut left = usize::try_from(bytes)?;
    let mut index = 0_u64;
    while left > 0 {
        let count = left.min(BLOCK_BYTES);
        block[..8].copy_from_slice(&index.to_le_bytes());
        writer.write_all(&block[..count])?;
        left -= count;
        index += 1;
    }
    writer.flush().with_context(|| format!("write {}", path.display()))
}

/// The first `bytes` bytes of the pattern, for sending.
#[must_use]
pub fn bytes(count: usize) -> Vec<u8> {
    let mut block = noise();
    let mut pattern = Vec::with_capacity(count + BLOCK_BYTES);
    let mut index = 0_u64;
    while pattern.len() < count {
        block[..8].copy_from_slice(&index.to_le_bytes());
        pattern.extend_from_slice(&block);
        index += 1;
    }
    pattern.truncate(count);
    pattern
}

/// Where `content` first differs from the pattern of `expected_bytes` bytes, if it does; a shorter or longer
/// one differs where the shorter ends.
#[must_use]
pub fn first_difference(content: &[u8], expected_bytes: u64) -> Option<u64> {
    let mut block = noise();
    for (index, piece) in content.chunks(BLOCK_BYTES).enumerate() {
        block[..8].copy_from_slice(&(index as u64).to_le_bytes());
        if piece != &block[..piece.len()] {
            let within = piece.iter().zip(&block).position(|(one, other)| one != other).unwrap_or_default();
            let at = (index * BLOCK_BYTES + within) as u64;
            return Some(at.min(expected_bytes));
        }
    }
    let count = content.len() as u64;
    (count != expected_bytes).then(|| count.min(expected_bytes))
}

/// xorshift64: fixed noise, so that no piece looks like another.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    while block.len() < BLOCK_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_kind_of_damage() {
        let count = 3 * BLOCK_BYTES + 100;
        let good = bytes(count);
        let expected = count as u64;
        assert_eq!(first_difference(&good, expected), None);

        let mut flipped = good.clone();
        flipped[70_000] ^= 1;
        assert_eq!(first_difference(&flipped, expected), Some(70_000));
        assert_eq!(first_difference(&good[..count - 1], expected), Some(expected - 1));
        let longer = [&good[..], b"x"].concat();
        assert_eq!(first_difference(&longer, expected), Some(expected));
        let mut swapped = good.clone();
        swapped[..2 * BLOCK_BYTES].rotate_left(BLOCK_BYTES);
        assert_eq!(first_difference(&swapped, expected), Some(0));
    }
}
