//! "Did you mean": the likeliest of the known words for one that is not known.

/// How much alike two words must be to suggest one for the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

/// The likeliest of `known`, if one is close to `word`: alike as a whole, or one slip of a key away.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let measured = known.into_iter().map(|known| {
        let one_slip = strsim::osa_distance(&word, known) <= 1;
        (one_slip, strsim::jaro_winkler(&word, known), known)
    });
    let close = measured.filter(|(one_slip, alike, _)| *one_slip || *alike >= ALIKE);
    let likeliest = close.max_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    likeliest.map(|(.., known)| known)
}

/// `; did you mean …?`, or nothing.
pub fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, known).map_or_else(String::new, |known| format!("; did you mean `{known}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_suggested_and_others_not() {
        assert_eq!(closest("adress", ["address", "port"]), Some("address"));
        assert_eq!(closest("L2", ["l2", "nat"]), Some("l2"));
        assert_eq!(closest("tpc", ["udp", "tcp"]), Some("tcp"));
        assert_eq!(closest("zebra", ["address", "port"]), None);
        assert_eq!(hint("pot", ["port"]), "; did you mean `port`?");
    }
}
