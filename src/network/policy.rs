//! What a sandbox may reach, and what a request may ask for. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::target::{Host, Target, TargetError};

/// Most rules of an allowlist.
pub const MAX_RULES: usize = 256;

/// What a sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Its own loopback only.
    None,
    /// Names that are listed, through the daemon.
    Proxy(Allow),
    /// All but the node, its neighbours and private networks, by an address of its own.
    Nat,
    /// What the node reaches.
    Host,
}

/// Names and addresses that may be connected to; at most [`MAX_RULES`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow(Vec<Rule>);

/// A line of an allowlist: a name, `*.` and a name for all below it, `*` for every name, or an address; each with or
/// without a port. Names only stand for names: an address has to be listed as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    hosts: Hosts,
    /// `None`: every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// One name or address.
    One(Host),
    /// The names below this one, not the name itself.
    Below(String),
    /// Every name.
    Names,
}

/// Why an allowlist is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// A rule is none.
    #[error("{rule:?} is neither a name, \"*.\" and a name, \"*\", nor an address, with or without a port")]
    Rule {
        /// As it was written.
        rule: String,
        /// What is wrong with it.
        #[source]
        source: TargetError,
    },
    /// There are too many.
    #[error("{count} rules are more than {MAX_RULES}")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// What a request gets that asks for nothing, and the most that one may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    default: Policy,
    ceiling: Policy,
}

/// A request asks for more than the node gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Beyond {
    /// Another kind of network.
    #[error("this node gives sandboxes no network beyond \"{ceiling}\", and \"{asked}\" was asked for")]
    Mode {
        /// Asked for.
        asked: &'static str,
        /// The most there is.
        ceiling: &'static str,
    },
    /// A name that the ceiling does not list.
    #[error("this node lets no sandbox reach {0}")]
    Rule(Rule),
}

impl Policy {
    /// As the API and the configuration call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Proxy(_) => "proxy",
            Self::Nat => "nat",
            Self::Host => "host",
        }
    }

    /// Each reaches more than the one before it.
    fn rank(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Proxy(_) => 1,
            Self::Nat => 2,
            Self::Host => 3,
        }
    }
}

impl Bounds {
    /// Those of a node.
    ///
    /// # Errors
    /// The default is beyond the ceiling.
    pub fn new(default: Policy, ceiling: Policy) -> Result<Self, Beyond> {
        within(&default, &ceiling)?;
        Ok(Self { default, ceiling })
    }

    /// What a request gets.
    ///
    /// # Errors
    /// It asks for more than there is.
    pub fn choose(&self, asked: Option<Policy>) -> Result<Policy, Beyond> {
        let policy = asked.unwrap_or_else(|| self.default.clone());
        within(&policy, &self.ceiling).map(|()| policy)
    }
}

impl Default for Bounds {
    /// Nothing, for everybody.
    fn default() -> Self {
        Self { default: Policy::None, ceiling: Policy::None }
    }
}

fn within(policy: &Policy, ceiling: &Policy) -> Result<(), Beyond> {
    if policy.rank() > ceiling.rank() {
        return Err(Beyond::Mode { asked: policy.name(), ceiling: ceiling.name() });
    }
    match (policy, ceiling) {
        (Policy::Proxy(allow), Policy::Proxy(most)) => {
            let beyond = allow.0.iter().find(|rule| !most.0.iter().any(|most| most.covers(rule)));
            beyond.map_or(Ok(()), |rule| Err(Beyond::Rule(rule.clone())))
        }
        _ => Ok(()),
    }
}

impl Allow {
    /// The list of these rules.
    ///
    /// # Errors
    /// The first bad one.
    pub fn parse<S: AsRef<str>>(rules: &[S]) -> Result<Self, AllowError> {
        if rules.len() > MAX_RULES {
            return Err(AllowError::TooMany { count: rules.len() });
        }
        let parse = |rule: &S| {
            let rule = rule.as_ref();
            rule.parse().map_err(|source| AllowError::Rule { rule: rule.to_owned(), source })
        };
        rules.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether something may be connected to, as far as its name says.
    #[must_use]
    pub fn permits(&self, target: &Target) -> bool {
        self.0.iter().any(|rule| rule.matches(target))
    }

    /// Its rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }
}

impl Rule {
    /// Whether it is of one name, or of those below one.
    #[must_use]
    pub fn is_named(&self) -> bool {
        matches!(self.hosts, Hosts::One(Host::Name(_)) | Hosts::Below(_))
    }

