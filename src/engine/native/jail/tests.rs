//! The jail as the kernel sees it: each test forks a child that goes into it and tries things.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::Instant;

use libc::{EPERM, c_int, c_long};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::*;

/// Forks a child that does `act` and exits with what it returns. `act` makes system calls only: other threads of the
/// test may hold the allocator's lock while the child is made.
fn child(act: impl FnOnce() -> c_int) -> Pid {
    // SAFETY: the child does nothing but what `act` may do, and leaves without running destructors.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        // SAFETY: ends this process; nothing is touched after it.
        ForkResult::Child => unsafe { libc::_exit(act()) },
    }
}

/// The errno of a system call with these arguments, zero for success.
fn errno(number: c_long, arguments: [c_long; 5]) -> c_int {
    let [a, b, c, d, e] = arguments;
    // SAFETY: no pointers but null are passed, so that the kernel touches no memory of ours; a call that forks gives the
    // child a copy of this stack, and the child leaves at once.
    unsafe {
        let answer = libc::syscall(number, a, b, c, d, e);
        if answer == 0 && number == libc::SYS_clone {
            libc::_exit(0);
        }
        if answer == -1 { *libc::__errno_location() } else { 0 }
    }
}

/// The errno of this system call under the filter.
fn errno_in_jail(filter: &Filter, number: c_long, arguments: [c_long; 5]) -> c_int {
    const NOT_INSTALLED: c_int = 255;
    let child = child(|| filter.install().map_or(NOT_INSTALLED, |()| errno(number, arguments)));
    match waitpid(child, None).unwrap() {
        WaitStatus::Exited(_, NOT_INSTALLED) => panic!("the filter could not be installed"),
        WaitStatus::Exited(_, errno) => errno,
        status => panic!("{status:?}"),
    }
}

#[test]
fn what_changes_the_kernel_or_makes_namespaces_is_refused() {
    let filter = Filter::docker_default();
    let refused = [
        ("mount", libc::SYS_mount, 0),
        ("umount2", libc::SYS_umount2, 0),
        ("unshare", libc::SYS_unshare, c_long::from(libc::CLONE_NEWUSER)),
        ("setns", libc::SYS_setns, -1),
        ("clone(NEWUSER)", libc::SYS_clone, c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD)),
        ("clone(NEWNET)", libc::SYS_clone, c_long::from(libc::CLONE_NEWNET | libc::SIGCHLD)),
        ("keyctl", libc::SYS_keyctl, -1),
        ("bpf", libc::SYS_bpf, -1),
        ("perf_event_open", libc::SYS_perf_event_open, 0),
        ("userfaultfd", libc::SYS_userfaultfd, -1),
        ("io_uring_setup", libc::SYS_io_uring_setup, 0),
        ("personality(ADDR_NO_RANDOMIZE)", libc::SYS_personality, 0x4_0000),
        ("socket(AF_VSOCK)", libc::SYS_socket, 40),
        ("socket(AF_VSOCK and a high half)", libc::SYS_socket, 40 | 1 << 32),
        ("socket(AF_ALG)", libc::SYS_socket, 38),
        ("a call that no kernel has", 4000, 0),
    ];
    for (name, number, argument) in refused {
        assert_eq!(errno_in_jail(&filter, number, [argument, 0, 0, 0, 0]), EPERM, "{name}");
    }
}

