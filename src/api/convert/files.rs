//! Paths, ranges and file infos.

use super::{MAX_PATH, page_size, sandbox_id};
use crate::api::proto::{self, ErrorReason};
use crate::api::status::Fault;
use crate::hands::files::{Checksum, FileInfo, FileKind, ListOptions, ReadRange, WriteOptions};
use crate::ids::SandboxId;

/// Most levels of a listing.
const MAX_DEPTH: u32 = 64;
/// Entries of a page of a listing, if not said otherwise, and at most.
const LS_PAGE: (u32, u32) = (1_000, 10_000);

/// A path that is not empty.
///
/// # Errors
/// It is empty, too long or holds NUL.
pub fn path(field: &'static str, path: String) -> Result<String, Fault> {
    let invalid = |message: String| Fault::argument_for(ErrorReason::PathInvalid, field, message);
    match path.as_str() {
        "" => Err(Fault::argument(field, "is missing")),
        path if path.len() > MAX_PATH => Err(invalid(format!("has more than {MAX_PATH} bytes"))),
        path if path.contains('\0') => Err(invalid("holds a NUL".to_owned())),
        _ => Ok(path),
    }
}

/// Where to look; empty is the workspace.
///
/// # Errors
/// It is too long or holds NUL.
pub fn directory(text: String) -> Result<String, Fault> {
    if text.is_empty() { Ok(text) } else { path("path", text) }
}

/// What of a file is to be read.
///
/// # Errors
/// Both bytes and lines are asked for.
pub fn read_range(request: &proto::ReadRequest) -> Result<ReadRange, Fault> {
    let some = |limit: u64| Some(limit).filter(|limit| *limit > 0);
    let by_lines = request.line_offset.is_some() || request.line_limit.is_some();
    if by_lines && (request.offset > 0 || request.limit > 0) {
        return Err(Fault::argument("line_offset", "cannot be set together with offset or limit"));
    }
    Ok(if by_lines {
        ReadRange::Lines { skip: request.line_offset.unwrap_or(0), limit: request.line_limit.and_then(some) }
    } else {
        ReadRange::Bytes { offset: request.offset, limit: some(request.limit) }
    })
}

/// What is to be written where.
///
/// # Errors
/// The first bad field.
pub fn write_options(header: proto::WriteHeader) -> Result<(SandboxId, WriteOptions), Fault> {
    let sandbox = sandbox_id(&header.sandbox_id)?;
    let expected_sha256 = match header.expected_sha256.as_str() {
        "" => None,
        text => Some(
            text.parse::<Checksum>().map_err(|_| Fault::argument("expected_sha256", "is not 64 hexadecimal digits"))?,
        ),
    };
    let options = WriteOptions {
        path: path("path", header.path)?,
        mode: header.mode.map(mode).transpose()?,
        create_parents: header.create_parents,
        append: header.append,
        expected_sha256,
    };
    Ok((sandbox, options))
}

/// Permission bits.
///
/// # Errors
/// There are others.
pub fn mode(mode: u32) -> Result<u32, Fault> {
    if mode <= 0o7777 {
        Ok(mode)
    } else {
        Err(Fault::argument("mode", format!("is {mode:o}, permission bits are 0 to 7777")))
    }
}

/// What is to be listed.
///
/// # Errors
/// The first bad field.
pub fn list_options(request: proto::LsRequest) -> Result<(SandboxId, ListOptions), Fault> {
    let sandbox = sandbox_id(&request.sandbox_id)?;
    let depth = request.depth.unwrap_or(1);
    if depth > MAX_DEPTH {
        return Err(Fault::argument("depth", format!("is {depth}, at most {MAX_DEPTH} is allowed")));
    }
    let path = directory(request.path)?;
    let limit = page_size(request.page_size, LS_PAGE)?;
    Ok((sandbox, ListOptions { path, depth, hidden: request.hidden, limit, page_token: request.page_token }))
}

/// How a file stands.
#[must_use]
pub fn file_info(info: &FileInfo) -> proto::FileInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let name = info.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    proto::FileInfo {
        name: text(name),
        path: text(&info.path),
        r#type: match info.kind {
            FileKind::File => proto::FileType::File,
            FileKind::Directory => proto::FileType::Directory,
            FileKind::Symlink => proto::FileType::Symlink,
            FileKind::Fifo => proto::FileType::Fifo,
            FileKind::Socket => proto::FileType::Socket,
            FileKind::CharDevice => proto::FileType::CharDevice,
            FileKind::BlockDevice => proto::FileType::BlockDevice,
            FileKind::Unknown => proto::FileType::Unspecified,
        }
        .into(),
        size: info.size,
        mode: info.mode,
        mtime: Some(prost_types::Timestamp { seconds: info.mtime, nanos: info.mtime_nanos.cast_signed() }),
        target: text(&info.target),
        uid: info.uid,
        gid: info.gid,
    }
}
