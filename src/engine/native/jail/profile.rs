//! Which system calls a sandbox may make: Docker's default profile, as data.
//!
//! It is `profiles/seccomp/default.json` of Docker 28.3 as it comes out for Docker's default capabilities on a kernel
//! from 4.8 on, so that every entry which asks for another capability has gone already. Whoever compares the two finds
//! these differences, and no others:
//!
//! - `clone3` is allowed; Docker answers ENOSYS, because a filter cannot read the flags behind its pointer. The guest
//!   needs it to start runs in their cgroups, and lives under the same filter as they do. What Docker fears is prevented
//!   elsewhere: a user namespace by `user.max_user_namespaces=0`, every other one by the lack of `CAP_SYS_ADMIN`.
//! - The first argument is compared by its low half only, because the kernel reads no more of it in these calls. Docker
//!   compares all 64 bits, so that there `socket(1 << 32 | AF_VSOCK, ..)` passes.
//! - `socket(AF_ALG, ..)` is refused, as Docker does since CVE-2026-31431: it opens the kernel's own cryptography to
//!   whoever asks, which nothing in a sandbox needs.
//! - `prlimit64(1, ..)` is refused, which limits the guest.
//! - Only the native architecture is there, so that of the 32 bit system calls nothing is listed.
//!
//! The native engine compiles it; the Docker engine hands it to Docker, by the names of the calls.

use std::collections::BTreeMap;

use libc::*;

