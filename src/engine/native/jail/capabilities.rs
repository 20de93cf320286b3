//! The capabilities a sandbox keeps.

use std::io;

use libc::{c_int, c_ulong};

/// Docker's default capabilities, as numbers of `linux/capability.h`.
const KEPT: &[u32] = &[
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    4,  // CAP_FSETID
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP
    10, // CAP_NET_BIND_SERVICE
    13, // CAP_NET_RAW
    18, // CAP_SYS_CHROOT
    27, // CAP_MKNOD
    29, // CAP_AUDIT_WRITE
    31, // CAP_SETFCAP
];

/// [`KEPT`] as a set of bits. All of them lie in the lower of the two words in which the kernel takes a set.
const KEPT_SET: u32 = {
    let (mut set, mut at) = (0, 0);
    while at < KEPT.len() {
        set |= 1 << KEPT[at];
        at += 1;
    }
    set
};

/// `_LINUX_CAPABILITY_VERSION_3`: sets are two words of 32 bits, the lower first.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

/// One word of each set: `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Leaves the calling thread Docker's default capabilities at most, for good: of what it has, the others go from the
/// bounding, the permitted and the effective set. The inheritable and the ambient set become empty, as in Docker since
/// CVE-2022-24769.
///
/// Makes system calls only and allocates nothing, so that a freshly cloned child may call it. It must run as long as the
/// thread still has `CAP_SETPCAP`, that is before it changes its user.
///
/// # Errors
/// What the kernel answers; EPERM without `CAP_SETPCAP`. The thread may have lost some capabilities already.
pub fn drop_capabilities() -> io::Result<()> {
    drop_bounding()?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong)?;
    let [low, _] = capget()?;
    let permitted = low.permitted & KEPT_SET;
    capset(&[Word { effective: permitted, permitted, inheritable: 0 }, Word::default()])
}

/// Drops from the bounding set what is not kept, up to the last capability the kernel knows.
fn drop_bounding() -> io::Result<()> {
    for capability in (0..u64::BITS).filter(|capability| !KEPT.contains(capability)) {
        match prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability)) {
            // The kernel knows fewer. `/proc/sys/kernel/cap_last_cap` says the same, where there is a /proc.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

fn prctl(option: c_int, argument: c_ulong) -> io::Result<()> {
    const NONE: c_ulong = 0;
    // SAFETY: the options used here take numbers only, no pointers.
    answer(unsafe { libc::prctl(option, argument, NONE, NONE, NONE) }.into())
}

/// The calling thread's sets, lower word first.
fn capget() -> io::Result<[Word; 2]> {
    let header = Header { version: VERSION, pid: 0 };
    let mut words = [Word::default(); 2];
    // SAFETY: this version of the header makes the kernel write two words, and there is room for two.
    answer(unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) })?;
    Ok(words)
}

fn capset(words: &[Word; 2]) -> io::Result<()> {
    let header = Header { version: VERSION, pid: 0 };
    // SAFETY: this version of the header makes the kernel read two words, and there are two.
    answer(unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) })
}

fn answer(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_what_docker_shows_in_proc() {
        assert_eq!(KEPT_SET, 0xa804_25fb);
    }
}
