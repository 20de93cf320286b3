//! Editing: a text of a file is replaced by another.

use memchr::memmem::Finder;

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
    /// The file would be larger than what is edited.
    #[error("{path} would have {size} bytes, and at most {MAX_EDIT} are edited")]
    Outgrown {
        /// Which.
        path: String,
        /// Its size then.
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
        let finder = Finder::new(old);
        let count = finder.find_iter(&content).count();
        match (count, which) {
            (0, _) => return Err(EditError::Absent { path: path.to_owned() }),
            (2.., Occurrences::One) => return Err(EditError::Ambiguous { path: path.to_owned(), count }),
            (_, _) => {}
        }
        // Many short texts that become long ones are more than there is memory.
        let size = content.len() - count * old.len() + count.saturating_mul(new.len());
        if size as u64 > MAX_EDIT {
            return Err(EditError::Outgrown { path: path.to_owned(), size: size as u64 });
        }
        let edited = replace(&content, &finder, new.as_bytes(), size);
        let options = WriteOptions { path: path.to_owned(), ..WriteOptions::default() };
        let mut writing = self.write(options).await.map_err(EditError::File)?;
        writing.push(edited.into()).await.map_err(EditError::File)?;
        Ok((count, writing.finish().await.map_err(EditError::File)?))
    }
}

/// The content with all occurrences replaced, from the left and without overlaps; it has so many bytes then.
fn replace(content: &[u8], old: &Finder<'_>, new: &[u8], size: usize) -> Vec<u8> {
    let mut edited = Vec::with_capacity(size);
    let mut from = 0;
    for place in old.find_iter(content) {
        edited.extend_from_slice(&content[from..place]);
        edited.extend_from_slice(new);
        from = place + old.needle().len();
    }
    edited.extend_from_slice(&content[from..]);
    edited
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_are_replaced_from_the_left_and_do_not_overlap() {
        let cases = [("aaa", "aa", "b", "ba"), ("a.a.a", "a", "xy", "xy.xy.xy"), ("abc", "z", "y", "abc")];
        for (content, old, new, expected) in cases {
            let edited = replace(content.as_bytes(), &Finder::new(old), new.as_bytes(), expected.len());
            assert_eq!(edited, expected.as_bytes());
        }
    }
}
