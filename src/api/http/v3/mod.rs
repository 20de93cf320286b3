//! `/v3`: durable agent sessions, as OpenComputer's client knows them.
//!
//! | file | owns |
//! |---|---|
//! | `convert` | between its JSON and the domain (pure) |
//! | `agents`, `credentials`, `sessions`, `events`, `tokens`, `destinations` | a resource each |

use super::routes::Routes;

mod agents;
pub mod convert;
mod credentials;
mod destinations;
mod events;
mod sessions;
mod tokens;

/// Their routes.
pub fn routes() -> Routes {
    agents::routes()
        .and(credentials::routes())
        .and(sessions::routes())
        .and(events::routes())
        .and(tokens::routes())
        .and(destinations::routes())
}
