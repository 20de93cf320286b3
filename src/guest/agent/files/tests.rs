use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::makedev;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

struct Sandbox {
    directory: TempDir,
    worker: Worker,
}

impl Sandbox {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let worker = Worker { root: Root::at(directory.path()), user: None, replacement: None, file: None };
        Self { directory, worker }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn open(&mut self, path: &str) -> Result<String, Fault> {
        let Answer::Opened(info, fd) = self.worker.work(file_request::Body::Open(wire::Open { path: path.into() }))?
        else {
            panic!("not opened");
        };
        assert_eq!(info.path, path.as_bytes());
        let mut content = String::new();
        File::from(fd).read_to_string(&mut content).unwrap();
        Ok(content)
    }

    fn replace(&mut self, request: wire::Replace) -> Result<File, Fault> {
        match self.worker.work(file_request::Body::Replace(request))? {
            Answer::Opened(_, fd) => Ok(File::from(fd)),
            answer @ Answer::Body(_) => panic!("{answer:?}"),
        }
    }

    fn info(&mut self, body: file_request::Body) -> Result<FileInfo, Fault> {
        match self.worker.work(body)? {
            Answer::Body(file_reply::Body::Info(info)) => Ok(info),
            answer => panic!("{answer:?}"),
        }
    }

    fn commit(&mut self) -> Result<FileInfo, Fault> {
        self.info(file_request::Body::Commit(wire::Commit {}))
    }

    fn write(&mut self, path: &str, content: &str) -> Result<FileInfo, Fault> {
        self.replace(replacing(path))?.write_all(content.as_bytes()).unwrap();
        self.commit()
    }

    fn list(&mut self, request: wire::List) -> Result<wire::Listing, Fault> {
        list::list(&self.worker.root, &request)
    }

    fn entries(&mut self, request: wire::List) -> Result<Vec<FileInfo>, Fault> {
        let bound = request.limit as usize;
        Ok(self.list(request)?.decode_entries(bound).unwrap())
    }

    fn remove(&mut self, path: &str, recursive: bool) -> Result<(), Fault> {
        self.worker.work(file_request::Body::Remove(wire::Remove { path: path.into(), recursive })).map(drop)
    }

    fn rename(&mut self, from: &str, to: &str, replace: bool) -> Result<FileInfo, Fault> {
        self.info(file_request::Body::Rename(wire::Rename { from: from.into(), to: to.into(), replace }))
    }

    fn mkdir(&mut self, path: &str, mode: u32, parents: bool) -> Result<FileInfo, Fault> {
        self.info(file_request::Body::Mkdir(wire::Mkdir { path: path.into(), mode, parents }))
    }

