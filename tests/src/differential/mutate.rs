//! Damage: one field at a time, where it hurts. Random bytes alone would die in the first stage.

use super::packets::Sketch;
use fastrand::Rng;

/// Damages a frame once. It stays at least an Ethernet header long: the kernel runs no shorter one.
pub fn mutate(sketch: &mut Sketch, rng: &mut Rng) {
    let v4 = sketch.bytes.get(sketch.l3).is_some_and(|first| first >> 4 == 4);
    match rng.u8(0..17) {
        0 | 1 => truncate(sketch, rng),
        15 if rng.u8(0..4) == 0 => {
            put16(sketch, 12, *pick(&[0x8100, 0x88a8], rng));
            sketch.bytes.truncate(rng.usize(14..23));
        }
        2 => flip(sketch, rng),
        3 => length(sketch, v4, rng),
        4 => put(sketch, sketch.l3, rng.u8(..)),
        5 if v4 => put(sketch, sketch.l3 + 6, *pick(&[0x20, 0x00, 0x60, 0x1f, 0x01], rng)),
        6 if v4 => put(sketch, sketch.l3, 0x40 | rng.u8(0..16)),
        5..=7 => {
            let at = sketch.l3 + if v4 { 9 } else { 6 };
            put(sketch, at, *pick(&[0, 1, 4, 6, 17, 41, 43, 44, 50, 58, 59, 60, 132, 135, 255], rng));
        }
        8 => put(sketch, sketch.l3 + if v4 { 8 } else { 7 }, rng.u8(0..3)),
        9 => put(sketch, sketch.l4 + 12, rng.u8(..)),
        10 => put16(sketch, sketch.l4 + 4, rng.u16(0..60)),
        11 => put16(sketch, sketch.l3 - 2, *pick(&[0x0800, 0x86dd, 0x8100, 0x88a8, 0x0806, 0x0600], rng)),
        12 => put(sketch, 0, *pick(&[0xff, 0x33, 0x01], rng)),
        13 => sketch.bytes.extend((0..rng.usize(1..40)).map(|_| 0)),
        14 => put(sketch, sketch.l4, *pick(&[0, 1, 2, 3, 4, 5, 8, 11, 12, 128, 129, 135], rng)),
        // What an ICMP error quotes, or what a tunnel carries.
        _ => put(sketch, sketch.l4 + rng.usize(0..56), rng.u8(..)),
    }
}

/// One of a list.
pub fn pick<'a, T>(of: &'a [T], rng: &mut Rng) -> &'a T {
    &of[rng.usize(0..of.len())]
}

fn put(sketch: &mut Sketch, at: usize, value: u8) {
    if let Some(byte) = sketch.bytes.get_mut(at) {
        *byte = value;
    }
}

fn put16(sketch: &mut Sketch, at: usize, value: u16) {
    let [high, low] = value.to_be_bytes();
    put(sketch, at, high);
    put(sketch, at + 1, low);
}

/// Cuts the frame, mostly within its headers.
fn truncate(sketch: &mut Sketch, rng: &mut Rng) {
    let headers = (sketch.l4 + 40).min(sketch.bytes.len());
    let end = if rng.u8(0..4) == 0 { sketch.bytes.len() } else { headers };
    let mut left = rng.usize(14..=end.max(14)).min(sketch.bytes.len());
    if rng.u8(0..4) == 0 {
        // The IP header says so as well: then the transport header is what is cut.
        let v4 = sketch.bytes.get(sketch.l3).is_some_and(|first| first >> 4 == 4);
        left = left.max(sketch.l4);
        let total = left.saturating_sub(sketch.l3 + if v4 { 0 } else { 40 });
        put16(sketch, sketch.l3 + if v4 { 2 } else { 4 }, total as u16);
    }
    sketch.bytes.truncate(left);
}

fn flip(sketch: &mut Sketch, rng: &mut Rng) {
    let headers = (sketch.l4 + 40).min(sketch.bytes.len());
    let (at, bit) = (rng.usize(0..headers), rng.u8(0..8));
    sketch.bytes[at] ^= 1 << bit;
}

/// Lies about the length of the IP packet.
fn length(sketch: &mut Sketch, v4: bool, rng: &mut Rng) {
    let at = sketch.l3 + if v4 { 2 } else { 4 };
    let Some(field) = sketch.bytes.get(at..at + 2) else { return };
    let said = u16::from_be_bytes([field[0], field[1]]);
    let value = match rng.u8(0..4) {
        0 => rng.u16(..),
        1 => rng.u16(0..64),
        2 => said.wrapping_add(rng.u16(1..9)),
        _ => said.saturating_sub(rng.u16(1..30)),
    };
    put16(sketch, at, value);
}
