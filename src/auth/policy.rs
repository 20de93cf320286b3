//! Who a caller is, and what they may. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::token::TokenHash;

/// What a caller may do; each role may what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look, and change nothing: not even wake what sleeps.
    Reader,
    /// Make, use and remove sandboxes.
    Operator,
    /// Command the node itself.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// The sandboxes and sessions that a caller may know of: those with all of these labels. No labels: all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(pub BTreeMap<String, String>);

impl Scope {
    /// A sandbox with these labels is in it.
    #[must_use]
    pub fn covers(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// These labels and its own, to look for; `None` if nothing in it can have them.
    #[must_use]
    pub fn narrowed(&self, labels: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
        let is_outside = labels.iter().any(|(key, value)| self.0.get(key).is_some_and(|own| own != value));
        (!is_outside).then(|| self.0.iter().chain(labels).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Every sandbox is in it.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(formatter, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What the audit log calls them.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// To which sandboxes and sessions.
    pub scope: Scope,
}

/// What proves that a caller is a certain client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A certificate with this DNS or URI name, signed by the client CA.
    Certificate(String),
    /// The token with this hash.
    Token(TokenHash),
    /// A process of this user, through a unix socket.
    Uid(u32),
}

/// A client of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// Who it is, once it is proven.
    pub caller: Arc<Caller>,
    /// What proves it. A client that is there twice can be proven in two ways, as while a token is replaced.
    pub proof: Proof,
}

/// Where a connection comes from, and what that alone proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A unix socket, from a process of this user.
    Local {
        /// The user's id, as the kernel knows it.
        uid: u32,
    },
    /// A loopback address, without TLS.
    Loopback,
    /// TLS.
    Tls {
        /// The DNS and URI names of the certificate that was verified; none if the client showed none.
        names: Vec<String>,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid } => write!(formatter, "uid {uid}"),
            Self::Loopback => formatter.write_str("loopback"),
            Self::Tls { names } if names.is_empty() => formatter.write_str("tls"),
            Self::Tls { names } => write!(formatter, "tls {}", names.join(" ")),
        }
    }
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing that was shown proves anything.
    #[error("who calls is not known here: show a token, or a certificate with the name of a client")]
    Unknown,
    /// A token was shown, and no client has it.
    #[error("the token is not one of a client")]
    WrongToken,
    /// Known, but not allowed to.
    #[error("{caller} is {role} here, and this takes {needed}")]
    Role {
        /// Who.
        caller: String,
        /// Their role.
        role: Role,
        /// The least role that may.
        needed: Role,
    },
}

/// Everybody who may call.
#[derive(Debug, Clone)]
pub struct Roster {
    clients: Vec<Client>,
    /// The user that the daemon runs as.
    own_uid: u32,
    own: Arc<Caller>,
    anybody: Arc<Caller>,
}

impl Roster {
    /// These clients, and through the unix socket root and the daemon's own user.
    #[must_use]
    pub fn new(clients: Vec<Client>, own_uid: u32) -> Self {
        let admin = |name: &str| Arc::new(Caller { name: name.to_owned(), role: Role::Admin, scope: Scope::default() });
        Self { clients, own_uid, own: admin("local"), anybody: admin("loopback") }
    }

    /// Who shows this.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] or [`Refusal::WrongToken`].
    pub fn identify(&self, peer: &Peer, token: Option<&TokenHash>) -> Result<Arc<Caller>, Refusal> {
        if let Some(token) = token {
            // All are compared, so that the time tells nothing of which came close.
            let is_shown = |client: &Client| matches!(&client.proof, Proof::Token(own) if own == token);
            let found = self.clients.iter().fold(None, |found, client| is_shown(client).then_some(client).or(found));
            return found.map(|client| Arc::clone(&client.caller)).ok_or(Refusal::WrongToken);
        }
        let proves = |proof: &Proof| match (proof, peer) {
            (Proof::Uid(own), Peer::Local { uid }) => own == uid,
            (Proof::Certificate(own), Peer::Tls { names }) => names.contains(own),
            _ => false,
        };
        match peer {
            Peer::Local { uid } if *uid == 0 || *uid == self.own_uid => Ok(Arc::clone(&self.own)),
            Peer::Loopback if self.clients.is_empty() => Ok(Arc::clone(&self.anybody)),
            _ => {
                let client = self.clients.iter().find(|client| proves(&client.proof));
                client.map(|client| Arc::clone(&client.caller)).ok_or(Refusal::Unknown)
            }
        }
    }

