//! Functions and their lengths.

use super::source::Source;

/// A function with a body.
#[derive(PartialEq, Eq, Debug)]
pub struct Function {
    pub name: String,
    /// From its first line to its last brace.
    pub lines: usize,
}

/// All functions of a file, nested ones too.
pub fn functions(source: &Source) -> Vec<Function> {
    let code = &source.code;
    let starts = code.match_indices("fn ").filter(|(at, _)| {
        !code[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    });
    starts.filter_map(|(at, _)| function_at(&code[at + "fn ".len()..])).collect()
}

/// The function whose name begins here; `None` for a type (`fn (`) or a declaration without a body.
fn function_at(code: &str) -> Option<Function> {
    let name: String = code.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return None;
    }
    let mut depth = 0;
    let mut brackets = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if depth == 0 && brackets == 0 => return None,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(Function { name, lines: code[..at].lines().count() });
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_with_their_lengths() {
        let text = "
            trait T { fn declared(&self, a: [u8; 4]) -> u8; }
            fn short() { let a = \"}\"; }
            fn long(f: fn(u8) -> u8) -> Vec<[u8; 2]>
            {
                if f(1) > 0 { short(); }
            }
        ";
        let found = functions(&Source::new("a.rs".into(), text.into()));
        let function = |name: &str, lines| Function { name: name.into(), lines };
        assert_eq!(found, [function("short", 1), function("long", 4)]);
    }
}