    fn names(&self) -> BTreeSet<String> {
        fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn replacing(path: &str) -> wire::Replace {
    wire::Replace { path: path.into(), ..wire::Replace::default() }
}

fn listing(path: &str, depth: u32, limit: u32) -> wire::List {
    wire::List { path: path.into(), depth, limit, hidden: true, after: Vec::new() }
}

fn errno<T: std::fmt::Debug>(result: Result<T, Fault>) -> Errno {
    match result.unwrap_err() {
        Fault::Errno(errno) => errno,
        fault => panic!("{fault:?}"),
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn no_path_leaves_the_root() {
    let mut sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path().join("etc")).unwrap();
    fs::write(sandbox.path().join("etc/hostname"), "inside").unwrap();
    symlink("/etc/hostname", sandbox.path().join("absolute")).unwrap();
    symlink("../../../../etc/hostname", sandbox.path().join("climbing")).unwrap();
    symlink("/proc/self/root", sandbox.path().join("magic")).unwrap();
    for path in ["/etc/hostname", "/absolute", "/climbing", "/../../etc/hostname", "/etc/../../../etc/hostname"] {
        assert_eq!(sandbox.open(path).unwrap(), "inside", "{path}");
    }
    assert_eq!(errno(sandbox.open("/magic/etc/hostname")), Errno::ENOENT);
    sandbox.write("/climbing", "new").unwrap();
    assert_eq!(fs::read(sandbox.path().join("etc/hostname")).unwrap(), b"new");
    assert!(fs::symlink_metadata(sandbox.path().join("climbing")).unwrap().is_symlink());
}

#[test]
fn magic_links_of_proc_are_refused() {
    let mut sandbox = Sandbox::new();
    sandbox.worker.root = Root::open().unwrap();
    assert_eq!(errno(sandbox.open("/proc/self/root/etc/passwd")), Errno::ELOOP);
    assert!(!sandbox.open("/proc/self/status").unwrap().is_empty());
}

#[test]
fn a_path_with_nul_or_beyond_the_bound_is_refused() {
    let mut sandbox = Sandbox::new();
    assert_eq!(errno(sandbox.open("/a\0b")), Errno::EINVAL);
    assert_eq!(errno(sandbox.open(&"/a".repeat(2048))), Errno::ENAMETOOLONG);
    assert_eq!(errno(sandbox.write("/a\0b", "")), Errno::EINVAL);
    assert_eq!(errno(sandbox.write(&"/a".repeat(2049), "")), Errno::ENAMETOOLONG);
    assert_eq!(errno(sandbox.write(&format!("/{}", "a".repeat(256)), "")), Errno::ENAMETOOLONG);
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let mut sandbox = Sandbox::new();
    fs::create_dir(sandbox.path().join("directory")).unwrap();
    nix::unistd::mkfifo(&sandbox.path().join("fifo"), Mode::S_IRWXU).unwrap();
    symlink("/fifo", sandbox.path().join("link")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(sandbox.path().join("socket")).unwrap();
    let mut paths = vec!["/fifo", "/link", "/socket"];
    let device = sandbox.path().join("device");
    match nix::sys::stat::mknod(&device, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)) {
        Ok(()) => paths.push("/device"),
        Err(errno) => eprintln!("skipped the device: {errno}"),
    }
    for path in paths {
        assert_eq!(sandbox.open(path).unwrap_err(), Fault::NotRegular, "{path}");
        assert_eq!(sandbox.replace(replacing(path)).unwrap_err(), Fault::NotRegular, "{path}");
    }
    for path in ["/directory", "/", "/.."] {
        assert_eq!(errno(sandbox.open(path)), Errno::EISDIR, "{path}");
        assert_eq!(errno(sandbox.replace(replacing(path))), Errno::EISDIR, "{path}");
    }
    assert_eq!(errno(sandbox.replace(replacing("/new/"))), Errno::EISDIR);
    assert_eq!(errno(sandbox.open("/missing")), Errno::ENOENT);
}

#[test]
fn a_file_is_replaced_only_at_the_commit() {
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.path().join("f"), "old").unwrap();
    let mut file = sandbox.replace(replacing("/f")).unwrap();
    file.write_all(b"newer").unwrap();
    assert_eq!(sandbox.open("/f").unwrap(), "old");
    assert_eq!(sandbox.commit().unwrap().size, 5);
    assert_eq!(sandbox.open("/f").unwrap(), "newer");
    assert_eq!(sandbox.commit().unwrap_err(), Fault::Request);
    assert_eq!(sandbox.names().len(), 1);
}

#[test]
fn a_reader_sees_the_old_file_or_the_new_one() {
    let mut sandbox = Sandbox::new();
    let contents = ["a".repeat(100_000), "b".repeat(50_000)];
    sandbox.write("/f", &contents[0]).unwrap();
    let path = sandbox.path().join("f");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| (0..300).all(|_| contents.contains(&fs::read_to_string(&path).unwrap())));
        for round in 0..60 {
            sandbox.write("/f", &contents[round % 2]).unwrap();
        }
        assert!(reader.join().unwrap());
    });
}

#[test]
fn a_replacement_that_breaks_off_leaves_no_litter() {
    let mut sandbox = Sandbox::new();
    sandbox.replace(replacing("/f")).unwrap().write_all(b"half").unwrap();
    sandbox.worker.replacement = None;
    assert!(sandbox.names().is_empty());
}

