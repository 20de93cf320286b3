//! Reads TOML key by key and collects every fault on the way, instead of stopping at the first.

use std::ops::RangeInclusive;

use toml_span::Span;
use toml_span::value::{Table, Value, ValueInner};

use super::fault::{Fault, Lines};

/// Faults of syntax after which no more are looked for: whoever sees so many has given us the wrong file.
const MAX_SYNTAX_FAULTS: usize = 20;

/// How much of a wrong value a message shows, in characters.
const MAX_SHOWN: usize = 40;

/// Letters that an unknown key may differ in from a known one that is suggested for it.
const MAX_TYPOS: usize = 3;

/// Reads a document with `read`, which takes the keys it knows from the root section.
///
/// # Errors
/// Every fault of the document, in its order; those without a place come first.
pub(super) fn read<T>(text: &str, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> Result<T, Vec<Fault>> {
    let lines = Lines::new(text);
    let mut faults = Vec::new();
    let text = blank_faulty_lines(text, &lines, &mut faults);
    let table = toml_span::parse(&text).ok().map(|mut root| table(&mut root)).unwrap_or_default();
    let whole = faults.is_empty();
    let mut root = Section {
        path: String::new(),
        table,
        known: Vec::new(),
        whole,
        sound: whole,
        faults: &mut faults,
        lines: &lines,
    };
    let value = read(&mut root);
    root.finish();
    faults.sort_by_key(|fault| fault.place);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

fn table<'de>(value: &mut Value<'de>) -> Table<'de> {
    match value.take() {
        ValueInner::Table(table) => table,
        _ => Table::new(),
    }
}

/// The parser stops at its first fault. Where a faulty line is plainly one assignment, it is blanked and the parser asked
/// again, so that one typo does not hide the other faults; elsewhere what follows would be guesswork, and the rest is
/// left out. What is returned parses, and each offset in it is the same as in `text`.
fn blank_faulty_lines(text: &str, lines: &Lines<'_>, faults: &mut Vec<Fault>) -> String {
    let mut text = text.to_owned();
    while let Err(error) = toml_span::parse(&text) {
        let line = lines.range(error.span.start.min(text.len()));
        let recoverable = is_assignment(&text[line.clone()]) && toml_span::parse(&text[..line.start]).is_ok();
        // After a line was blanked, a fault elsewhere than at an assignment may be but its consequence.
        if recoverable || faults.is_empty() {
            let place = Some(lines.place(error.span.start));
            faults.push(Fault { place, key: String::new(), message: error.to_string() });
        }
        if !recoverable || faults.len() == MAX_SYNTAX_FAULTS {
            return String::new();
        }
        let blank = " ".repeat(line.len());
        text.replace_range(line, &blank);
    }
    text
}

fn is_assignment(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim();
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    })
}

