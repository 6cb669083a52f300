//! A Rust file as the rules see it: with comments and strings blanked, and with its tests blanked.
//!
//! Not a parser: enough of the language's surface to know what is code. Line numbers stay true.

/// One file.
pub struct Source {
    /// Relative to the root of the repository.
    pub path: String,
    /// As it stands on the disk.
    pub text: String,
    /// With comments and the content of strings and characters replaced by spaces.
    pub code: String,
    /// The same with everything under `#[cfg(test)]` replaced as well; nothing is left of a file
    /// that is a test.
    pub product: String,
    /// Whether all of it is compiled for tests only.
    pub is_test: bool,
}

/// What stands before an item that is compiled for tests only.
const TEST_MARK: &str = "#[cfg(test)]";

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank_prose(text);
        let is_test = is_test_file(path);
        let product = if is_test { blank(&code) } else { blank_tests(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, product, is_test }
    }

    /// The files that this one declares as modules for tests only, as paths: `harness.rs` beside a
    /// `mod.rs` that says `#[cfg(test)] mod harness;`.
    pub fn test_modules(&self) -> Vec<String> {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let declared = self.code.split(TEST_MARK).skip(1).filter_map(|rest| {
            let name = rest.trim_start().strip_prefix("mod ")?.split_once(';')?.0;
            name.bytes().all(is_word).then(|| format!("{folder}/{name}.rs"))
        });
        declared.collect()
    }

    /// The same file, known to be compiled for tests only.
    pub fn into_test(self) -> Self {
        Self { product: blank(&self.code), is_test: true, ..self }
    }

    /// The folder under `src/` that this file belongs to; `bin` and `examples` count as folders,
    /// the crate root as none.
    pub fn folder(&self) -> Option<&str> {
        let (first, rest) = self.path.split_once('/')?;
        match first {
            "src" => rest.split_once('/').map(|(folder, _)| folder),
            other => Some(other),
        }
    }
}

/// Whether a file is for tests only by its name.
fn is_test_file(path: &str) -> bool {
    path.ends_with("_test.rs") || path.starts_with("tests/") || path.starts_with("benches/")
}

/// The line, from 1, of a position.
pub fn line_of(text: &str, position: usize) -> usize {
    text[..position].matches('\n').count() + 1
}

/// Whether the byte can be part of an identifier.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The positions where a word stands, not as a part of a longer one on the sides where the word
/// itself begins or ends with a letter.
pub fn word_positions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    let opens = is_word(word.as_bytes()[0]);
    let closes = is_word(word.as_bytes()[word.len() - 1]);
    code.match_indices(word).map(|(start, _)| start).filter(move |&start| {
        let end = start + word.len();
        let before = start.checked_sub(1).is_some_and(|at| is_word(bytes[at]));
        let after = bytes.get(end).is_some_and(|&byte| is_word(byte));
        !(opens && before || closes && after)
    })
}

fn blank(code: &str) -> String {
    code.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Replaces comments, and what stands in strings and characters, by spaces: one for each character.
fn blank_prose(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = prose_end(&chars, at);
        if end == at {
            code.push(if chars[at].is_ascii() { chars[at] } else { ' ' });
            at += 1;
        } else {
            let blanked = chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' });
            code.extend(blanked);
            at = end;
        }
    }
    code
}

/// Where the comment, string or character that begins at `at` ends; `at` itself when none does.
fn prose_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next == Some('/') => line_end(chars, at),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => string_end(chars, at),
        '\'' => character_end(chars, at),
        'r' if !inside_word => raw_string_end(chars, at + 1).unwrap_or(at),
        'b' if !inside_word && next == Some('r') => raw_string_end(chars, at + 2).unwrap_or(at),
        _ => at,
    }
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |length| at + length)
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '"' => return at + 1,
            '\\' => at += 2,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A lifetime has no closing quote after one character.
