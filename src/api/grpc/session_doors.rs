//! The sessions as a caller may know of them: as [`doors`](super::doors) are for sandboxes.
//!
//! Agents and credentials are the node's. Whoever may call can look at agents and make sessions of them; who is bound to
//! labels changes none, and hears of no credentials.

use tonic::Request;

use super::call::Call;
use super::doors::{bound, unbound};
use crate::api::convert::sessions as convert;
use crate::api::status::Fault;
use crate::auth::policy::Scope;
use crate::ids::SessionId;
use crate::session::{NewSession, Page, Session, SessionError, SessionFilter, Sessions};

/// The way to the sessions.
pub struct SessionDoors {
    sessions: Sessions,
}

/// What one call may know of.
pub struct SessionDoor<'a> {
    sessions: &'a Sessions,
    call: Call,
}

impl SessionDoors {
    /// The way to these.
    #[must_use]
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    /// The door for the call of a request, and what the request says.
    ///
    /// # Errors
    /// As [`Call::of`].
    pub fn enter<T>(&self, request: Request<T>) -> Result<(SessionDoor<'_>, T), Fault> {
        let (_, extensions, message) = request.into_parts();
        Ok((SessionDoor { sessions: &self.sessions, call: Call::of(&extensions)? }, message))
    }
}

impl SessionDoor<'_> {
    /// Agents, to look at.
    #[must_use]
    pub fn agents(&self) -> &Sessions {
        self.sessions
    }

    /// What is the whole node's, to change it; `what` are agents or credentials.
    ///
    /// # Errors
    /// The caller is bound to labels.
    pub fn of_node(&self, what: &str) -> Result<&Sessions, Fault> {
        unbound(self.scope()?, what)?;
        Ok(self.sessions)
    }

    /// A session by the text of its id, which is the caller's; from here on, the call is about it.
    ///
    /// # Errors
    /// There is none with this id, or it is none of the caller's.
    pub async fn find(&self, id: &str) -> Result<(&Sessions, SessionId), Fault> {
        let (id, scope) = (convert::session_id(id)?, self.scope()?);
        // Of the others, whatever is asked of the session says whether it is there.
        if !scope.is_all() && !scope.covers(&self.sessions.get(&id).await?.profile.labels) {
            return Err(SessionError::NotFound(id).into());
        }
        self.call.is_about_session(&id);
        Ok((self.sessions, id))
    }

    /// Makes a session, which has to have the caller's labels.
    ///
    /// # Errors
    /// It does not, or it cannot be made.
    pub async fn create(&self, wish: NewSession) -> Result<Session, Fault> {
        let scope = self.scope()?;
        bound(scope, &wish.labels)?;
        let created = self.sessions.create(NewSession { scope: scope.0.clone(), ..wish }).await?;
        self.call.is_about_session(&created.session.id);
        Ok(created.session)
    }

    /// A page of those that a filter finds: before which, and how many.
    ///
    /// # Errors
    /// As [`Sessions::list`].
    pub async fn list(
        &self,
        filter: SessionFilter,
        before: Option<SessionId>,
        limit: usize,
    ) -> Result<Page<Session>, Fault> {
        let Some(labels) = self.scope()?.narrowed(&filter.labels) else {
            return Ok(Page { items: Vec::new(), has_more: false });
        };
        Ok(self.sessions.list(SessionFilter { labels, ..filter }, before, limit).await?)
    }

    fn scope(&self) -> Result<&Scope, Fault> {
        Ok(&self.call.caller()?.scope)
    }
}
