//! What a program needs beside itself: the interpreter that its ELF header names, and the libraries that this finds.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Program headers that are looked at; a program has a dozen.
const MAX_HEADERS: u16 = 64;

/// Longest path of an interpreter, in bytes (PATH_MAX).
const MAX_PATH: u64 = 4096;

/// The interpreter of a 64-bit little-endian program; `None`: it needs none.
///
/// # Errors
/// It cannot be read, or is no such program.
pub fn interpreter(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut file = File::open(path)?;
    let mut header = [0; 64];
    file.read_exact(&mut header)?;
    // EI_CLASS 64 bits, EI_DATA little-endian (elf(5)).
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no 64-bit ELF program"));
    }
    let (offset, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    for index in 0..count.min(MAX_HEADERS) {
        const PT_INTERP: u32 = 3;
        let mut entry = [0; 56];
        file.seek(SeekFrom::Start(offset.saturating_add(u64::from(index) * u64::from(size))))?;
        file.read_exact(&mut entry)?;
        if u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) == PT_INTERP {
            file.seek(SeekFrom::Start(u64_at(&entry, 8)))?;
            let mut name = Vec::new();
            file.take(u64_at(&entry, 32).min(MAX_PATH)).read_to_end(&mut name)?;
            name.pop();
            let name = String::from_utf8(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            return Ok(Some(PathBuf::from(name)));
        }
    }
    Ok(None)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The libraries in what the interpreter's `--list` prints, one a line: `name => /path (address)`, or `/path (address)`.
#[must_use]
pub fn libraries(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let found = line.split_once("=> ").map_or(line, |(_, found)| found).trim();
        let path = found.rsplit_once(" (").map_or(found, |(path, _)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    listed.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_interpreter() {
        let own = interpreter(Path::new("/proc/self/exe")).unwrap().unwrap();
        assert!(own.is_absolute() && own.exists(), "{own:?}");
        assert!(interpreter(Path::new("/etc/passwd")).is_err());
    }

    #[test]
    fn libraries_are_read_off_a_listing() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(listed), paths.map(PathBuf::from));
    }
}