/// A table of the document whose keys are taken one by one.
pub(super) struct Section<'a, 'de> {
    /// The keys that lead here, each followed by a dot.
    path: String,
    /// What has not been taken.
    table: Table<'de>,
    /// The keys that were asked for, and where their values stand.
    known: Vec<(&'static str, Option<Span>)>,
    /// The whole document was read, so that what is not there was not written.
    whole: bool,
    /// And nothing of this section was found faulty, so that its values can be compared with each other.
    sound: bool,
    faults: &'a mut Vec<Fault>,
    lines: &'a Lines<'a>,
}

impl<'de> Section<'_, 'de> {
    /// Reads the table `key`; a missing one is as good as an empty one.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 'de>) -> T) -> T {
        let mut value = self.remove(key).unwrap_or_else(|| Value::new(ValueInner::Table(Table::new())));
        if value.as_table().is_none() {
            self.report(key, Some(value.span), unexpected("a table", &value));
        }
        let mut child = Section {
            path: format!("{}{key}.", self.path),
            table: table(&mut value),
            known: Vec::new(),
            whole: self.whole,
            sound: self.whole,
            faults: self.faults,
            lines: self.lines,
        };
        let value = read(&mut child);
        child.finish();
        value
    }

    /// Reads each table of the array `key`; a missing one is as good as an empty one.
    pub(super) fn sections<T>(&mut self, key: &'static str, read: impl Fn(&mut Section<'_, 'de>) -> T) -> Vec<T> {
        let Some(mut value) = self.remove(key) else { return Vec::new() };
        let span = value.span;
        let ValueInner::Array(items) = value.take() else {
            self.report(key, Some(span), format!("expected tables, each headed [[{}{key}]]", self.path));
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(items.len());
        for (index, mut item) in items.into_iter().enumerate() {
            if item.as_table().is_none() {
                self.report(key, Some(item.span), unexpected("a table", &item));
                continue;
            }
            let mut child = Section {
                path: format!("{}{key}[{index}].", self.path),
                table: table(&mut item),
                known: Vec::new(),
                whole: self.whole,
                sound: self.whole,
                faults: self.faults,
                lines: self.lines,
            };
            sections.push(read(&mut child));
            child.finish();
        }
        sections
    }

    /// Takes a key; `None` if it is not there or `read` refuses its value. `read` says what it expected.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'de>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.remove(key)?;
        read(&value).map_err(|expected| self.report(key, Some(value.span), unexpected(&expected, &value))).ok()
    }

    /// Takes an array and judges each item by itself; `None` if it is not there or anything in it is wrong.
    pub(super) fn take_list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Value<'de>) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.remove(key)?;
        let Some(items) = value.as_array() else {
            self.report(key, Some(value.span), unexpected("an array", &value));
            return None;
        };
        let mut taken = Vec::with_capacity(items.len());
        for item in items {
            match read(item) {
                Ok(item) => taken.push(item),
                Err(expected) => self.report(key, Some(item.span), unexpected(&expected, item)),
            }
        }
        (taken.len() == items.len()).then_some(taken)
    }

    /// Reports what is wrong with `key`, if anything is. For what several values must be together: of a section that is
    /// faulty already it says nothing, because a default may stand in for the value that was meant.
    pub(super) fn reject(&mut self, key: &'static str, fault: Option<String>) {
        if let (Some(message), true) = (fault, self.sound) {
            let span = self.known.iter().find(|(known, _)| *known == key).and_then(|(_, span)| *span);
            self.report(key, span, message);
        }
    }

    fn remove(&mut self, key: &'static str) -> Option<Value<'de>> {
        let value = self.table.remove(key);
        self.known.push((key, value.as_ref().map(|value| value.span)));
        value
    }

    fn report(&mut self, key: &str, span: Option<Span>, message: String) {
        self.sound = false;
        let place = span.map(|span| self.lines.place(span.start));
        self.faults.push(Fault { place, key: format!("{}{}", self.path, shown_key(key)), message });
    }

    /// What is left is unknown.
    fn finish(mut self) {
        for key in std::mem::take(&mut self.table).into_keys() {
            let known = self.known.iter().map(|(known, _)| *known);
            let message = match nearest(&key.name, known.clone()) {
                Some(near) => format!("unknown key; did you mean \"{near}\"?"),
                None => format!("unknown key; expected one of {}", known.collect::<Vec<_>>().join(", ")),
            };
            self.report(&key.name, Some(key.span), message);
        }
    }
}

fn shown_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { key.to_owned() } else { format!("{key:?}") }
}

fn unexpected(expected: &str, value: &Value<'_>) -> String {
    let found = match value.as_ref() {
        ValueInner::String(text) if text.chars().count() > MAX_SHOWN => {
            format!("{:?}..", text.chars().take(MAX_SHOWN).collect::<String>())
        }
        ValueInner::String(text) => format!("{text:?}"),
        ValueInner::Integer(number) => number.to_string(),
        ValueInner::Float(number) => format!("{number:?}"),
        ValueInner::Boolean(truth) => truth.to_string(),
        ValueInner::Array(_) => "an array".to_owned(),
        ValueInner::Table(_) => "a table".to_owned(),
    };
    format!("expected {expected}, found {found}")
}

/// The known key that looks most like `word`, if any looks like it.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A long word costs time and is near to nothing.
    let near = |known: &&str| word.len() <= known.len() + MAX_TYPOS;
    let (typos, key) = known.filter(near).map(|known| (distance(word, known), known)).min()?;
    (typos <= MAX_TYPOS && typos < key.len()).then_some(key)
}

/// Levenshtein's distance, in bytes: letters to insert, remove or replace.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// Text that `parse` makes something of; `parse` says what it expected.
pub(super) fn text<T>(parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&Value<'_>) -> Result<T, String> {
    move |value| parse(value.as_str().ok_or("text")?)
}