#[test]
fn a_mode_is_the_one_asked_for_else_the_old_one_else_0644() {
    let mut sandbox = Sandbox::new();
    sandbox.write("/f", "").unwrap();
    assert_eq!(mode_of(&sandbox.path().join("f")), 0o644);
    fs::set_permissions(sandbox.path().join("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    sandbox.write("/f", "").unwrap();
    assert_eq!(mode_of(&sandbox.path().join("f")), 0o751);
    sandbox.replace(wire::Replace { mode: Some(0o2666), ..replacing("/f") }).unwrap();
    assert_eq!(sandbox.commit().unwrap().mode & 0o7777, 0o2666);
}

#[test]
fn an_append_keeps_the_old_content_and_begins_after_it() {
    let mut sandbox = Sandbox::new();
    for (content, whole) in [("one", "one"), ("two", "onetwo")] {
        let request = wire::Replace { append: true, ..replacing("/f") };
        sandbox.replace(request).unwrap().write_all(content.as_bytes()).unwrap();
        sandbox.commit().unwrap();
        assert_eq!(sandbox.open("/f").unwrap(), whole);
    }
}

#[test]
fn a_symlink_that_dangles_gets_its_file_and_a_ring_is_refused() {
    let mut sandbox = Sandbox::new();
    fs::create_dir(sandbox.path().join("d")).unwrap();
    symlink("d/hop", sandbox.path().join("link")).unwrap();
    symlink("../made", sandbox.path().join("d/hop")).unwrap();
    symlink("ring", sandbox.path().join("ring")).unwrap();
    sandbox.write("/link", "x").unwrap();
    assert_eq!(fs::read(sandbox.path().join("made")).unwrap(), b"x");
    assert_eq!(errno(sandbox.write("/ring", "x")), Errno::ELOOP);
}

#[test]
fn missing_parents_are_made_only_when_asked_for() {
    let mut sandbox = Sandbox::new();
    assert_eq!(errno(sandbox.write("/a/b/f", "")), Errno::ENOENT);
    sandbox.replace(wire::Replace { create_parents: true, ..replacing("/a//b/../c/f") }).unwrap();
    sandbox.commit().unwrap();
    assert!(sandbox.path().join("a/c/f").is_file() && sandbox.path().join("a/b").is_dir());
    assert_eq!(mode_of(&sandbox.path().join("a/c")), 0o755);
    fs::write(sandbox.path().join("file"), "").unwrap();
    let request = wire::Replace { create_parents: true, ..replacing("/file/f") };
    assert_eq!(errno(sandbox.replace(request)), Errno::ENOTDIR);
}

#[test]
fn a_directory_is_made_with_its_mode() {
    let mut sandbox = Sandbox::new();
    assert_eq!(errno(sandbox.mkdir("/a/b", 0o755, false)), Errno::ENOENT);
    assert_eq!(sandbox.mkdir("/a/b", 0o1777, true).unwrap().mode, 0o41777);
    assert_eq!(mode_of(&sandbox.path().join("a")), 0o755);
    assert_eq!(sandbox.mkdir("/c", 0o777, false).unwrap().mode, 0o40777);
    assert_eq!(errno(sandbox.mkdir("/c", 0o755, false)), Errno::EEXIST);
    assert_eq!(errno(sandbox.mkdir("/", 0o755, false)), Errno::EEXIST);
    assert_eq!(sandbox.mkdir("/c", 0o755, true).unwrap().mode, 0o40777);
    assert!(sandbox.mkdir("/", 0o755, true).is_ok());
}

#[test]
fn a_stat_follows_a_symlink_only_if_asked_to() {
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.path().join("f"), "abc").unwrap();
    symlink("/f", sandbox.path().join("link")).unwrap();
    let mut stat =
        |follow| sandbox.info(file_request::Body::Stat(wire::Stat { path: b"/link".into(), follow })).unwrap();
    assert_eq!((stat(true).size, stat(true).target), (3, Vec::new()));
    assert_eq!((stat(false).mode & SFlag::S_IFMT.bits(), stat(false).target), (SFlag::S_IFLNK.bits(), b"/f".to_vec()));
}

#[test]
fn a_rename_replaces_only_if_asked_to() {
    let mut sandbox = Sandbox::new();
    sandbox.write("/a", "a").unwrap();
    sandbox.write("/b", "b").unwrap();
    fs::create_dir(sandbox.path().join("d")).unwrap();
    assert_eq!(errno(sandbox.rename("/a", "/b", false)), Errno::EEXIST);
    assert_eq!(sandbox.open("/b").unwrap(), "b");
    assert_eq!(sandbox.rename("/a", "/b", true).unwrap().path, b"/b");
    assert_eq!(sandbox.open("/b").unwrap(), "a");
    sandbox.rename("/b", "/d/../../d/c", false).unwrap();
    assert_eq!(sandbox.open("/d/c").unwrap(), "a");
    assert_eq!(errno(sandbox.rename("/missing", "/x", false)), Errno::ENOENT);
    assert_eq!(errno(sandbox.rename("/", "/x", false)), Errno::EINVAL);
}

#[test]
fn a_directory_with_entries_is_removed_only_recursively_and_no_symlink_is_followed() {
    let mut sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path().join("d/sub/empty")).unwrap();
    fs::create_dir(sandbox.path().join("kept")).unwrap();
    fs::write(sandbox.path().join("kept/f"), "").unwrap();
    symlink("../kept", sandbox.path().join("d/link")).unwrap();
    for index in 0..3000 {
        fs::write(sandbox.path().join(format!("d/sub/{index}")), "").unwrap();
    }
    assert_eq!(errno(sandbox.remove("/d", false)), Errno::ENOTEMPTY);
    sandbox.remove("/d", true).unwrap();
    assert_eq!(sandbox.names(), BTreeSet::from(["kept".to_owned()]));
    assert!(sandbox.path().join("kept/f").exists());
    assert_eq!(errno(sandbox.remove("/d", true)), Errno::ENOENT);
    for path in ["/", "/kept/..", "/kept/."] {
        assert_eq!(errno(sandbox.remove(path, true)), Errno::EINVAL, "{path}");
    }
    sandbox.remove("/kept/f", false).unwrap();
    sandbox.remove("/kept", false).unwrap();
}

