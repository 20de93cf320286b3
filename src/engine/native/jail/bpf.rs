//! Compiles rules into the classic BPF program that the kernel asks at every system call.
//!
//! The program looks the number up by halving: a few comparisons for any system call. This matters less for the calls
//! themselves, because the kernel remembers which are always allowed, than for the installing: to find out which those
//! are, it runs the program once for every system call there is, and it translates the whole program to machine code.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, EPERM, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter,
};

use super::profile::Rule;

/// `AUDIT_ARCH_*` of the architecture this is built for.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: u32 = 0xc000_003e;
/// `AUDIT_ARCH_*` of the architecture this is built for.
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: u32 = 0xc000_00b7;

// Where the fields of `struct seccomp_data` lie, in bytes. Both architectures are little-endian: the low half is first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// What a system call is answered that is not allowed.
const REFUSE: u32 = SECCOMP_RET_ERRNO | EPERM.cast_unsigned();

/// The program that allows what `rules` allow, answers EPERM to all else, and kills the process that makes a system call
/// of another architecture.
///
/// On x86_64 the calls of x32 count as native ones with a bit of their own in the number, so that they get EPERM.
pub(super) fn compile(rules: &BTreeMap<u32, Rule>) -> Vec<sock_filter> {
    let mut program =
        vec![load(ARCHITECTURE), branch(BPF_JEQ, NATIVE, 1, 0), answer(SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
    program.extend(search(&ranges(rules)));
    program
}

/// The numbers from `start` to the next range's start, which share a rule.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    rule: Rule,
}

/// All numbers from zero on, in order, in as few ranges as there can be; at least one.
fn ranges(rules: &BTreeMap<u32, Rule>) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut from = |start, rule| {
        ranges.pop_if(|last: &mut Range| last.start == start);
        if ranges.last().is_none_or(|last| last.rule != rule) {
            ranges.push(Range { start, rule });
        }
    };
    from(0, Rule::Never);
    for (&number, &rule) in rules {
        from(number, rule);
        from(number + 1, Rule::Never);
    }
    ranges
}

/// Goes to the code of the range which the loaded number is in. Every way through it ends in an answer, so that code can
/// be put behind code with nothing to fix up.
fn search(ranges: &[Range]) -> Vec<sock_filter> {
    if let [only] = ranges {
        return decide(only.rule);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let (pivot, below, above) = (above[0].start, search(below), search(above));
    let mut code = match u8::try_from(below.len()) {
        Ok(distance) => vec![branch(BPF_JGE, pivot, distance, 0)],
        // A branch reaches 255 instructions far, a jump any distance.
        Err(_) => vec![branch(BPF_JGE, pivot, 0, 1), jump(below.len())],
    };
    code.extend(below);
    code.extend(above);
    code
}

/// Answers as the rule says.
fn decide(rule: Rule) -> Vec<sock_filter> {
    let (test, values, hit, miss) = match &rule {
        Rule::Never => return vec![answer(REFUSE)],
        Rule::Always => return vec![answer(SECCOMP_RET_ALLOW)],
        Rule::OneOf(values) => (BPF_JEQ, *values, SECCOMP_RET_ALLOW, REFUSE),
        Rule::NoneOf(values) => (BPF_JEQ, *values, REFUSE, SECCOMP_RET_ALLOW),
        Rule::NoBitOf(bits) => (BPF_JSET, std::slice::from_ref(bits), REFUSE, SECCOMP_RET_ALLOW),
    };
    let count = u8::try_from(values.len()).expect("a rule names a handful of values");
    let mut code = vec![load(FIRST_ARGUMENT)];
    // The last test is followed by the answer to a miss, and this by the answer to a hit.
    code.extend(values.iter().zip((1..=count).rev()).map(|(&value, distance)| branch(test, value, distance, 0)));
    code.extend([answer(miss), answer(hit)]);
    code
}

/// Loads the 32 bits at this offset of `struct seccomp_data`.
fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

/// Ends the program with this answer.
fn answer(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0, 0)
}

/// Skips `distance` instructions.
fn jump(distance: usize) -> sock_filter {
    let distance = u32::try_from(distance).expect("a program has some hundred instructions");
    instruction(BPF_JMP | BPF_JA, distance, 0, 0)
}

