//! A line of rules cut into words, each with its column: blanks separate, double or single quotes join, a backslash in
//! double quotes takes the next character as it is.

/// A word of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Word {
    /// Without quotes.
    pub(super) text: String,
    /// Of its first character, quote included, in characters from 1 on.
    pub(super) column: u32,
}

/// The words of `line`.
///
/// # Errors
/// Column of a quote that is not closed.
pub(super) fn split(line: &str) -> Result<Vec<Word>, u32> {
    let mut words = Vec::new();
    let mut chars = line.chars().zip(1u32..).peekable();
    while let Some(&(first, column)) = chars.peek() {
        if first.is_whitespace() {
            chars.next();
            continue;
        }
        let mut text = String::new();
        let mut quote: Option<(char, u32)> = None;
        while let Some(&(char, at)) = chars.peek() {
            match (char, quote) {
                (_, None) if char.is_whitespace() => break,
                ('"' | '\'', None) => quote = Some((char, at)),
                (_, Some((open, _))) if char == open => quote = None,
                ('\\', Some(('"', _))) => {
                    chars.next();
                    match chars.peek() {
                        Some(&(escaped, _)) => text.push(escaped),
                        None => break,
                    }
                }
                _ => text.push(char),
            }
            chars.next();
        }
        if let Some((_, at)) = quote {
            return Err(at);
        }
        words.push(Word { text, column });
    }
    Ok(words)
}

/// `text` as it must be written to be one word again, and as iptables-save writes it.
pub(super) fn quoted(text: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "_-".contains(char);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for char in text.chars() {
        if matches!(char, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).unwrap().into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn quotes_join_words_and_columns_are_kept() {
        assert_eq!(
            texts(r#"-A INPUT  --comment "a b \"c\"" -j 'x y'"#),
            ["-A", "INPUT", "--comment", "a b \"c\"", "-j", "x y"]
        );
        let columns: Vec<u32> = split("-A  INPUT").unwrap().iter().map(|word| word.column).collect();
        assert_eq!(columns, [1, 5]);
    }

    #[test]
    fn an_open_quote_is_named_by_its_column() {
        assert_eq!(split("-j LOG --log-prefix \"x"), Err(21));
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_one_word(text in "[^\n\r]{0,30}") {
            prop_assert_eq!(texts(&quoted(&text)), vec![text]);
        }
    }
}
