//! Secrets that are bound to names: a sandbox holds a placeholder, and the proxy puts the real value into one header of
//! the requests that go there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::authority::{Authority, AuthorityError};
use super::policy::Rule;
use super::target::{Target, TargetError};
use crate::seal::Secret;

/// Most secrets of a sandbox.
pub const MAX_SECRETS: usize = 32;
/// Longest value of one, in bytes: there are tokens that are signed documents.
pub const MAX_VALUE: usize = 8 << 10;
/// Longest name of a header.
const MAX_HEADER: usize = 64;

/// Headers that say how a message is read or carried, and so are no place for a secret.
const RESERVED: [&str; 7] = ["host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade"];

/// The name of a header, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header(String);

/// A secret and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The names that get it.
    pub rule: Rule,
    /// In which header.
    pub header: Header,
    /// The header's whole value; empty in a change: it is bound no more.
    pub value: Secret,
    /// It goes over connections without TLS too.
    pub plain: bool,
}

/// How a request is carried to its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Everybody on the way can read it.
    Plain,
    /// By TLS.
    Tls,
}

/// Where a secret goes, which is all that is ever told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The names that get it.
    pub rule: Rule,
    /// In which header.
    pub header: Header,
    /// It goes over connections without TLS too.
    pub plain: bool,
}

/// Why a secret cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// To what it is to be bound is no name.
    #[error("a name, or \"*.\" and a name, with or without a port")]
    Name(#[source] TargetError),
    /// To every name, or to an address, which anybody may have.
    #[error("a secret is bound to a name, or to all below one")]
    Everybody,
    /// It is no header, or one that a secret has no place in.
    #[error("a header's name, and none that says how a message is carried")]
    Header,
    /// It is too long, or would end the header.
    #[error("at most 8192 printable characters of ASCII")]
    Value,
}

/// The secrets of a sandbox, and the authority by which the proxy answers for the names that they are bound to.
#[derive(Debug)]
pub struct Secrets {
    bindings: Vec<Binding>,
    authority: Authority,
}

/// What is sealed of them.
#[derive(Serialize, Deserialize)]
struct Kept {
    bindings: Vec<KeptBinding>,
    /// The authority's key.
    key: String,
}

#[derive(Serialize, Deserialize)]
struct KeptBinding {
    rule: Rule,
    header: Header,
    value: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    plain: bool,
}

impl Binding {
    /// A secret of a request, which goes over TLS only.
    ///
    /// # Errors
    /// See [`BindingError`].
    pub fn parse(name: &str, header: &str, value: String) -> Result<Self, BindingError> {
        let rule: Rule = name.parse().map_err(BindingError::Name)?;
        if !rule.is_named() {
            return Err(BindingError::Everybody);
        }
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value;
        if value.len() > MAX_VALUE || !is_plain {
            return Err(BindingError::Value);
        }
        Ok(Self { rule, header: header.parse()?, value: value.into(), plain: false })
    }

    fn kept(&self) -> KeptBinding {
        let value = String::from_utf8_lossy(self.value.expose()).into_owned();
        KeptBinding { rule: self.rule.clone(), header: self.header.clone(), value, plain: self.plain }
    }

    /// Whether it is for the same header of the same names.
    fn is_same_place(&self, other: &Self) -> bool {
        (&self.rule, &self.header) == (&other.rule, &other.header)
    }
}

/// What a change of some secrets makes of others: those in the same place are replaced, and removed if the value is empty.
#[must_use]
pub fn changed(mut bindings: Vec<Binding>, changes: &[Binding]) -> Vec<Binding> {
    for change in changes {
        bindings.retain(|binding| !binding.is_same_place(change));
        if !change.value.expose().is_empty() {
            bindings.push(change.clone());
        }
    }
    bindings
}

/// Bytes by which some secrets are told from others. They hold the values: whoever keeps them digests them first.
#[must_use]
pub fn bytes(bindings: &[Binding]) -> Zeroizing<Vec<u8>> {
    let kept: Vec<KeptBinding> = bindings.iter().map(Binding::kept).collect();
    Zeroizing::new(serde_json::to_vec(&kept).expect("all keys are text"))
}

