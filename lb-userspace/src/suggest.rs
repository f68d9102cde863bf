//! "Did you mean": the likeliest of the known words for one that is not known.

/// How much alike two words must be to suggest one for the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

/// The likeliest of `known`, if one is close to `word`.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &'a str| (strsim::jaro_winkler(&word.to_lowercase(), known), known);
    let close = known.into_iter().map(alike).filter(|(alike, _)| *alike >= ALIKE);
    close.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, known)| known)
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
        assert_eq!(closest("zebra", ["address", "port"]), None);
        assert_eq!(hint("pot", ["port"]), "; did you mean `port`?");
    }
}