    /// Whether something may be connected to by it.
    #[must_use]
    pub fn matches(&self, target: &Target) -> bool {
        let is_host = match (&self.hosts, &target.host) {
            (Hosts::One(host), target) => host == target,
            (Hosts::Below(parent), Host::Name(name)) => is_below(name, parent),
            (Hosts::Names, Host::Name(_)) => true,
            (Hosts::Below(_) | Hosts::Names, Host::Address(_)) => false,
        };
        is_host && self.port.is_none_or(|port| port == target.port)
    }

    /// Whether all that the other matches, this one does.
    fn covers(&self, other: &Self) -> bool {
        let hosts = match (&self.hosts, &other.hosts) {
            (Hosts::One(host), Hosts::One(other)) => host == other,
            (Hosts::Below(parent), Hosts::One(Host::Name(name))) => is_below(name, parent),
            (Hosts::Below(parent), Hosts::Below(other)) => other == parent || is_below(other, parent),
            (Hosts::Names, Hosts::One(Host::Name(_)) | Hosts::Below(_) | Hosts::Names) => true,
            _ => false,
        };
        hosts && (self.port.is_none() || self.port == other.port)
    }
}

/// Whether a name ends in a dot and the other.
fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|below| below.ends_with('.') && below.len() > 1)
}

