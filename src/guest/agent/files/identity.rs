//! Takes on a user for work on files, on the calling thread alone.
//!
//! The wrappers of libc change every thread of the process; the kernel's own calls change one. With a file system uid
//! other than 0, the kernel takes the capabilities that override permissions out of the thread's effective set, and gives
//! them back with 0 (capabilities(7)). All of it is checked, because setfsuid(2) does not report failure.

use nix::errno::Errno;

use crate::guest::agent::users::{User, may_set_groups};

/// Asks setfsuid(2) and setfsgid(2) for the present id: no such id exists, so that nothing is changed.
const QUERY: u32 = u32::MAX;

/// Bit of `CAP_DAC_OVERRIDE` in the first word of a capability set (linux/capability.h).
const DAC_OVERRIDE: u32 = 1 << 1;

/// Version 3 of capget(2)'s structures, two words a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Makes the calling thread act as `user` on files.
///
/// # Errors
/// `EPERM` if it did not take effect; the thread is of no use then.
pub fn take_on(user: &User) -> Result<(), Errno> {
    if may_set_groups() {
        // SAFETY: setgroups(2) reads as many ids as are said to be there.
        let result = unsafe { libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) };
        Errno::result(result)?;
    }
    set(libc::SYS_setfsgid, user.gid)?;
    set(libc::SYS_setfsuid, user.uid)?;
    // A process that was told not to fix up its capabilities (prctl(2), PR_SET_SECUREBITS) would keep root's.
    if user.uid != 0 && effective_capabilities()? & DAC_OVERRIDE != 0 {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Sets the id, and asks whether it is set.
fn set(call: libc::c_long, id: u32) -> Result<(), Errno> {
    // SAFETY: setfsuid(2) and setfsgid(2) take a number and touch no memory.
    let present = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, QUERY)
    };
    if u32::try_from(present) == Ok(id) { Ok(()) } else { Err(Errno::EPERM) }
}

/// First word of the calling thread's effective set.
fn effective_capabilities() -> Result<u32, Errno> {
    let header: [u32; 2] = [CAPABILITY_VERSION, 0];
    // Effective, permitted and inheritable, twice.
    let mut sets = [0_u32; 6];
    // SAFETY: the arrays have the layout of the structures that capget(2) reads and fills in.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    Errno::result(result)?;
    Ok(sets[0])
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn user(uid: u32) -> User {
        User { uid, gid: uid, groups: vec![uid], name: Vec::new(), home: Vec::new() }
    }

    #[test]
    fn a_thread_takes_on_a_user_and_no_other_thread_does() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let other = secret.clone();
        let seen = thread::spawn(move || {
            take_on(&user(4321)).unwrap();
            let as_user = std::fs::read(&other).map_err(|error| error.kind());
            take_on(&user(0)).unwrap();
            (as_user, std::fs::read(&other).is_ok())
        });
        assert_eq!(seen.join().unwrap(), (Err(std::io::ErrorKind::PermissionDenied), true));
        assert!(std::fs::read(&secret).is_ok());
    }
}