#[test]
fn what_programs_live_by_is_allowed() {
    let filter = Filter::docker_default();
    let unix_stream = [c_long::from(libc::AF_UNIX), c_long::from(libc::SOCK_STREAM), 0, 0, 0];
    let allowed = [
        ("getpid", libc::SYS_getpid, [0; 5], 0),
        ("personality(0)", libc::SYS_personality, [0; 5], 0),
        ("personality(present)", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0], 0),
        ("socket(AF_UNIX)", libc::SYS_socket, unix_stream, 0),
        ("clone", libc::SYS_clone, [c_long::from(libc::SIGCHLD), 0, 0, 0, 0], 0),
        // ENOSYS would say that the filter answered; these arguments are what the kernel itself refuses.
        ("clone3", libc::SYS_clone3, [0; 5], libc::EINVAL),
        ("openat2", libc::SYS_openat2, [-1, 0, 0, 0, 0], libc::EINVAL),
    ];
    for (name, number, arguments, wanted) in allowed {
        assert_eq!(errno_in_jail(&filter, number, arguments), wanted, "{name}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_of_x32_is_refused() {
    let x32 = 1 << 30;
    assert_eq!(errno_in_jail(&Filter::docker_default(), libc::SYS_getpid | x32, [0; 5]), EPERM);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_of_i386_kills() {
    let filter = Filter::docker_default();
    let getpid_of_i386 = || {
        let mut answer = 20;
        // SAFETY: getpid takes no arguments and touches no memory; the call may change only the registers named.
        unsafe {
            std::arch::asm!("int 0x80", inout("eax") answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
        };
        c_int::from(answer <= 0)
    };
    let free = waitpid(child(getpid_of_i386), None).unwrap();
    if !matches!(free, WaitStatus::Exited(_, 0)) {
        eprintln!("skipped: this kernel has no i386 system calls: {free:?}");
        return;
    }
    let jailed = child(|| filter.install().map_or(255, |()| getpid_of_i386()));
    let status = waitpid(jailed, None).unwrap();
    assert!(matches!(status, WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGSYS, _)), "{status:?}");
}

#[test]
fn a_capability_that_docker_withholds_is_gone_for_good() {
    let before = std::fs::read_to_string("/proc/self/status").unwrap();
    let sets = |status: &str| status.lines().filter(|line| line.starts_with("Cap")).collect::<Vec<_>>().join(" ");
    let effective = before.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let wanted = 0xa804_25fb;
    if u64::from_str_radix(effective, 16).unwrap() & wanted != wanted {
        eprintln!("skipped: needs all of Docker's default capabilities, has {effective}");
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = child(|| {
        if drop_capabilities().is_err() {
            return 1;
        }
        let mut status = [0_u8; 8192];
        // SAFETY: the path ends in a zero byte; the buffer is as long as said, and no more of it is written than read.
        unsafe {
            let file = libc::open(c"/proc/thread-self/status".as_ptr(), libc::O_RDONLY);
            let read = libc::read(file, status.as_mut_ptr().cast(), status.len());
            let wrote = libc::write(writer.as_raw_fd(), status.as_ptr().cast(), read.cast_unsigned());
            c_int::from(read <= 0 || wrote != read)
        }
    });
    drop(writer);
    let mut status = String::new();
    reader.read_to_string(&mut status).unwrap();
    assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 0)));
    assert_eq!(
        sets(&status),
        "CapInh:\t0000000000000000 CapPrm:\t00000000a80425fb CapEff:\t00000000a80425fb CapBnd:\t00000000a80425fb \
         CapAmb:\t0000000000000000"
    );
}

#[test]
#[ignore = "measures: run it alone, with --nocapture"]
fn the_cost_of_installing() {
    let filter = Filter::docker_default();
    let time = |act: &dyn Fn() -> c_int| {
        let start = Instant::now();
        assert!(matches!(waitpid(child(act), None).unwrap(), WaitStatus::Exited(_, 0)));
        start.elapsed()
    };
    // Taken in turns, so that whatever else the machine does weighs on both.
    let (mut without, mut with): (Vec<_>, Vec<_>) =
        (0..1000).map(|_| (time(&|| 0), time(&|| c_int::from(filter.install().is_err())))).unzip();
    without.sort_unstable();
    with.sort_unstable();
    println!(
        "{} instructions; median of fork to exit without {:?}, with {:?}",
        filter.0.len(),
        without[500],
        with[500]
    );
}
