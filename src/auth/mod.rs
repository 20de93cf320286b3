//! Who calls, and what they may.
//!
//! A caller shows what it has: the user of its process (a unix socket), the names of its certificate (TLS), or a token.
//! [`policy`] says who that is and what they may call; it is pure. The rest carries: `tls` reads certificates and swaps
//! them while the daemon runs, `token` makes and compares tokens, `rate` bounds what one caller asks for, `audit` writes
//! down what was called and by whom.
//!
//! | through | who |
//! |---|---|
//! | the unix socket, as root or the daemon's own user | an admin |
//! | the unix socket, as another user | the client with this `uid` |
//! | TLS, with a certificate that the client CA signed | the client with one of its names |
//! | anything, with `authorization: Bearer TOKEN` | the client with this token, whatever else is shown |
//! | a loopback address without TLS, while no clients are named | an admin |
//!
//! Everybody else is refused.

pub mod audit;
pub mod policy;
pub mod rate;
pub mod tls;
pub mod token;

use audit::Audit;
use policy::Roster;
use rate::Limits;

/// What each call is checked against. A reload puts another in its place.
#[derive(Debug)]
pub struct Access {
    /// Who may call.
    pub roster: Roster,
    /// How much.
    pub limits: Limits,
    /// Where it is written down, if anywhere.
    pub audit: Option<Audit>,
}