    /// Somebody else than root and the daemon's own user may come through the unix socket.
    #[must_use]
    pub fn has_other_users(&self) -> bool {
        self.clients.iter().any(|client| matches!(client.proof, Proof::Uid(_)))
    }

    /// Whoever reaches a loopback port is an admin.
    #[must_use]
    pub fn is_open_on_loopback(&self) -> bool {
        self.clients.is_empty()
    }
}

/// Whether the caller may call this.
///
/// # Errors
/// [`Refusal::Role`].
pub fn check(caller: &Caller, path: &str) -> Result<(), Refusal> {
    let needed = least_role(path).unwrap_or(Role::Admin);
    if caller.role >= needed {
        return Ok(());
    }
    Err(Refusal::Role { caller: caller.name.clone(), role: caller.role, needed })
}

/// The least role that may make the call of this path (`/package.Service/Method`); `None` if nobody has decided, and then
/// only admins may.
#[must_use]
pub fn least_role(path: &str) -> Option<Role> {
    RPCS.iter().find(|(rpc, _)| *rpc == path).map(|(_, role)| *role)
}

/// Every RPC there is. Reading a file or listing a directory wakes the sandbox, and so is no reader's.
pub const RPCS: &[(&str, Role)] = &[
    ("/grpc.health.v1.Health/Check", Role::Reader),
    ("/grpc.health.v1.Health/Watch", Role::Reader),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Role::Reader),
    ("/hands.v1.Hands/Attach", Role::Reader),
    ("/hands.v1.Hands/Bash", Role::Operator),
    ("/hands.v1.Hands/Edit", Role::Operator),
    ("/hands.v1.Hands/GetRun", Role::Reader),
    ("/hands.v1.Hands/Glob", Role::Operator),
    ("/hands.v1.Hands/Grep", Role::Operator),
    ("/hands.v1.Hands/Input", Role::Operator),
    ("/hands.v1.Hands/KillRun", Role::Operator),
    ("/hands.v1.Hands/ListRuns", Role::Reader),
    ("/hands.v1.Hands/Ls", Role::Operator),
    ("/hands.v1.Hands/Mkdir", Role::Operator),
    ("/hands.v1.Hands/Read", Role::Operator),
    ("/hands.v1.Hands/Remove", Role::Operator),
    ("/hands.v1.Hands/Rename", Role::Operator),
    ("/hands.v1.Hands/Stat", Role::Operator),
    ("/hands.v1.Hands/Write", Role::Operator),
    ("/hands.v1.Node/Drain", Role::Admin),
    ("/hands.v1.Node/Events", Role::Reader),
    ("/hands.v1.Node/Info", Role::Reader),
    ("/hands.v1.Sandboxes/Create", Role::Operator),
    ("/hands.v1.Sandboxes/Destroy", Role::Operator),
    ("/hands.v1.Sandboxes/Forward", Role::Operator),
    ("/hands.v1.Sandboxes/Get", Role::Reader),
    ("/hands.v1.Sandboxes/Hibernate", Role::Operator),
    ("/hands.v1.Sandboxes/List", Role::Reader),
    ("/hands.v1.Sandboxes/Ports", Role::Reader),
    ("/hands.v1.Sandboxes/Preview", Role::Operator),
    ("/hands.v1.Sandboxes/SetLimits", Role::Operator),
    ("/hands.v1.Sandboxes/SetNetwork", Role::Operator),
    ("/hands.v1.Sandboxes/Touch", Role::Operator),
    ("/hands.v1.Sandboxes/Wake", Role::Operator),
    ("/hands.v1.Sandboxes/Watch", Role::Reader),
    ("/hands.v1.Sessions/Archive", Role::Operator),
    ("/hands.v1.Sessions/Cancel", Role::Operator),
    ("/hands.v1.Sessions/Create", Role::Operator),
    ("/hands.v1.Sessions/CreateAgent", Role::Operator),
    ("/hands.v1.Sessions/CreateCredential", Role::Operator),
    ("/hands.v1.Sessions/DeleteCredential", Role::Operator),
    ("/hands.v1.Sessions/Events", Role::Reader),
    ("/hands.v1.Sessions/Get", Role::Reader),
    ("/hands.v1.Sessions/GetAgent", Role::Reader),
    ("/hands.v1.Sessions/List", Role::Reader),
    ("/hands.v1.Sessions/ListAgents", Role::Reader),
    ("/hands.v1.Sessions/ListCredentials", Role::Reader),
    ("/hands.v1.Sessions/Result", Role::Reader),
    ("/hands.v1.Sessions/Send", Role::Operator),
    ("/hands.v1.Sessions/Turns", Role::Reader),
    ("/hands.v1.Sessions/UpdateAgent", Role::Operator),
    ("/hands.v1.Sessions/UpdateCredential", Role::Operator),
];

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 990;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn client(name: &str, role: Role, proof: Proof) -> Client {
        Client { caller: Arc::new(Caller { name: name.to_owned(), role, scope: Scope::default() }), proof }
    }

    fn roster() -> Roster {
        let clients = vec![
            client("plane", Role::Operator, Proof::Certificate("plane.example".to_owned())),
            client("bot", Role::Reader, Proof::Token(TokenHash::of("right"))),
            client("bot", Role::Reader, Proof::Token(TokenHash::of("next"))),
            client("ada", Role::Operator, Proof::Uid(1000)),
        ];
        Roster::new(clients, OWN)
    }

    fn name(peer: &Peer, token: Option<&str>) -> Result<String, Refusal> {
        let token = token.map(TokenHash::of);
        roster().identify(peer, token.as_ref()).map(|caller| caller.name.clone())
    }

    fn tls(names: &[&str]) -> Peer {
        Peer::Tls { names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_local_user_is_known_by_its_id() {
        for (uid, expected) in [(0, Ok("local")), (OWN, Ok("local")), (1000, Ok("ada")), (7, Err(Refusal::Unknown))] {
            assert_eq!(name(&Peer::Local { uid }, None), expected.map(str::to_owned), "{uid}");
        }
    }

    #[test]
    fn a_certificate_counts_by_any_of_its_names() {
        assert_eq!(name(&tls(&["other", "plane.example"]), None), Ok("plane".to_owned()));
        for names in [&[][..], &["plane.example.org"], &["Plane"]] {
            assert_eq!(name(&tls(names), None), Err(Refusal::Unknown), "{names:?}");
        }
    }

    #[test]
    fn a_token_decides_alone() {
        for peer in [Peer::Local { uid: 0 }, Peer::Loopback, tls(&[]), tls(&["plane.example"])] {
            assert_eq!(name(&peer, Some("right")), Ok("bot".to_owned()), "{peer:?}");
            assert_eq!(name(&peer, Some("next")), Ok("bot".to_owned()), "{peer:?}");
            assert_eq!(name(&peer, Some("wrong")), Err(Refusal::WrongToken), "{peer:?}");
        }
    }

    #[test]
    fn a_loopback_port_is_open_only_while_no_client_is_named() {
        assert_eq!(name(&Peer::Loopback, None), Err(Refusal::Unknown));
        let open = Roster::new(Vec::new(), OWN);
        assert_eq!(open.identify(&Peer::Loopback, None).unwrap().role, Role::Admin);
        assert_eq!(open.identify(&tls(&[]), None), Err(Refusal::Unknown));
        assert_eq!(open.identify(&Peer::Local { uid: 7 }, None), Err(Refusal::Unknown));
    }

    #[test]
    fn a_role_may_what_the_lesser_ones_may_and_an_rpc_that_nobody_decided_on_is_the_admins() {
        let may = |role, path| check(&Caller { name: "x".to_owned(), role, scope: Scope::default() }, path).is_ok();
        let table = [
            ("/hands.v1.Sandboxes/Get", [true, true, true]),
            ("/hands.v1.Hands/Bash", [false, true, true]),
            ("/hands.v1.Hands/Invented", [false, false, true]),
            ("", [false, false, true]),
        ];
        for (path, expected) in table {
            assert_eq!([Role::Reader, Role::Operator, Role::Admin].map(|role| may(role, path)), expected, "{path}");
        }
    }

    #[test]
    fn no_rpc_is_in_the_table_twice() {
        assert!(RPCS.windows(2).all(|pair| pair[0].0 < pair[1].0), "it is not sorted");
    }

    #[test]
    fn a_scope_covers_what_has_all_of_its_labels() {
        let scope = Scope(labels(&[("tenant", "a"), ("tier", "1")]));
        assert!(scope.covers(&labels(&[("tenant", "a"), ("tier", "1"), ("more", "")])));
        for other in [&[][..], &[("tenant", "a")], &[("tenant", "b"), ("tier", "1")]] {
            assert!(!scope.covers(&labels(other)), "{other:?}");
        }
        assert!(Scope::default().covers(&BTreeMap::new()));
    }
}
