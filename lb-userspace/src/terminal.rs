//! What may reach a terminal: text that came from outside (names, files, answers) is rid of what steers one, so that
//! nobody can move a cursor, hide a line or turn the direction of text by the name of a vip.

/// Whether a character steers a terminal or turns the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with what steers a terminal spelt out.
pub fn clean(text: &str) -> String {
    if !text.contains(steers) {
        return text.to_owned();
    }
    text.chars().map(|c| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// The same for text of several lines, which keeps its line ends.
pub fn clean_lines(text: &str) -> String {
    let line = |line: &str| match line.strip_suffix('\n') {
        Some(line) => clean(line) + "\n",
        None => clean(line),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// The text with a `?` for each byte of what steers a terminal, so that every place in it stays where it is.
pub fn masked(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => String::from(c),
        c if steers(c) => "?".repeat(c.len_utf8()),
        c => String::from(c),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_comes_through() {
        assert_eq!(clean("web\x1b[2J\u{9b}31m"), "web\\u{1b}[2J\\u{9b}31m");
        assert_eq!(clean("b\u{202e}1"), "b\\u{202e}1");
        assert_eq!(clean("plain ü"), "plain ü");
        assert_eq!(clean_lines("a\x07\nb\n"), "a\\u{7}\nb\n");
        assert_eq!(masked("a\x07\n\u{202e}b"), "a?\n???b");
    }
}
