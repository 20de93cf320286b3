//! What confines the processes of a sandbox beyond their namespaces: the same as Docker's defaults.
//!
//! Made in the daemon, once: [`Filter::docker_default`], [`thermal_paths`]. Done in the child that becomes the sandbox's
//! first process, in this order, after the mounts (of which [`MASKED_PATHS`] and [`READONLY_PATHS`] are the last) and
//! before it executes the guest: [`drop_capabilities`], then [`Filter::install`]. Both only ever take away, and all
//! descendants inherit what they did.
//!
//! The filter is compiled here, and not by the `seccompiler` crate, because of what installing costs each new sandbox.
//! That crate's program asks for one system call after another: 1540 instructions, with which a child took 850 us longer
//! from fork to exit. This one halves its way through 145, which take 120 us; 55 to 80 of them are the installing.

mod bpf;
mod capabilities;
mod paths;
pub(in crate::engine) mod profile;

use std::io;

use libc::{c_ulong, sock_filter, sock_fprog};

pub use capabilities::drop_capabilities;
pub use paths::{MASKED_PATHS, READONLY_PATHS, thermal_paths};

/// A compiled system call filter. See `profile.rs` for what it allows.
///
/// What it does not allow is answered EPERM. A process that makes a system call of another architecture (on x86_64: of
/// i386) is killed by SIGSYS; there this is stricter than Docker, which lets 32 bit programs run.
#[derive(Debug)]
pub struct Filter(Box<[sock_filter]>);

impl Filter {
    /// Docker's default profile for the architecture this is built for.
    #[must_use]
    pub fn docker_default() -> Self {
        Self(bpf::compile(&profile::rules()).into())
    }

    /// Confines the calling thread and all its descendants, for good. It also sets `no_new_privs`: from here on no
    /// program gains anything by its set-user-id bit or its file capabilities.
    ///
    /// Makes system calls only and allocates nothing, so that a freshly cloned child may call it.
    ///
    /// # Errors
    /// What the kernel answers; EINVAL if it was built without seccomp.
    pub fn install(&self) -> io::Result<()> {
        // The kernel would answer the same to a program that is too long.
        let len = u16::try_from(self.0.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let program = sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        const NONE: c_ulong = 0;
        const YES: c_ulong = 1;
        // SAFETY: this option takes numbers only, no pointers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, YES, NONE, NONE, NONE) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `program` describes instructions that live and stay unchanged during the call; the kernel copies them,
        // and only reads through the mutable pointer that its header asks for.
        if unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, NONE, &raw const program) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