#[test]
fn a_tree_that_others_remove_too_is_removed() {
    let sandbox = Sandbox::new();
    for round in 0..3 {
        for leaf in 0..200 {
            let path = format!("tree/{}/{}/{}", leaf % 3, leaf % 7, leaf);
            fs::create_dir_all(sandbox.path().join(path)).unwrap();
        }
        let start = std::sync::Barrier::new(3);
        let remove = || {
            let place = Root::at(sandbox.path()).place(b"/tree").unwrap();
            start.wait();
            remove::remove(&place, Extent::Tree)
        };
        std::thread::scope(|scope| {
            let removers = [(); 3].map(|()| scope.spawn(remove));
            for result in removers.map(|remover| remover.join().unwrap()) {
                assert!(matches!(result, Ok(()) | Err(Errno::ENOENT)), "{result:?} in round {round}");
            }
        });
        assert!(!sandbox.path().join("tree").exists());
    }
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let mut sandbox = Sandbox::new();
    let mut level: OwnedFd = File::open(sandbox.path()).unwrap().into();
    for depth in 0..2000 {
        let name = if depth == 0 { "deep" } else { "d" };
        mkdirat(&level, name, Mode::S_IRWXU).unwrap();
        nix::sys::stat::mknodat(&level, "f", SFlag::S_IFREG, Mode::S_IRWXU, 0).unwrap();
        level = nix::fcntl::openat(&level, name, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    }
    sandbox.remove("/deep", true).unwrap();
    assert_eq!(sandbox.names(), BTreeSet::from(["f".to_owned()]));
}

#[test]
fn ten_thousand_entries_come_in_pages_each_exactly_once() {
    let mut sandbox = Sandbox::new();
    for index in 0..10_000 {
        fs::write(sandbox.path().join(format!("{index:x}")), "").unwrap();
    }
    let mut expected: Vec<_> = (0..10_000).map(|index| format!("{index:x}").into_bytes()).collect();
    expected.sort();
    for limit in [999, 10_000] {
        assert_eq!(all_pages(&mut sandbox, listing("/", 1, limit)), expected);
    }
    assert!(!sandbox.list(listing("/", 1, 10_000)).unwrap().more);
    assert!(sandbox.list(listing("/", 1, 9_999)).unwrap().more);
}

/// The paths of all pages, one after the other.
fn all_pages(sandbox: &mut Sandbox, mut request: wire::List) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    loop {
        let page = sandbox.list(request.clone()).unwrap();
        let entries = page.decode_entries(request.limit as usize).unwrap();
        paths.extend(entries.into_iter().map(|entry| entry.path));
        if !page.more {
            return paths;
        }
        request.after = paths.last().expect("a page that is not the last has an entry").clone();
    }
}

#[test]
fn a_listing_shows_symlinks_and_stops_at_its_depth() {
    let mut sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path().join("a/b/c")).unwrap();
    fs::write(sandbox.path().join("a-"), "").unwrap();
    fs::write(sandbox.path().join("a/.hidden"), "").unwrap();
    symlink("a", sandbox.path().join("link")).unwrap();
    let mut paths = |path: &str, depth, hidden| {
        let entries = sandbox.entries(wire::List { hidden, ..listing(path, depth, 100) }).unwrap();
        let paths: Vec<_> = entries.iter().map(|entry| String::from_utf8(entry.path.clone()).unwrap()).collect();
        paths.join(" ")
    };
    assert_eq!(paths("/", 0, false), "");
    assert_eq!(paths("/", 1, false), "a a- link");
    assert_eq!(paths("/", 2, true), "a a/.hidden a/b a- link");
    assert_eq!(paths("/", 9, false), "a a/b a/b/c a- link");
    assert_eq!(paths("/link", 1, false), "b");
    let link = sandbox.entries(listing("/", 1, 100)).unwrap().pop().unwrap();
    assert_eq!((link.path, link.target), (b"link".to_vec(), b"a".to_vec()));
    assert_eq!(errno(sandbox.list(listing("/a-", 1, 1))), Errno::ENOTDIR);
    assert_eq!(sandbox.entries(listing("/a-", 0, 1)).unwrap().len(), 1);
}