fn character_end(chars: &[char], start: usize) -> usize {
    match chars.get(start + 1) {
        Some('\\') => {
            let length = chars[start + 3..].iter().position(|&c| c == '\'');
            length.map_or(start, |length| start + 3 + length + 1)
        }
        Some(_) if chars.get(start + 2) == Some(&'\'') => start + 3,
        _ => start,
    }
}

fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|&&c| c == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let mut at = start + hashes + 1;
    while at < chars.len() {
        let closing = chars[at..].iter().skip(1).take(hashes).filter(|&&c| c == '#').count();
        if chars[at] == '"' && closing == hashes {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
    Some(chars.len())
}

/// Replaces every item under `#[cfg(test)]`: up to its semicolon, or the end of its block.
fn blank_tests(code: &str) -> String {
    let mut rest = code;
    let mut product = String::with_capacity(code.len());
    while let Some(start) = rest.find(TEST_MARK) {
        let end = start + item_length(&rest[start..]);
        product.push_str(&rest[..start]);
        product.push_str(&blank(&rest[start..end]));
        rest = &rest[end..];
    }
    product + rest
}

fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::{Source, word_positions};

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let text = concat!(
            "let a = \"crate::b \\\" // no\"; // crate::c\n",
            "let b = r#\"crate::\"d\"#; /* crate::e /* f */\n crate::g */ let c = '\"';\n",
            "fn g<'a>(x: &'a str) -> char { '\\'' }\n",
            "let d = b\"crate::h\"; let e = br\"crate::i\"; let bar = 1;\n",
        );
        let source = Source::new("src/x/y.rs", text);
        assert!(!source.code.contains("crate::"), "left in: {}", source.code);
        assert!(source.code.contains("fn g<'a>(x: &'a str) -> char {"), "cut: {}", source.code);
        assert!(source.code.contains("let bar = 1;"), "cut: {}", source.code);
        assert_eq!(source.code.matches('\n').count(), text.matches('\n').count());
    }

    #[test]
    fn tests_are_no_product() {
        let text = concat!(
            "fn a() {}\n#[cfg(test)]\nmod b;\n",
            "fn c() {}\n#[cfg(test)]\nmod d { fn e() {} }\nfn f() {}",
        );
        let source = Source::new("src/x/y.rs", text);
        let words: Vec<&str> = source.product.split_whitespace().collect();
        assert_eq!(words, ["fn", "a()", "{}", "fn", "c()", "{}", "fn", "f()", "{}"]);
        assert_eq!(Source::new("src/x/y_test.rs", text).product.trim(), "");
        assert_eq!(Source::new("tests/sim/main.rs", text).product.trim(), "");
    }

    #[test]
    fn modules_for_tests_are_known_by_their_declaration() {
        let text = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod c {}\nmod d;\n";
        assert_eq!(Source::new("src/x/mod.rs", text).test_modules(), ["src/x/b.rs"]);
        let source = Source::new("src/x/b.rs", "fn a() {}").into_test();
        assert!(source.is_test && source.product.trim().is_empty());
    }

    #[test]
    fn folders_are_known_by_their_path() {
        let folder = |path| Source::new(path, "").folder().map(str::to_owned);
        assert_eq!(folder("src/watch/mod.rs").as_deref(), Some("watch"));
        assert_eq!(folder("src/wire/deep/x.rs").as_deref(), Some("wire"));
        assert_eq!(folder("src/lib.rs"), None);
        assert_eq!(folder("examples/a.rs").as_deref(), Some("examples"));
    }

    #[test]
    fn words_are_whole() {
        let found: Vec<usize> = word_positions("f64 xf64 f640 (f64)", "f64").collect();
        assert_eq!(found, [0, 15]);
        assert_eq!(word_positions("rand::x brand::y", "rand::").count(), 1);
        assert_eq!(word_positions("a.unwrap() b.unwrap_or()", ".unwrap()").count(), 1);
    }
}
