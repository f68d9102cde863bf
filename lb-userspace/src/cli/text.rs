//! Numbers for people: thousands apart, rates with units, shares in per cent.

use crate::api::views::TrafficView;

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with a decimal prefix: `1.2 k`, `3.4 M`; under 1,000 whole.
fn scaled(number: f64) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match prefixes.iter().find(|(size, _)| number >= *size) {
        Some((size, prefix)) => format!("{:.1} {prefix}", number / size),
        None => format!("{number:.0} "),
    }
}

/// Packets per second.
pub(super) fn packet_rate(pps: f64) -> String {
    scaled(pps) + "pps"
}

/// Packets and bits per second.
pub(super) fn rate(traffic: &TrafficView) -> String {
    format!("{}, {}bit/s", packet_rate(traffic.rate_pps), scaled(traffic.rate_bps))
}

/// `33.3 %`.
pub(super) fn share(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `1 vip`, `2 vips`.
pub(super) fn several(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{} {thing}s", count(number as u64)) }
}

/// How long, in the two largest units that tell something.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [count(7), count(1_000), count(65_537), count(1_234_567)],
            ["7", "1,000", "65,537", "1,234,567"]
        );
        assert_eq!(packet_rate(0.0), "0 pps");
        assert_eq!(packet_rate(1_234.0), "1.2 kpps");
        let traffic = TrafficView { rate_pps: 2e6, rate_bps: 1.5e9, ..TrafficView::default() };
        assert_eq!(rate(&traffic), "2.0 Mpps, 1.5 Gbit/s");
        assert_eq!(share(1.0 / 3.0), "33.3 %");
        assert_eq!((several(1, "vip"), several(2, "vip")), ("1 vip".to_owned(), "2 vips".to_owned()));
    }
}
