//! Taking clone3(2) away from runs.
//!
//! A system call filter cannot see what clone3 is asked for, so Docker's default one answers ENOSYS to it, which keeps
//! containers from making namespaces. The guest needs it: only by it is a run born in its cgroup. Where no other bound
//! stands against namespaces, the guest therefore lives under a filter that allows clone3, and puts every run under a
//! second one that does not: together they are Docker's.

use nix::errno::Errno;

/// clone3, by the number it has on every architecture.
const CLONE3: u32 = 435;

/// Marks system calls of the x32 interface, which have the same numbers otherwise.
const X32_BIT: u32 = 0x4000_0000;

/// Bytes into `seccomp_data` at which the number of the system call stands (seccomp(2)).
const NUMBER: u32 = 0;

/// An instruction; of the jump, one that skips `jump_false` instructions if it fails.
#[expect(clippy::cast_possible_truncation, reason = "the codes of classic BPF have 16 bits")]
const fn step(code: u32, k: u32, jump_false: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: jump_false, k }
}

const LENGTH: u16 = 5;

static PROGRAM: [libc::sock_filter; LENGTH as usize] = [
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER, 0),
    step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !X32_BIT, 0),
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, CLONE3, 1),
    step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(), 0),
    step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
];

/// From now on no program that this process or a child of it executes gains rights by doing so; [`deny_clone3`] needs it.
pub fn forbid_new_privileges() -> nix::Result<()> {
    nix::sys::prctl::set_no_new_privs()
}

/// Answers ENOSYS to clone3, for this thread and all its descendants, for good. The C library then uses clone(2), whose
/// flags a filter does see.
///
/// Allocates nothing, so that a child may call it between fork and exec.
pub fn deny_clone3() -> nix::Result<()> {
    let program = libc::sock_fprog { len: LENGTH, filter: PROGRAM.as_ptr().cast_mut() };
    // SAFETY: `program` describes instructions that live for ever; the kernel copies them, and only reads through the
    // mutable pointer that its header asks for. The other arguments are numbers.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER), 0, &raw const program)
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clone3_is_gone_and_threads_still_start() {
        // In a thread of its own: the filter cannot be taken off again.
        let outcome = std::thread::spawn(|| {
            forbid_new_privileges().unwrap();
            deny_clone3().unwrap();
            // SAFETY: with a size of 0 the kernel refuses the call before it reads the pointer.
            let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) };
            let errno = Errno::result(result).unwrap_err();
            std::thread::spawn(|| ()).join().unwrap();
            errno
        });
        assert_eq!(outcome.join().unwrap(), Errno::ENOSYS);
    }

    #[test]
    fn the_number_is_this_architectures_too() {
        assert_eq!(i64::from(CLONE3), libc::SYS_clone3);
    }
}