/// When a system call is allowed. Values and bits are of the low half of its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Rule {
    /// Never.
    Never,
    /// Whatever its arguments are.
    Always,
    /// If the argument is one of these values.
    OneOf(&'static [u32]),
    /// If the argument is none of these values.
    NoneOf(&'static [u32]),
    /// If the argument has none of these bits.
    NoBitOf(u32),
}

/// System calls with their names, which are those of the constants.
macro_rules! calls {
    ($($call:ident),* $(,)?) => { &[$(($call, stringify!($call))),*] };
}

/// The rule of every system call that is allowed at all, by its number.
pub(super) fn rules() -> BTreeMap<u32, Rule> {
    let numbered = |(call, _, rule)| (u32::try_from(call).expect("system calls have small numbers"), rule);
    all().map(numbered).collect()
}

/// The same, by name.
pub(in crate::engine) fn named_rules() -> impl Iterator<Item = (&'static str, Rule)> {
    all().map(|(_, name, rule)| (name.strip_prefix("SYS_").unwrap_or(name), rule))
}

fn all() -> impl Iterator<Item = (c_long, &'static str, Rule)> {
    let always = [ALWAYS, ALWAYS_HERE, UNNAMED_HERE, ALWAYS_NEWER].into_iter().flatten();
    let always = always.map(|&(call, name)| (call, name, Rule::Always));
    always.chain(SOMETIMES.iter().map(|&((call, name), rule)| (call, name, rule)))
}

/// Number and name.
type Call = (c_long, &'static str);

/// The calls whose first argument decides.
#[rustfmt::skip]
const SOMETIMES: &[(Call, Rule)] = &[
    ((SYS_clone, "clone"), Rule::NoBitOf(NAMESPACES)),
    ((SYS_personality, "personality"), Rule::OneOf(&[
        0, // PER_LINUX
        0x8, // PER_LINUX32
        0x2_0000, // UNAME26
        0x2_0008, // both
        0xffff_ffff, // asks for the present one
    ])),
    ((SYS_prlimit64, "prlimit64"), Rule::NoneOf(&[
        1, // the guest, which root of the sandbox could else leave without descriptors or processor time
    ])),
    ((SYS_socket, "socket"), Rule::NoneOf(&[
        38, // AF_ALG
        40, // AF_VSOCK: reaches the host past the network namespace
    ])),
];

/// The namespaces `clone` can make.
const NAMESPACES: u32 =
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)
        .cast_unsigned();

/// The calls that both architectures have.
#[rustfmt::skip]
const ALWAYS: &[Call] = calls![
    SYS_accept, SYS_accept4, SYS_adjtimex, SYS_bind, SYS_brk, SYS_capget, SYS_capset, SYS_chdir, SYS_chroot,
    SYS_clock_adjtime, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone3, SYS_close, SYS_close_range,
    SYS_connect, SYS_copy_file_range, SYS_dup, SYS_dup3, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
    SYS_epoll_pwait2, SYS_eventfd2, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2,
    SYS_fadvise64, SYS_fallocate, SYS_fanotify_mark, SYS_fchdir, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat,
    SYS_fcntl, SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock, SYS_fremovexattr, SYS_fsetxattr, SYS_fstat,
    SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futex, SYS_futex_waitv, SYS_get_robust_list, SYS_getcpu, SYS_getcwd,
    SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getgroups, SYS_getitimer, SYS_getpeername, SYS_getpgid,
    SYS_getpid, SYS_getppid, SYS_getpriority, SYS_getrandom, SYS_getresgid, SYS_getresuid, SYS_getrlimit, SYS_getrusage,
    SYS_getsid, SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_getxattr,
    SYS_inotify_add_watch, SYS_inotify_init1, SYS_inotify_rm_watch, SYS_io_cancel, SYS_io_destroy, SYS_io_getevents,
    SYS_io_setup, SYS_io_submit, SYS_ioctl, SYS_ioprio_get, SYS_ioprio_set, SYS_kill, SYS_landlock_add_rule,
    SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_lgetxattr, SYS_linkat, SYS_listen, SYS_listxattr,
    SYS_llistxattr, SYS_lremovexattr, SYS_lseek, SYS_lsetxattr, SYS_madvise, SYS_membarrier, SYS_memfd_create,
    SYS_memfd_secret, SYS_mincore, SYS_mkdirat, SYS_mknodat, SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_mmap,
    SYS_mprotect, SYS_mq_getsetattr, SYS_mq_notify, SYS_mq_open, SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink,
    SYS_mremap, SYS_mseal, SYS_msgctl, SYS_msgget, SYS_msgrcv, SYS_msgsnd, SYS_msync, SYS_munlock, SYS_munlockall,
    SYS_munmap, SYS_name_to_handle_at, SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_openat2, SYS_pidfd_open,
    SYS_pidfd_send_signal, SYS_pipe2, SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_ppoll, SYS_prctl,
    SYS_pread64, SYS_preadv, SYS_preadv2, SYS_process_mrelease, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_pselect6, SYS_ptrace, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_read, SYS_readahead,
    SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_remap_file_pages, SYS_removexattr,
    SYS_renameat, SYS_renameat2, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigpending, SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigtimedwait, SYS_rt_tgsigqueueinfo,
    SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_getaffinity, SYS_sched_getattr,
    SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_rr_get_interval, SYS_sched_setaffinity, SYS_sched_setattr,
    SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_yield, SYS_seccomp, SYS_semctl, SYS_semget, SYS_semop,
    SYS_semtimedop, SYS_sendfile, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_set_robust_list, SYS_set_tid_address,
    SYS_setfsgid, SYS_setfsuid, SYS_setgid, SYS_setgroups, SYS_setitimer, SYS_setpgid, SYS_setpriority, SYS_setregid,
    SYS_setresgid, SYS_setresuid, SYS_setreuid, SYS_setrlimit, SYS_setsid, SYS_setsockopt, SYS_setuid, SYS_setxattr,
    SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_shmget, SYS_shutdown, SYS_sigaltstack, SYS_signalfd4, SYS_socketpair,
    SYS_splice, SYS_statfs, SYS_statx, SYS_symlinkat, SYS_sync, SYS_sync_file_range, SYS_syncfs, SYS_sysinfo, SYS_tee,
    SYS_tgkill, SYS_timer_create, SYS_timer_delete, SYS_timer_getoverrun, SYS_timer_gettime, SYS_timer_settime,
    SYS_timerfd_create, SYS_timerfd_gettime, SYS_timerfd_settime, SYS_times, SYS_tkill, SYS_truncate, SYS_umask,
    SYS_uname, SYS_unlinkat, SYS_utimensat, SYS_vmsplice, SYS_wait4, SYS_waitid, SYS_write, SYS_writev,
];

/// The calls that only x86_64 has, most of them forerunners of those above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALWAYS_HERE: &[Call] = calls![
    SYS_access, SYS_alarm, SYS_arch_prctl, SYS_chmod, SYS_chown, SYS_creat, SYS_dup2, SYS_epoll_create,
    SYS_epoll_ctl_old, SYS_epoll_wait, SYS_epoll_wait_old, SYS_eventfd, SYS_fork, SYS_futimesat, SYS_get_thread_area,
    SYS_getdents, SYS_getpgrp, SYS_inotify_init, SYS_lchown, SYS_link, SYS_lstat, SYS_mkdir, SYS_mknod, SYS_modify_ldt,
    SYS_open, SYS_pause, SYS_pipe, SYS_poll, SYS_readlink, SYS_rename, SYS_rmdir, SYS_select, SYS_set_thread_area,
    SYS_signalfd, SYS_stat, SYS_symlink, SYS_time, SYS_unlink, SYS_utime, SYS_utimes, SYS_vfork,
];

