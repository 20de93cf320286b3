//! What a caller asks for, as text and as a type.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci_client::Reference;
use serde::{Deserialize, Serialize};

/// Longest reference, in bytes: PATH_MAX, and as much again for a name.
const MAX_BYTES: usize = 8192;

/// What a caller asks for. As text: `host`, `dir:/path`, `tar:/path`, `archive:/path[:name]`, `docker://name[:tag]`, or
/// `name[:tag]` alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageRef {
    /// The node's own /usr and friends.
    Host,
    /// A directory of the node.
    Dir(PathBuf),
    /// A root file system as a tar: plain, gzip or zstd.
    Tar(PathBuf),
    /// A `docker save` or OCI archive, and the name of the image in it if it holds several. The path has no colon.
    Archive(PathBuf, Option<String>),
    /// A registry reference, without `docker://`.
    Registry(String),
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// There is nothing.
    #[error("empty")]
    Empty,
    /// It is too long for any path or name.
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It holds a NUL, which no path or name can.
    #[error("holds a NUL byte")]
    Nul,
    /// After the scheme comes no absolute path.
    #[error("\"{scheme}:\" is followed by an absolute path")]
    NotAbsolute {
        /// "dir", "tar" or "archive".
        scheme: &'static str,
    },
    /// `archive:/path:` without a name.
    #[error("the name of the image in the archive is empty")]
    EmptyName,
    /// Neither of the schemes, nor what a registry could know.
    #[error("neither host, dir:/path, tar:/path, archive:/path, nor a registry reference: {reason}")]
    NotAReference {
        /// What the parser of registry references says.
        reason: String,
    },
}

impl TryFrom<String> for ImageRef {
    type Error = ImageRefError;

    fn try_from(text: String) -> Result<Self, ImageRefError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        match text {
            "" => return Err(ImageRefError::Empty),
            _ if text.len() > MAX_BYTES => return Err(ImageRefError::TooLong),
            _ if text.contains('\0') => return Err(ImageRefError::Nul),
            "host" => return Ok(Self::Host),
            _ => {}
        }
        if let Some(path) = text.strip_prefix("dir:") {
            return Ok(Self::Dir(absolute("dir", path)?));
        }
        if let Some(path) = text.strip_prefix("tar:") {
            return Ok(Self::Tar(absolute("tar", path)?));
        }
        if let Some(rest) = text.strip_prefix("archive:") {
            return match rest.split_once(':') {
                Some((_, "")) => Err(ImageRefError::EmptyName),
                Some((path, name)) => Ok(Self::Archive(absolute("archive", path)?, Some(name.to_owned()))),
                None => Ok(Self::Archive(absolute("archive", rest)?, None)),
            };
        }
        let name = text.strip_prefix("docker://").unwrap_or(text);
        match Reference::from_str(name) {
            Ok(_) => Ok(Self::Registry(name.to_owned())),
            Err(error) => Err(ImageRefError::NotAReference { reason: error.to_string() }),
        }
    }
}

fn absolute(scheme: &'static str, path: &str) -> Result<PathBuf, ImageRefError> {
    if path.starts_with('/') { Ok(PathBuf::from(path)) } else { Err(ImageRefError::NotAbsolute { scheme }) }
}

/// The text that reads back as the same reference. A registry reference always gets its `docker://`: there may well be a
/// repository called "host".
impl fmt::Display for ImageRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => formatter.write_str("host"),
            Self::Dir(path) => write!(formatter, "dir:{}", path.display()),
            Self::Tar(path) => write!(formatter, "tar:{}", path.display()),
            Self::Archive(path, None) => write!(formatter, "archive:{}", path.display()),
            Self::Archive(path, Some(name)) => write!(formatter, "archive:{}:{name}", path.display()),
            Self::Registry(name) => write!(formatter, "docker://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ImageRef, ImageRefError> {
        text.parse()
    }

    #[test]
    fn each_scheme_reads_as_its_kind() {
        assert_eq!(parse("host"), Ok(ImageRef::Host));
        assert_eq!(parse("dir:/srv/a:b"), Ok(ImageRef::Dir("/srv/a:b".into())));
        assert_eq!(parse("tar:/a.tar.gz"), Ok(ImageRef::Tar("/a.tar.gz".into())));
        assert_eq!(parse("archive:/a.tar"), Ok(ImageRef::Archive("/a.tar".into(), None)));
        let named = ImageRef::Archive("/a.tar".into(), Some("alpine:3.20".into()));
        assert_eq!(parse("archive:/a.tar:alpine:3.20"), Ok(named));
        for name in [
            "alpine",
            "alpine:3.20",
            "localhost:5000/a/b:c",
            "registry.example/o/i@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(parse(name), Ok(ImageRef::Registry(name.into())));
            assert_eq!(parse(&format!("docker://{name}")), Ok(ImageRef::Registry(name.into())));
        }
        assert_eq!(parse("docker://host"), Ok(ImageRef::Registry("host".into())));
    }

    #[test]
    fn the_error_says_what_is_wrong() {
        assert_eq!(parse(""), Err(ImageRefError::Empty));
        assert_eq!(parse("dir:"), Err(ImageRefError::NotAbsolute { scheme: "dir" }));
        assert_eq!(parse("tar:a.tar"), Err(ImageRefError::NotAbsolute { scheme: "tar" }));
        assert_eq!(parse("archive:../a.tar:x"), Err(ImageRefError::NotAbsolute { scheme: "archive" }));
        assert_eq!(parse("archive:/a.tar:"), Err(ImageRefError::EmptyName));
        assert_eq!(parse("dir:/a\0b"), Err(ImageRefError::Nul));
        assert_eq!(parse(&format!("dir:/{}", "a".repeat(MAX_BYTES))), Err(ImageRefError::TooLong));
        for text in ["a b", "Alpine", "file:///a", "docker://", "alpine@sha256:12", "alpine:", "/a/b"] {
            assert!(matches!(parse(text), Err(ImageRefError::NotAReference { .. })), "{text}");
        }
    }

    fn reference() -> impl Strategy<Value = ImageRef> {
        let path = || "(/[a-zA-Z0-9. _é-]{1,12}){1,4}".prop_map(PathBuf::from);
        prop_oneof![
            Just(ImageRef::Host),
            "/[ -~]{0,20}".prop_map(|path| ImageRef::Dir(path.into())),
            path().prop_map(ImageRef::Tar),
            (path(), proptest::option::of("[a-z:./@]{1,20}")).prop_map(|(path, name)| ImageRef::Archive(path, name)),
            "([a-z0-9]{1,8}\\.[a-z]{2,3}(:[0-9]{1,4})?/)?[a-z0-9]{1,8}(/[a-z0-9]{1,8})?(:[a-z0-9.]{0,1}[a-z0-9]{1,6})?"
                .prop_filter("a tag does not begin with a dot", |text| !text.contains(":."))
                .prop_map(ImageRef::Registry),
        ]
    }

    proptest! {
        #[test]
        fn a_reference_reads_back_from_its_text(image in reference()) {
            prop_assert_eq!(parse(&image.to_string()), Ok(image));
        }

        #[test]
        fn whatever_is_accepted_reads_back(text in "(host|dir:|tar:|archive:|docker://)?[a-z0-9:/@. \\PC]{0,40}") {
            if let Ok(image) = parse(&text) {
                prop_assert_eq!(parse(&image.to_string()), Ok(image));
            }
        }
    }
}