/// Compares what was loaded with `value`, and skips `hit` or `miss` instructions.
fn branch(test: u32, value: u32, hit: u8, miss: u8) -> sock_filter {
    instruction(BPF_JMP | test | BPF_K, value, hit, miss)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("operation codes have 16 bits"), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use libc::{SECCOMP_RET_DATA, seccomp_data};

    use super::*;
    use crate::engine::native::jail::profile;

    /// What the kernel's interpreter would answer. It knows the few instructions that are used here.
    fn run(program: &[sock_filter], data: &seccomp_data) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let branch = |hit| usize::from(if hit { jt } else { jf });
            match u32::from(code) {
                0x20 => {
                    accumulator = match k {
                        0 => data.nr.cast_unsigned(),
                        4 => data.arch,
                        16 => u32::try_from(data.args[0] & 0xffff_ffff).unwrap(),
                        _ => panic!("loads from {k}"),
                    }
                }
                0x05 => at += usize::try_from(k).unwrap(),
                0x15 => at += branch(accumulator == k),
                0x35 => at += branch(accumulator >= k),
                0x45 => at += branch(accumulator & k != 0),
                0x06 => return k,
                other => panic!("has an instruction {other:#x}"),
            }
        }
    }

    fn call(number: u32, argument: u64) -> seccomp_data {
        // What must not matter is set to what would be noticed.
        let args = [argument, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX];
        seccomp_data { nr: number.cast_signed(), arch: NATIVE, instruction_pointer: u64::MAX, args }
    }

    fn allows(rule: Rule, argument: u64) -> bool {
        let low = u32::try_from(argument & 0xffff_ffff).unwrap();
        match rule {
            Rule::Never => false,
            Rule::Always => true,
            Rule::OneOf(values) => values.contains(&low),
            Rule::NoneOf(values) => !values.contains(&low),
            Rule::NoBitOf(bits) => low & bits == 0,
        }
    }

    /// Arguments on both sides of every edge that a rule of the profile has, with and without a high half.
    fn arguments() -> Vec<u64> {
        let mut edges = vec![0, u32::MAX];
        edges.extend((0..32).map(|bit| 1 << bit));
        for rule in profile::rules().values() {
            match *rule {
                Rule::Never | Rule::Always => {}
                Rule::OneOf(values) | Rule::NoneOf(values) => edges.extend(values),
                Rule::NoBitOf(bits) => edges.extend([bits, !bits]),
            }
        }
        let near = edges.iter().flat_map(|edge| [edge.wrapping_sub(1), *edge, edge.wrapping_add(1)]);
        near.flat_map(|low| [u64::from(low), u64::from(low) | 1 << 32, u64::from(low) | u64::MAX << 32]).collect()
    }

    fn check(rules: &BTreeMap<u32, Rule>, numbers: impl Iterator<Item = u32>, arguments: &[u64]) {
        let program = compile(rules);
        for number in numbers {
            let rule = rules.get(&number).copied().unwrap_or(Rule::Never);
            for &argument in arguments {
                let wanted = if allows(rule, argument) { SECCOMP_RET_ALLOW } else { REFUSE };
                assert_eq!(run(&program, &call(number, argument)), wanted, "call {number}, argument {argument:#x}");
            }
        }
    }

    #[test]
    fn the_program_answers_as_the_profile_says() {
        let x32 = 1 << 30;
        let numbers = (0..1024).chain(x32..x32 + 1024).chain([x32 - 1, i32::MAX.cast_unsigned(), u32::MAX]);
        check(&profile::rules(), numbers, &arguments());
    }

    #[test]
    fn a_program_longer_than_a_branch_reaches_answers_right_too() {
        let rule = |number| if number % 3 == 0 { Rule::Always } else { Rule::NoBitOf(number) };
        let rules = (0..1000).filter(|number| number % 5 != 0).map(|number| (number, rule(number))).collect();
        check(&rules, 0..1100, &[0, 1, 0x155, 0x2aa]);
    }

    #[test]
    fn no_rules_allow_nothing() {
        check(&BTreeMap::new(), [0, 1, 1000, u32::MAX].into_iter(), &[0]);
    }

    #[test]
    fn a_call_of_another_architecture_kills() {
        let i386 = 0x4000_0003;
        let program = compile(&profile::rules());
        let getpid = u32::try_from(libc::SYS_getpid).unwrap();
        assert_eq!(run(&program, &seccomp_data { arch: i386, ..call(getpid, 0) }), SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn neighbours_with_one_rule_share_a_range() {
        let rules = [(3, Rule::Always), (4, Rule::Always), (5, Rule::NoBitOf(1)), (7, Rule::Always)];
        let wanted = [
            (0, Rule::Never),
            (3, Rule::Always),
            (5, Rule::NoBitOf(1)),
            (6, Rule::Never),
            (7, Rule::Always),
            (8, Rule::Never),
        ];
        assert_eq!(ranges(&rules.into()), wanted.map(|(start, rule)| Range { start, rule }));
    }

    #[test]
    fn a_refusal_is_eperm() {
        assert_eq!(REFUSE & SECCOMP_RET_DATA, EPERM.cast_unsigned());
    }

    #[test]
    fn the_kernel_takes_a_program_of_this_length() {
        let length = compile(&profile::rules()).len();
        assert!(length <= usize::try_from(libc::BPF_MAXINSNS).unwrap(), "{length} instructions");
    }
}