#[test]
fn a_cursor_that_would_lead_elsewhere_is_refused_and_one_that_is_gone_is_not() {
    let mut sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path().join("d/sub")).unwrap();
    fs::write(sandbox.path().join("e"), "").unwrap();
    let mut list = |after: &str| sandbox.entries(wire::List { after: after.into(), ..listing("/d/..", 2, 9) });
    for after in ["..", "../etc", "d/..", "/d", "d//sub", "d/", ".", "a/b/c", "a\0"] {
        assert_eq!(list(after).unwrap_err(), Fault::Request, "{after}");
    }
    for (after, first) in [("d", "d/sub"), ("d/a", "d/sub"), ("d/sub", "e"), ("c/gone", "d"), ("d/zz", "e")] {
        assert_eq!(list(after).unwrap()[0].path, first.as_bytes(), "{after}");
    }
    assert!(list("e/gone").unwrap().is_empty());
}

#[test]
fn a_closed_directory_is_listed_and_not_entered() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let mut sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path().join("closed/inner")).unwrap();
    fs::write(sandbox.path().join("open"), "").unwrap();
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(sandbox.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let paths = std::thread::spawn(move || {
        sandbox.worker.act_as("1234:1234".to_owned()).unwrap();
        all_pages(&mut sandbox, listing("/", 3, 1))
    });
    assert_eq!(paths.join().unwrap(), [b"closed".to_vec(), b"open".to_vec()]);
}

#[test]
fn a_user_makes_files_of_his_own_and_cannot_touch_others() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let mut sandbox = Sandbox::new();
    fs::create_dir(sandbox.path().join("home")).unwrap();
    fs::create_dir(sandbox.path().join("etc")).unwrap();
    fs::write(sandbox.path().join("etc/passwd"), "ann:x:1000:1001::/home:\n").unwrap();
    fs::write(sandbox.path().join("secret"), "x").unwrap();
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(sandbox.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(sandbox.path().join("home"), Some(1000), Some(1001)).unwrap();
    let check = std::thread::spawn(move || {
        assert_eq!(sandbox.worker.act_as("bob".to_owned()), Err(Fault::User(0)));
        sandbox.worker.act_as("ann".to_owned()).unwrap();
        let info = sandbox.write("/home/f", "mine").unwrap();
        assert_eq!((info.uid, info.gid, info.mode), (1000, 1001, 0o100_644));
        assert_eq!(sandbox.open("/home/f").unwrap(), "mine");
        let info = sandbox.mkdir("/home/a/b", 0o700, true).unwrap();
        assert_eq!((info.uid, info.gid, info.mode), (1000, 1001, 0o40_700));
        sandbox.remove("/home/a", true).unwrap();
        assert_eq!(errno(sandbox.open("/secret")), Errno::EACCES);
        assert_eq!(errno(sandbox.write("/f", "x")), Errno::EACCES);
        assert_eq!(errno(sandbox.remove("/secret", false)), Errno::EACCES);
        assert_eq!(errno(sandbox.rename("/secret", "/home/secret", false)), Errno::EACCES);
        sandbox.worker.act_as(String::new()).unwrap();
        assert_eq!(sandbox.open("/secret").unwrap(), "x");
    });
    check.join().unwrap();
}

/// The tree beneath a path in order, the simple way.
fn model(directory: &Path, prefix: &str, depth: u32, hidden: bool, found: &mut Vec<Vec<u8>>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        if !hidden && name.starts_with('.') {
            continue;
        }
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        found.push(path.clone().into_bytes());
        if depth > 1 && entry.file_type().unwrap().is_dir() {
            model(&entry.path(), &path, depth - 1, hidden, found);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pages_of_any_size_together_are_what_a_simple_walk_finds(
        directories in prop::collection::vec("[.a-c-]{1,2}(/[.a-c-]{1,2}){0,4}", 0..12),
        depth in 1_u32..6,
        limit in 1_u32..8,
        hidden: bool,
    ) {
        let mut sandbox = Sandbox::new();
        for directory in directories.iter().filter(|path| path.split('/').all(|name| name != "." && name != "..")) {
            fs::create_dir_all(sandbox.path().join(directory)).unwrap();
        }
        let mut expected = Vec::new();
        model(sandbox.path(), "", depth, hidden, &mut expected);
        let request = wire::List { hidden, ..listing("/", depth, limit) };
        prop_assert_eq!(all_pages(&mut sandbox, request), expected);
    }
}