/// And those that libc does not name everywhere.
#[cfg(target_arch = "x86_64")]
const UNNAMED_HERE: &[Call] = &[(333, "io_pgetevents"), (335, "uretprobe")];

/// The calls that only aarch64 has.
#[cfg(target_arch = "aarch64")]
const ALWAYS_HERE: &[Call] = &[];

/// And those that have another number there, and that libc does not name everywhere.
#[cfg(target_arch = "aarch64")]
const UNNAMED_HERE: &[Call] = &[(292, "io_pgetevents")];

/// The calls that libc does not name yet; they have the same number everywhere.
const ALWAYS_NEWER: &[Call] = &[
    (451, "cachestat"),
    (452, "fchmodat2"),
    (453, "map_shadow_stack"),
    (454, "futex_wake"),
    (455, "futex_wait"),
    (456, "futex_requeue"),
    (457, "statmount"),
    (458, "listmount"),
    (463, "setxattrat"),
    (464, "getxattrat"),
    (465, "listxattrat"),
    (466, "removexattrat"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(call: c_long) -> Rule {
        rules().get(&u32::try_from(call).unwrap()).copied().unwrap_or(Rule::Never)
    }

    #[test]
    #[rustfmt::skip]
    fn what_needs_a_capability_that_docker_withholds_is_not_listed() {
        let withheld = [
            SYS_acct, SYS_add_key, SYS_bpf, SYS_clock_settime, SYS_delete_module, SYS_fanotify_init, SYS_finit_module,
            SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick, SYS_get_mempolicy, SYS_init_module, SYS_io_uring_enter,
            SYS_io_uring_register, SYS_io_uring_setup, SYS_kcmp, SYS_kexec_load, SYS_keyctl, SYS_mbind, SYS_mount,
            SYS_mount_setattr, SYS_move_mount, SYS_move_pages, SYS_open_by_handle_at, SYS_open_tree,
            SYS_perf_event_open, SYS_pidfd_getfd, SYS_pivot_root, SYS_process_madvise, SYS_quotactl, SYS_quotactl_fd,
            SYS_reboot, SYS_request_key, SYS_set_mempolicy, SYS_setdomainname, SYS_sethostname, SYS_setns,
            SYS_settimeofday, SYS_swapoff, SYS_swapon, SYS_syslog, SYS_umount2, SYS_unshare, SYS_userfaultfd,
            SYS_vhangup,
        ];
        for call in withheld {
            assert_eq!(rule(call), Rule::Never, "{call}");
        }
    }

    #[test]
    fn what_docker_allows_since_the_kernel_made_it_safe_is_listed() {
        for call in [SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_chroot, SYS_clone3] {
            assert_eq!(rule(call), Rule::Always, "{call}");
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        let listed = ALWAYS.len() + ALWAYS_HERE.len() + UNNAMED_HERE.len() + ALWAYS_NEWER.len() + SOMETIMES.len();
        assert_eq!(rules().len(), listed);
    }

    #[test]
    fn the_namespaces_are_those_docker_names() {
        assert_eq!(NAMESPACES, 0x7e02_0000);
    }
}
