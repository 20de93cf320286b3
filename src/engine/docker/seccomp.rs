//! The system call filter as Docker takes it: `seccomp=` and a profile in JSON. Pure.
//!
//! Docker's own default answers ENOSYS to clone3, without which the guest cannot start a run in its cgroup. So sandboxes
//! get the profile of the native engine, which is Docker's default and clone3; and because nothing else in a container
//! forbids it to make user namespaces, the guest takes clone3 away from every run again
//! ([`crate::guest::agent::options::DENY_CLONE3`]). What runs is under Docker's default then, and the guest, which is
//! ours, is not.

use serde_json::{Value, json};

use crate::engine::native::jail::profile::{Rule, named_rules};

/// The low half of an argument.
const LOW: u32 = u32::MAX;

/// Values of an argument that is one of a few are below it: there are 46 address families.
const FEW: u32 = 64;

/// The architecture this is built for, in Docker's words.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };

/// The profile.
pub fn profile() -> String {
    let mut always = Vec::new();
    let mut syscalls = Vec::new();
    for (name, rule) in named_rules() {
        match rule {
            Rule::Never => {}
            Rule::Always => always.push(name),
            Rule::OneOf(values) => syscalls.extend(values.iter().map(|value| masked(name, LOW, *value))),
            // Several conditions on one argument would each be a rule of its own, and any of them enough.
            Rule::NoneOf(values) => {
                let rest = (0..FEW).filter(|value| !values.contains(value));
                syscalls.extend(rest.map(|value| masked(name, LOW, value)));
            }
            Rule::NoBitOf(bits) => syscalls.push(masked(name, bits, 0)),
        }
    }
    syscalls.push(json!({ "names": always, "action": "SCMP_ACT_ALLOW" }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [ARCHITECTURE],
        "syscalls": syscalls,
    })
    .to_string()
}

/// Allows a call whose first argument, under a mask, is a value.
fn masked(name: &str, mask: u32, value: u32) -> Value {
    let condition = json!({ "index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" });
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(name: &str) -> Vec<Value> {
        let profile: Value = serde_json::from_str(&profile()).unwrap();
        let all = profile["syscalls"].as_array().unwrap().clone();
        all.into_iter().filter(|rule| rule["names"].as_array().unwrap().iter().any(|known| known == name)).collect()
    }

    #[test]
    fn clone_makes_no_namespaces() {
        let rules = rules_of("clone");
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0]["args"][0]["value"], 0x7e02_0000);
        assert_eq!(rules[0]["args"][0]["valueTwo"], 0);
    }

    #[test]
    fn a_call_without_conditions_is_listed_once_and_one_that_is_refused_is_not() {
        assert_eq!(rules_of("clone3").len(), 1);
        assert_eq!(rules_of("io_pgetevents").len(), 1);
        assert!(rules_of("unshare").is_empty());
    }

    #[test]
    fn of_the_families_of_sockets_only_the_dangerous_are_missing() {
        let families: Vec<_> = rules_of("socket").iter().map(|rule| rule["args"][0]["valueTwo"].clone()).collect();
        assert!(families.contains(&json!(libc::AF_UNIX)) && families.contains(&json!(libc::AF_INET6)));
        assert!(!families.contains(&json!(libc::AF_VSOCK)) && !families.contains(&json!(libc::AF_ALG)));
    }
}
