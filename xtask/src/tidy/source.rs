//! Separates a Rust source into code and comments, line by line.
//!
//! Invariants: what stands in a string or character literal is in neither; line numbers are kept.

/// One line of a source.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its code; literals are emptied.
    pub code: String,
    /// Its comments, with their slashes.
    pub comment: String,
}

impl Line {
    /// Whether its comment is documentation.
    pub fn is_doc(&self) -> bool {
        self.comment.starts_with("///") || self.comment.starts_with("//!")
    }
}

enum State {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

/// The lines of a source.
pub fn lines(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut lines = Vec::new();
    let mut line = Line::default();
    let mut state = State::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let mut step = 1;
        if c == '\n' {
            lines.push(std::mem::take(&mut line));
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            i += 1;
            continue;
        }
        match state {
            State::Code => match (c, at(i + 1)) {
                ('/', '/') => {
                    state = State::LineComment;
                    line.comment.push(c);
                }
                ('/', '*') => {
                    state = State::BlockComment(1);
                    line.comment.push_str("/*");
                    step = 2;
                }
                ('"', _) => {
                    state = State::Text;
                    line.code.push(c);
                }
                ('r', '"' | '#') if !continues_word(&line.code) => {
                    let hashes = (1..).take_while(|n| at(i + n) == '#').count();
                    if at(i + 1 + hashes) == '"' {
                        state = State::RawText(hashes);
                        line.code.push('"');
                        step = hashes + 2;
                    } else {
                        line.code.push(c);
                    }
                }
                ('\'', '\\') => {
                    let end = (i + 3..chars.len()).find(|end| at(*end) == '\'').unwrap_or(i);
                    line.code.push_str("''");
                    step = end - i + 1;
                }
                ('\'', _) if at(i + 2) == '\'' => {
                    line.code.push_str("''");
                    step = 3;
                }
                _ => line.code.push(c),
            },
            State::LineComment => line.comment.push(c),
            State::BlockComment(depth) => match (c, at(i + 1)) {
                ('*', '/') => {
                    line.comment.push_str("*/");
                    state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                    step = 2;
                }
                ('/', '*') => {
                    state = State::BlockComment(depth + 1);
                    step = 2;
                }
                _ => line.comment.push(c),
            },
            State::Text => match c {
                // The escaped character is passed over unless it ends the line.
                '\\' if at(i + 1) != '\n' => step = 2,
                '"' => {
                    state = State::Code;
                    line.code.push(c);
                }
                _ => {}
            },
            State::RawText(hashes) => {
                if c == '"' && (1..=hashes).all(|n| at(i + n) == '#') {
                    state = State::Code;
                    line.code.push(c);
                    step = hashes + 1;
                }
            }
        }
        i += step;
    }
    if line != Line::default() {
        lines.push(line);
    }
    lines
}

/// Whether an `r` after this code belongs to a word: `br"…"` and `cr"…"` are literals, `for"` cannot be.
fn continues_word(code: &str) -> bool {
    let word: String = code.chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    !matches!(word.as_str(), "" | "b" | "c")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (Vec<String>, Vec<String>) {
        lines(text).into_iter().map(|line| (line.code, line.comment)).unzip()
    }

    #[test]
    fn code_and_comments_are_separated() {
        let (code, comments) = split("let a = 1; // one\n/* b\n c */ let d = 2;\n");
        assert_eq!(code, ["let a = 1; ", "", " let d = 2;"]);
        assert_eq!(comments, ["// one", "/* b", " c */"]);
    }

    #[test]
    fn literals_are_emptied() {
        for (text, expected) in [
            (r#"f("// no comment", x)"#, r#"f("", x)"#),
            (r#"f("a \" b // c", x)"#, r#"f("", x)"#),
            ("f(r#\"a \" // b\"#, x)", r#"f("", x)"#),
            ("f(br\"a // b\", x)", r#"f(b"", x)"#),
            ("f('\"', x)", "f('', x)"),
            (r"f('\'', x)", "f('', x)"),
            (r"f('\\', x)", "f('', x)"),
            ("f::<'a>(x)", "f::<'a>(x)"),
            ("r#type + var", "r#type + var"),
        ] {
            assert_eq!(split(text).0, [expected], "{text}");
            assert_eq!(split(text).1, [""], "{text}");
        }
    }

    #[test]
    fn literals_over_several_lines_keep_the_line_numbers() {
        let (code, _) = split("let a = \"x\\\n  // y\n z\"; end\nlet b = 1;\n");
        assert_eq!(code, ["let a = \"", "", "\"; end", "let b = 1;"]);
    }

    #[test]
    fn block_comments_nest() {
        let (code, _) = split("a /* b /* c */ d */ e");
        assert_eq!(code, ["a  e"]);
    }

    #[test]
    fn only_documentation_is_documentation() {
        let docs: Vec<bool> = lines("//! a\n/// b\n// c\nd // e\n").iter().map(Line::is_doc).collect();
        assert_eq!(docs, [true, true, false, false]);
    }
}