impl TryFrom<String> for Rule {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl FromStr for Rule {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = super::target::split(text)?;
        let hosts = match host.strip_prefix("*.") {
            _ if host == "*" => Hosts::Names,
            Some(parent) => match parent.parse()? {
                Host::Name(parent) => Hosts::Below(parent),
                Host::Address(_) => return Err(TargetError::Name),
            },
            None => Hosts::One(host.parse()?),
        };
        Ok(Self { hosts, port })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::One(Host::Address(IpAddr::V6(address))) if self.port.is_some() => write!(formatter, "[{address}]")?,
            Hosts::One(host) => host.fmt(formatter)?,
            Hosts::Below(parent) => write!(formatter, "*.{parent}")?,
            Hosts::Names => formatter.write_str("*")?,
        }
        self.port.map_or(Ok(()), |port| write!(formatter, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allow(rules: &[&str]) -> Allow {
        Allow::parse(rules).unwrap()
    }

    fn permits(rules: &[&str], target: &str) -> bool {
        allow(rules).permits(&target.parse().unwrap())
    }

    #[test]
    fn a_name_is_that_name_however_it_is_written() {
        for target in ["example.com:443", "EXAMPLE.com:443", "example.com.:443"] {
            assert!(permits(&["Example.COM"], target), "{target}");
        }
        for target in ["a.example.com:443", "example.com.evil.org:443", "xexample.com:443", "example.co:443"] {
            assert!(!permits(&["example.com"], target), "{target}");
        }
    }

    #[test]
    fn a_wildcard_is_what_is_below_and_nothing_beside() {
        for target in ["a.example.com:1", "a.b.EXAMPLE.com:1"] {
            assert!(permits(&["*.example.com"], target), "{target}");
        }
        for target in ["example.com:1", "xexample.com:1", "a.example.com.evil.org:1", "com:1"] {
            assert!(!permits(&["*.example.com"], target), "{target}");
        }
    }

    #[test]
    fn a_port_is_that_port() {
        assert!(permits(&["a.com:443", "b.com"], "a.com:443"));
        assert!(!permits(&["a.com:443", "b.com"], "a.com:80"));
        assert!(permits(&["a.com:443", "b.com"], "b.com:80"));
    }

    #[test]
    fn an_address_is_permitted_only_by_itself() {
        for target in ["8.8.8.8:53", "[2001:db8::1]:53", "[::ffff:8.8.8.8]:53"] {
            assert!(!permits(&["*"], target), "{target}");
        }
        assert!(permits(&["8.8.8.8"], "8.8.8.8:53"));
        assert!(permits(&["8.8.8.8"], "[::ffff:8.8.8.8]:53"), "the same address in other words");
        assert!(permits(&["[2001:DB8::1]:53"], "[2001:db8:0::1]:53"));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_its_text() {
        for rule in
            ["", "*.", "**", "a.*.com", "*.1.2.3.4", "a b", "a.com:0", "a.com:65536", "http://a.com", "a..b", "grün.de"]
        {
            let error = Allow::parse(&[rule]).unwrap_err();
            assert!(matches!(&error, AllowError::Rule { rule: written, .. } if written == rule), "{rule}: {error}");
        }
        assert!(matches!(Allow::parse(&["a"; MAX_RULES + 1]), Err(AllowError::TooMany { .. })));
    }

    #[test]
    fn a_request_narrows_and_never_widens() {
        let proxy = |rules: &[&str]| Policy::Proxy(allow(rules));
        let bounds = Bounds::new(proxy(&["a.com"]), proxy(&["*.b.com", "a.com"])).unwrap();
        assert_eq!(bounds.choose(None), Ok(proxy(&["a.com"])));
        assert_eq!(bounds.choose(Some(Policy::None)), Ok(Policy::None));
        assert_eq!(bounds.choose(Some(proxy(&["x.b.com:1", "*.y.b.com"]))), Ok(proxy(&["x.b.com:1", "*.y.b.com"])));
        for rule in ["*", "b.com", "*.com", "*.a.com", "1.2.3.4"] {
            let beyond = bounds.choose(Some(proxy(&["a.com", rule]))).unwrap_err();
            assert!(matches!(&beyond, Beyond::Rule(found) if found.to_string() == rule), "{beyond}");
        }
        let beyond = bounds.choose(Some(Policy::Nat)).unwrap_err();
        assert_eq!(beyond, Beyond::Mode { asked: "nat", ceiling: "proxy" });
        assert!(Bounds::new(Policy::Host, Policy::Nat).is_err());
        // Whoever may reach everything may reach what is listed.
        assert!(Bounds::new(proxy(&["10.0.0.1"]), Policy::Nat).is_ok());
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{1,2}", 1..4).prop_map(|labels| labels.join("."))
    }

    fn host() -> impl Strategy<Value = String> {
        prop_oneof![4 => name(), 1 => Just("10.0.0.1".to_owned()), 1 => Just("[fe80::1]".to_owned())]
    }

    fn port() -> impl Strategy<Value = Option<u16>> {
        prop::option::of(1..3_u16)
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let hosts = prop_oneof![host(), name().prop_map(|name| format!("*.{name}")), Just("*".to_owned())];
        (hosts, port()).prop_map(|(hosts, port)| {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            format!("{hosts}{port}").parse().unwrap()
        })
    }

    fn target() -> impl Strategy<Value = Target> {
        (host(), 1..3_u16).prop_map(|(host, port)| format!("{host}:{port}").parse().unwrap())
    }

    proptest! {
        #[test]
        fn what_a_covered_rule_matches_is_matched_by_what_covers_it(outer in rule(), inner in rule(), target in target()) {
            if outer.covers(&inner) && inner.matches(&target) {
                prop_assert!(outer.matches(&target), "{outer} {inner} {target}");
            }
        }

        #[test]
        fn a_rule_covers_itself_and_reads_back(rule in rule()) {
            prop_assert!(rule.covers(&rule));
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = (text.parse::<Rule>(), text.parse::<Target>());
        }

        #[test]
        fn names_never_permit_an_address(rules in prop::collection::vec(rule(), 0..5), octets: [u8; 4], port in 1..9_u16) {
            let target = Target { host: Host::Address(octets.into()), port };
            let listed = |rule: &Rule| matches!(rule.hosts, Hosts::One(Host::Address(_)));
            let names = Allow(rules.into_iter().filter(|rule| !listed(rule)).collect());
            prop_assert!(!names.permits(&target));
        }
    }
}