impl Secrets {
    /// Makes an authority for them.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn new(bindings: Vec<Binding>) -> Result<Self, AuthorityError> {
        Ok(Self { bindings, authority: Authority::new()? })
    }

    /// The same authority with other secrets.
    ///
    /// # Errors
    /// Never, as far as is known: its key is that of before.
    pub fn with(&self, changes: &[Binding]) -> Result<Self, AuthorityError> {
        let bindings = changed(self.bindings.clone(), changes);
        Ok(Self { bindings, authority: Authority::of_key(&self.authority.key())? })
    }

    /// All there is to know of them, to be sealed.
    #[must_use]
    pub fn to_secret(&self) -> Secret {
        let bindings = self.bindings.iter().map(Binding::kept).collect();
        let kept = Kept { bindings, key: self.authority.key() };
        serde_json::to_vec(&kept).expect("all keys are text").into()
    }

    /// What [`Secrets::to_secret`] gave; `None` if this program cannot read it.
    #[must_use]
    pub fn of_secret(secret: &Secret) -> Option<Self> {
        let Kept { bindings, key } = serde_json::from_slice(secret.expose()).ok()?;
        let binding = |kept: KeptBinding| {
            let KeptBinding { rule, header, value, plain } = kept;
            Binding { rule, header, value: value.into(), plain }
        };
        let bindings = bindings.into_iter().map(binding).collect();
        Some(Self { bindings, authority: Authority::of_key(&key).ok()? })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bindings.len()
    }

    /// Where they go.
    #[must_use]
    pub fn places(&self) -> Arc<[Place]> {
        let place = |binding: &Binding| Place {
            rule: binding.rule.clone(),
            header: binding.header.clone(),
            plain: binding.plain,
        };
        self.bindings.iter().map(place).collect()
    }

    /// Those of a target, as far as they go over such a connection to it.
    pub fn of<'a>(&'a self, target: &'a Target, carriage: Carriage) -> impl Iterator<Item = &'a Binding> {
        let goes = move |binding: &Binding| carriage == Carriage::Tls || binding.plain;
        self.bindings.iter().filter(move |binding| binding.rule.matches(target) && goes(binding))
    }

    /// The authority that the sandbox trusts.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl Header {
    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Header {
    type Err = BindingError;

    fn from_str(text: &str) -> Result<Self, BindingError> {
        let name = text.to_ascii_lowercase();
        // A token of RFC 9110, section 5.6.2, as far as headers are named in practice.
        let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let is_header = is_token && (1..=MAX_HEADER).contains(&name.len());
        if is_header && !RESERVED.contains(&name.as_str()) { Ok(Self(name)) } else { Err(BindingError::Header) }
    }
}

impl fmt::Display for Header {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(name: &str, header: &str, value: &str) -> Binding {
        Binding::parse(name, header, value.to_owned()).unwrap()
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn a_secret_goes_to_its_name_only() {
        let secrets =
            Secrets::new(vec![binding("api.a.com", "Authorization", "Bearer 1"), binding("*.b.com:443", "x", "2")]);
        let secrets = secrets.unwrap();
        let of = |text: &str| {
            secrets.of(&target(text), Carriage::Tls).map(|binding| binding.header.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("api.a.com:80"), ["authorization"]);
        assert_eq!(of("API.b.com:443"), ["x"]);
        for other in ["a.com:80", "b.api.a.com:443", "x.b.com:80", "b.com:443", "1.2.3.4:443"] {
            assert!(of(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_secret_goes_over_tls_unless_it_is_said() {
        let plain = Binding { plain: true, ..binding("a.com", "y", "2") };
        let secrets = Secrets::new(vec![binding("a.com", "x", "1"), plain]).unwrap();
        let read = Secrets::of_secret(&secrets.to_secret()).unwrap();
        for secrets in [secrets, read] {
            let of = |carriage| secrets.of(&target("a.com:80"), carriage).map(|it| it.header.to_string()).collect();
            let (plain, tls): (Vec<String>, Vec<String>) = (of(Carriage::Plain), of(Carriage::Tls));
            assert_eq!((plain, tls), (vec!["y".to_owned()], vec!["x".to_owned(), "y".to_owned()]));
        }
        // What digests were made of before there was a choice is the same.
        assert_eq!(*bytes(&[binding("a.com", "x", "1")]), br#"[{"rule":"a.com","header":"x","value":"1"}]"#);
    }

    #[test]
    fn what_is_no_secret_of_a_name_is_refused() {
        let refused =
            |name: &str, header: &str, value: &str| Binding::parse(name, header, value.to_owned()).unwrap_err();
        for name in ["*", "1.2.3.4", "::1"] {
            assert_eq!(refused(name, "a", "b"), BindingError::Everybody, "{name}");
        }
        assert!(matches!(refused("a b", "a", "b"), BindingError::Name(_)));
        for header in ["", "Host", "content-length", "a:", "a b"] {
            assert_eq!(refused("a.com", header, "b"), BindingError::Header, "{header}");
        }
        for value in ["a\r\nb: c", " a", "\u{e4}"] {
            assert_eq!(refused("a.com", "a", value), BindingError::Value, "{value}");
        }
    }

    #[test]
    fn they_read_back_with_the_authority_and_show_no_value() {
        let secrets = Secrets::new(vec![binding("a.com", "x", "hush")]).unwrap();
        let read = Secrets::of_secret(&secrets.to_secret()).unwrap();
        assert_eq!(read.bindings, secrets.bindings);
        assert_eq!(read.authority().key(), secrets.authority().key());
        assert!(!format!("{read:?}").contains("hush"));
    }

    #[test]
    fn a_change_replaces_adds_and_removes() {
        let before = vec![binding("a.com", "x", "1"), binding("a.com", "y", "2")];
        let after =
            changed(before, &[binding("a.com", "x", "3"), binding("a.com", "y", ""), binding("b.com", "x", "4")]);
        assert_eq!(after, [binding("a.com", "x", "3"), binding("b.com", "x", "4")]);
    }
}