/// A whole number within bounds.
pub(super) fn integer<T>(bounds: RangeInclusive<T>) -> impl Fn(&Value<'_>) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    move |value| {
        let number = value.as_integer().and_then(|number| T::try_from(number).ok());
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| format!("a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// A number, whole or not, within bounds.
pub(super) fn number(bounds: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Result<f64, String> {
    move |value| {
        // Numbers beyond 2^32 are out of all bounds there are, and below it the conversion is exact.
        let whole = value.as_integer().and_then(|number| u32::try_from(number).ok()).map(f64::from);
        let number = value.as_float().or(whole);
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| format!("a number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy, const N: usize>(
    words: [(&'static str, T); N],
) -> impl Fn(&Value<'_>) -> Result<T, String> {
    move |value| {
        let word = value.as_str();
        let chosen = words.iter().find(|(name, _)| word == Some(name));
        chosen.map(|(_, choice)| *choice).ok_or_else(|| words.map(|(name, _)| format!("\"{name}\"")).join(" or "))
    }
}

/// The word "unlimited", or a bound.
pub(super) fn limit<T>(
    read: impl Fn(&Value<'_>) -> Result<T, String>,
) -> impl Fn(&Value<'_>) -> Result<Option<T>, String> {
    move |value| match value.as_str() {
        Some("unlimited") => Ok(None),
        _ => read(value).map(Some).map_err(|expected| format!("{expected}, or \"unlimited\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(faults: Result<(), Vec<Fault>>) -> Vec<String> {
        faults.unwrap_err().iter().map(Fault::to_string).collect()
    }

    #[test]
    fn all_faults_of_all_sections_come_at_once_and_in_order() {
        let document = "a = true\n[run]\n  b = [1, 'x', 3]\n  c = 11\n[other]\n";
        let faults = read(document, |root| {
            root.section("run", |run| {
                run.take("c", integer(0..=10_u32));
                run.take_list("b", integer(0..=10_u32));
            });
            root.take("a", integer(0..=10_u32));
        });
        assert_eq!(
            shown(faults),
            [
                "1:5: a: expected a whole number from 0 to 10, found true",
                "3:12: run.b: expected a whole number from 0 to 10, found \"x\"",
                "4:7: run.c: expected a whole number from 0 to 10, found 11",
                "5:2: other: unknown key; expected one of run, a",
            ]
        );
    }

    #[test]
    fn an_unknown_key_gets_the_nearest_known_one() {
        let faults = read("time_out = 1\n\"a b\\n\" = 2\n", |root| {
            root.take("timeout", integer(0..=1_u32));
            root.take("retention", integer(0..=1_u32));
        });
        assert_eq!(
            shown(faults),
            [
                "1:1: time_out: unknown key; did you mean \"timeout\"?",
                "2:2: \"a b\\n\": unknown key; expected one of timeout, retention",
            ]
        );
    }

    #[test]
    fn faults_of_syntax_do_not_hide_what_follows() {
        let faults = read("a = \nb = 1 2\na = 1\nc = 'x'\nb = 1\nb = 2\n", |root| {
            root.take("a", integer(0..=1_u32));
            root.take("b", integer(0..=1_u32));
            root.take("c", integer(0..=1_u32));
        });
        let shown = shown(faults);
        let lines: Vec<_> = shown.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["1", "2", "4", "6"], "{shown:?}");
    }

    #[test]
    fn an_array_that_never_ends_is_one_fault() {
        let faults = read("a = [1,\nb = 2\nc = 3\n", |root| {
            root.take("a", integer(0..=1_u32));
        });
        assert_eq!(shown(faults).len(), 1);
    }

    #[test]
    fn values_are_compared_only_if_all_of_them_are_sound() {
        let compare = |root: &mut Section<'_, '_>| {
            let a = root.take("a", integer(0..=9_u32)).unwrap_or(9);
            let b = root.take("b", integer(0..=9_u32)).unwrap_or(5);
            root.reject("a", (a > b).then(|| format!("expected at most b, which is {b}")));
        };
        assert_eq!(shown(read("a = 6", compare)), ["1:5: a: expected at most b, which is 5"]);
        assert_eq!(shown(read("", compare)), ["a: expected at most b, which is 5"]);
        assert_eq!(shown(read("a = 10", compare)).len(), 1);
        assert_eq!(shown(read("a = = 1", compare)).len(), 1);
    }

    #[test]
    fn a_fault_outside_of_a_section_does_not_keep_its_values_from_being_compared() {
        let faults = read("a = 'x'\n[b]\nc = 1\n", |root| {
            root.take("a", integer(0..=1_u32));
            root.section("b", |b| {
                b.take("c", integer(0..=1_u32));
                b.reject("c", Some("too early".to_owned()));
            });
        });
        assert_eq!(shown(faults).len(), 2);
    }

    #[test]
    fn a_table_is_no_value_and_a_value_is_no_table() {
        let faults = read("[a]\n", |root| {
            root.take("a", integer(0..=1_u32));
        });
        assert_eq!(shown(faults), ["1:1: a: expected a whole number from 0 to 1, found a table"]);
        let faults = read("[[a]]\nb = 1\n", |root| root.section("a", |_| ()));
        assert_eq!(shown(faults), ["1:1: a: expected a table, found an array"]);
    }

    #[test]
    fn not_a_number_is_no_number() {
        for text in ["nan", "inf", "-1", "0.0", "1e300", "9223372036854775807"] {
            let document = format!("a = {text}");
            let faults = read(&document, |root| {
                root.take("a", number(0.01..=64.0));
            });
            assert_eq!(shown(faults).len(), 1, "{text}");
        }
    }

    #[test]
    fn distances_count_letters() {
        assert_eq!(distance("timeout", "timeout"), 0);
        assert_eq!(distance("time_out", "timeout"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("", ["ab", "cd"].into_iter()), None);
    }
}
