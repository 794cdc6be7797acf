//! A source file, with comments and literals told apart from code.

/// A file of Rust.
#[derive(Debug)]
pub struct Source {
    /// From the workspace's root, with `/`.
    pub path: String,
    pub text: String,
    /// The text with every character of a comment, a string or a character literal turned into a blank;
    /// lines stay where they are.
    pub code: String,
}

impl Source {
    pub fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        Self { path, text, code }
    }

    /// A line of code, counted from 0.
    pub fn code_line(&self, number: usize) -> &str {
        self.code.lines().nth(number).unwrap_or_default()
    }

    /// Whether a word occurs in the code by itself.
    pub fn has_word(&self, word: &str) -> bool {
        words(&self.code).any(|found| found == word)
    }
}

/// The identifiers and keywords of some code.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Turns what is no code into blanks.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let length = not_code(rest, code.chars().last());
        let (skipped, after) = rest.split_at(length);
        code.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        let mut characters = after.chars();
        code.extend(characters.next());
        rest = characters.as_str();
    }
    code
}

/// How many bytes at the start of `rest` are a comment or a literal.
fn not_code(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).filter(|_| !in_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let prefix = rest.len() - raw.len() + hashes + 1;
            return rest[prefix..].find(&end).map_or(rest.len(), |at| prefix + at + end.len());
        }
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        let step = match here {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a literal that begins and ends with `quote`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut after = rest.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let code = |text: &str| words(&blank(text)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(code("a // b\nc"), ["a", "c"]);
        assert_eq!(code("a /* b /* c */ d */ e"), ["a", "e"]);
        assert_eq!(code(r#"a("b \" c", d)"#), ["a", "d"]);
        assert_eq!(code(r##"a(r#"b " c"#, br"d") e"##), ["a", "e"]);
        assert_eq!(code("a<'b>(c, '\"', 'd', '\\'', e)"), ["a", "b", "c", "e"]);
        assert_eq!(blank("\"a\nb\"\nc").lines().count(), 3);
    }
}
