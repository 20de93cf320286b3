//! As much JSON as the script's brain speaks: flat objects of strings. The guest is small, and a JSON library is not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// An object of strings as JSON.
pub fn object(fields: &[(&str, &str)]) -> String {
    let mut text = String::from("{");
    for (place, (key, value)) in fields.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        push(&mut text, key);
        text.push(':');
        push(&mut text, value);
    }
    text.push('}');
    text
}

fn push(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            c if u32::from(c) < 0x20 => {
                write!(text, "\\u{:04x}", u32::from(c)).expect("a string takes all that is written to it");
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// The fields of a flat object of strings; `None` if it is none.
pub fn parse(text: &str) -> Option<BTreeMap<String, String>> {
    let mut chars = text.trim().chars().peekable();
    let mut fields = BTreeMap::new();
    expect(&mut chars, '{')?;
    if chars.next_if_eq(&'}').is_none() {
        loop {
            let key = string(&mut chars)?;
            expect(&mut chars, ':')?;
            fields.insert(key, string(&mut chars)?);
            match chars.next()? {
                ',' => {}
                '}' => break,
                _ => return None,
            }
        }
    }
    chars.next().is_none().then_some(fields)
}

fn expect(chars: &mut Peekable<Chars<'_>>, wanted: char) -> Option<()> {
    chars.next_if_eq(&wanted).map(drop)
}

fn string(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    expect(chars, '"')?;
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.push(escaped(chars)?),
            c => text.push(c),
        }
    }
}

fn escaped(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    Some(match chars.next()? {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'u' => {
            let first = unit(chars)?;
            // Beyond the first 65,536 characters, one is two of these (RFC 8259, section 7).
            if (0xd800..0xdc00).contains(&first) {
                expect(chars, '\\')?;
                expect(chars, 'u')?;
                let second = unit(chars)?;
                let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                char::from_u32(0x10000 + ((first - 0xd800) << 10) + low)?
            } else {
                char::from_u32(first)?
            }
        }
        c @ ('"' | '\\' | '/') => c,
        _ => return None,
    })
}

fn unit(chars: &mut Peekable<Chars<'_>>) -> Option<u32> {
    let digits: String = chars.by_ref().take(4).collect();
    if digits.len() == 4 { u32::from_str_radix(&digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for value in ["", "plain", "\"quoted\" \\ and\nlines\t\u{1}", "grün 🦀"] {
            let text = object(&[("a", value), ("b", "2")]);
            assert_eq!(parse(&text).unwrap()["a"], value, "{text}");
        }
        assert_eq!(parse("{}"), Some(BTreeMap::new()));
    }

    #[test]
    fn escapes_of_other_writers_are_read() {
        assert_eq!(parse(r#"{"a":"\u00fc\ud83e\udd80\/\r"}"#).unwrap()["a"], "ü🦀/\r");
    }

    #[test]
    fn what_is_no_flat_object_of_strings_is_refused() {
        for text in ["", "{", "{\"a\"}", "{\"a\":1}", "{\"a\":\"b\"", "{\"a\":\"b\"}x", "{\"a\":\"\\ud800\"}", "[]"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
