//! The sandbox's users, as its own `/etc/passwd` and `/etc/group` tell of them.
//!
//! Both files belong to the sandbox and may hold anything: they are read up to a bound, and a line that makes no sense is
//! passed over.

use std::fmt;
use std::fs;
use std::sync::OnceLock;

use nix::errno::Errno;

use super::files::root::Root;

/// Most bytes of `/etc/passwd` and of `/etc/group` each. A larger one is refused, not cut: half a line could name another
/// user.
const MAX_FILE: usize = 1 << 20;

/// Most groups a user is given; the kernel takes 65,536.
const MAX_GROUPS: usize = 1024;

/// Longest home directory, in bytes (`PATH_MAX`). A longer one counts as none.
const MAX_HOME: usize = 4096;

/// Who does something in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, `gid` among them, for setgroups(2).
    pub groups: Vec<u32>,
    /// Login name; the number itself if no file has a name for it.
    pub name: Vec<u8>,
    /// Home directory, absolute; "/" if no file tells.
    pub home: Vec<u8>,
}

/// Whether a process of the sandbox may choose its groups. Where the sandbox was made without root it may not, and keeps
/// those that the daemon's user has, which mean nothing inside (user_namespaces(7)).
#[must_use]
pub fn may_set_groups() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| fs::read("/proc/self/setgroups").map_or(true, |answer| answer.trim_ascii() == b"allow"))
}

/// Why there is no such user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserError {
    /// Neither file has this name, or the text is malformed.
    Unknown,
    /// `/etc/passwd` or `/etc/group` is no regular file, is too large, or cannot be read.
    Unreadable(Errno),
}

impl UserError {
    /// The kernel's word, or 0 if there is none.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::Unknown => 0,
            Self::Unreadable(errno) => errno as i32,
        }
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => formatter.write_str("no such user or group"),
            Self::Unreadable(errno) => write!(formatter, "the files of users and groups: {errno}"),
        }
    }
}

impl std::error::Error for UserError {}

/// Looks up a user: name, uid, name:group or uid:gid. Numbers need not be in a file. The empty text is root, whatever the
/// files are like.
///
/// # Errors
/// See [`UserError`].
pub fn lookup(text: &str) -> Result<User, UserError> {
    let root = Root::open().map_err(UserError::Unreadable)?;
    lookup_in(&root, text)
}

/// As [`lookup`], in another root.
pub(super) fn lookup_in(root: &Root, text: &str) -> Result<User, UserError> {
    let read = |path: &[u8]| match root.read(path, MAX_FILE) {
        Ok(content) => Ok(content),
        // A sandbox that has broken its files can still be mended by root.
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Vec::new()),
        Err(_) if text.is_empty() => Ok(Vec::new()),
        Err(errno) => Err(UserError::Unreadable(errno)),
    };
    find(text, &read(b"/etc/passwd")?, &read(b"/etc/group")?)
}

/// Finds a user in the content of the two files.
fn find(text: &str, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None if text.is_empty() => ("0", None),
        None => (text, None),
    };
    let mut user = find_user(user, passwd)?;
    if let Some(wanted) = wanted_group {
        user.gid = find_group(wanted, group)?;
        user.groups = vec![user.gid];
    } else {
        user.groups = groups_of(&user, group);
    }
    Ok(user)
}

fn find_user(text: &str, passwd: &[u8]) -> Result<User, UserError> {
    let number = number(text.as_bytes());
    let wanted = |user: &User| match number {
        Some(uid) => user.uid == uid,
        None => user.name == text.as_bytes(),
    };
    if let Some(user) = lines(passwd).filter_map(passwd_entry).find(wanted) {
        return Ok(user);
    }
    let uid = number.ok_or(UserError::Unknown)?;
    // As docker does it: a number of its own has no group but root's.
    Ok(User { uid, gid: 0, groups: vec![0], name: text.into(), home: b"/".into() })
}

/// `name:password:uid:gid:comment:home:shell`.
fn passwd_entry(line: &[u8]) -> Option<User> {
    let fields: Vec<&[u8]> = line.splitn(8, |byte| *byte == b':').collect();
    let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { return None };
    let (uid, gid) = (number(uid)?, number(gid)?);
    let home = rest.get(1).copied().filter(|home| home.starts_with(b"/") && home.len() <= MAX_HOME).unwrap_or(b"/");
    (!name.is_empty()).then(|| User { uid, gid, groups: Vec::new(), name: name.to_vec(), home: home.to_vec() })
}

