//! Editing: a text of a file is replaced by another.

use super::read::{ReadPart, ReadRange};
use super::write::{WriteOptions, Written};
use super::{FileError, Files};

/// Largest file that is edited, in bytes: it is held in memory.
pub const MAX_EDIT: u64 = 8 << 20;

/// Why a file was not edited. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file could not be read or written.
    #[error("edit the file")]
    File(#[source] FileError),
    /// The file is larger than what is edited.
    #[error("{path} has {size} bytes, and at most {MAX_EDIT} are edited")]
    TooLarge {
        /// Which.
        path: String,
        /// Its size.
        size: u64,
    },
    /// There is nothing to look for, or nothing to be changed.
    #[error("the old text is empty, or the same as the new one")]
    Pointless,
    /// The old text is not there.
    #[error("{path} does not hold the old text")]
    Absent {
        /// The file.
        path: String,
    },
    /// The old text is there more than once, and only one place is meant.
    #[error("{path} holds the old text {count} times: give more of what is around it, or replace all")]
    Ambiguous {
        /// The file.
        path: String,
        /// How often.
        count: usize,
    },
}

/// Which occurrences are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrences {
    /// The only one.
    One,
    /// All.
    All,
}

impl Files {
    /// Replaces a text in a file. The file is replaced as a whole: readers see the old one or the new one. Whoever writes
    /// it at the same time is not noticed.
    ///
    /// # Errors
    /// See [`EditError`].
    pub async fn edit(
        &self,
        path: &str,
        old: &str,
        new: &str,
        which: Occurrences,
    ) -> Result<(usize, Written), EditError> {
        if old.is_empty() || old == new {
            return Err(EditError::Pointless);
        }
        let mut reading = self
            .read(path, ReadRange::Bytes { offset: 0, limit: Some(MAX_EDIT + 1) })
            .await
            .map_err(EditError::File)?;
        if reading.info.size > MAX_EDIT {
            return Err(EditError::TooLarge { path: path.to_owned(), size: reading.info.size });
        }
        let mut content = Vec::new();
        while let Some(part) = reading.next().await.map_err(EditError::File)? {
            if let ReadPart::Data(data) = part {
                content.extend_from_slice(&data);
            }
        }
        let (edited, count) = replace(&content, old.as_bytes(), new.as_bytes());
        match (count, which) {
            (0, _) => return Err(EditError::Absent { path: path.to_owned() }),
            (2.., Occurrences::One) => return Err(EditError::Ambiguous { path: path.to_owned(), count }),
            (_, _) => {}
        }
        let options = WriteOptions { path: path.to_owned(), ..WriteOptions::default() };
        let mut writing = self.write(options).await.map_err(EditError::File)?;
        writing.push(edited.into()).await.map_err(EditError::File)?;
        Ok((count, writing.finish().await.map_err(EditError::File)?))
    }
}

/// The content with all occurrences replaced, from the left and without overlaps, and how many there were.
fn replace(content: &[u8], old: &[u8], new: &[u8]) -> (Vec<u8>, usize) {
    let mut edited = Vec::with_capacity(content.len());
    let (mut rest, mut count) = (content, 0);
    while let Some(place) = rest.windows(old.len()).position(|window| window == old) {
        edited.extend_from_slice(&rest[..place]);
        edited.extend_from_slice(new);
        rest = &rest[place + old.len()..];
        count += 1;
    }
    edited.extend_from_slice(rest);
    (edited, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_are_replaced_from_the_left_and_do_not_overlap() {
        let cases = [("aaa", "aa", "b", "ba", 1), ("a.a.a", "a", "xy", "xy.xy.xy", 3), ("abc", "z", "y", "abc", 0)];
        for (content, old, new, expected, count) in cases {
            let edited = replace(content.as_bytes(), old.as_bytes(), new.as_bytes());
            assert_eq!(edited, (expected.as_bytes().to_vec(), count));
        }
    }
}