fn find_group(text: &str, group: &[u8]) -> Result<u32, UserError> {
    if let Some(gid) = number(text.as_bytes()) {
        return Ok(gid);
    }
    let mut entries = lines(group).filter_map(group_entry);
    entries.find(|(name, ..)| *name == text.as_bytes()).map(|(_, gid, _)| gid).ok_or(UserError::Unknown)
}

/// The groups that list a user, his own first.
fn groups_of(user: &User, group: &[u8]) -> Vec<u32> {
    let lists_user = |members: &[u8]| members.split(|byte| *byte == b',').any(|member| member == user.name);
    let others =
        lines(group).filter_map(group_entry).filter(|(.., members)| lists_user(members)).map(|(_, gid, _)| gid);
    let mut groups = vec![user.gid];
    for gid in others {
        if groups.len() < MAX_GROUPS && !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    groups
}

/// `name:password:gid:members`.
fn group_entry(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let mut fields = line.splitn(4, |byte| *byte == b':');
    let (name, _, gid) = (fields.next()?, fields.next()?, number(fields.next()?)?);
    (!name.is_empty()).then(|| (name, gid, fields.next().unwrap_or_default()))
}

/// Lines without NUL, which no name, home or environment may hold.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split(|byte| *byte == b'\n').filter(|line| !line.contains(&0))
}

/// A user or group id in decimal digits. The largest one means "unchanged" to the kernel, and is none.
fn number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n# comment\nann:x:1000:1001:Ann,,,:/home/ann:/bin/sh\n\
        nohome:x:7:7\nbad:x:-1:0::/:\nbig:x:4294967295:0::/:\nrel:x:8:8::tmp:\n";
    const GROUP: &[u8] = b"root:x:0:\nann:x:1001:\ndisk:x:6:ann,bob\nadm:x:4:bob,ann\nadmx:x:5:annx\ndup:x:6:ann\n";

    fn found(text: &str) -> User {
        find(text, PASSWD, GROUP).unwrap()
    }

    #[test]
    fn a_name_brings_its_ids_groups_and_home() {
        let ann =
            User { uid: 1000, gid: 1001, groups: vec![1001, 6, 4], name: b"ann".into(), home: b"/home/ann".into() };
        assert_eq!(found("ann"), ann);
        assert_eq!(found("1000"), ann);
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        assert_eq!((found("ann:disk").gid, found("ann:disk").groups), (6, vec![6]));
        assert_eq!((found("1000:77").gid, found("1000:77").groups), (77, vec![77]));
    }

    #[test]
    fn numbers_need_no_file() {
        let user = User { uid: 55, gid: 0, groups: vec![0], name: b"55".into(), home: b"/".into() };
        assert_eq!(found("55"), user);
        assert_eq!(find("55", b"", b"").unwrap(), user);
    }

    #[test]
    fn the_empty_text_is_root_even_without_files() {
        assert_eq!((found("").uid, found("").home), (0, b"/root".to_vec()));
        assert_eq!(find("", b"", b"").map(|user| (user.uid, user.gid)), Ok((0, 0)));
    }

    #[test]
    fn lines_that_make_no_sense_are_no_users() {
        for text in ["bob", "bad", "big", "4294967295", "-1", "+5", "ann:", ":disk", ":", "ann:nogroup", "# comment"] {
            assert_eq!(find(text, PASSWD, GROUP), Err(UserError::Unknown), "{text}");
        }
        assert_eq!(found("nohome").home, b"/");
        assert_eq!(found("rel").home, b"/");
    }

    #[test]
    fn files_that_are_no_files_stop_a_name_but_not_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        assert_eq!(lookup_in(&root, "ann"), Err(UserError::Unknown));
        assert_eq!(lookup_in(&root, "5").map(|user| user.uid), Ok(5));
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        nix::unistd::mkfifo(&directory.path().join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(lookup_in(&root, "ann"), Err(UserError::Unreadable(Errno::EINVAL)));
        assert_eq!(lookup_in(&root, "").map(|user| user.uid), Ok(0));
    }

    proptest! {
        #[test]
        fn any_content_is_survived_and_a_home_is_absolute(
            text in "[a-z0-9:]{0,6}",
            passwd in "([a-z0-9/:,\u{0}]{0,12}\n?){0,12}",
            group in "([a-z0-9:,]{0,12}\n?){0,12}",
        ) {
            if let Ok(user) = find(&text, passwd.as_bytes(), group.as_bytes()) {
                prop_assert!(user.home.starts_with(b"/") && !user.home.contains(&0));
                prop_assert!(user.uid != u32::MAX && user.groups.contains(&user.gid));
            }
        }
    }
}
