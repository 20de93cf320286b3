//! The sandboxes as a caller may know of them.
//!
//! Services hold [`Doors`] and not the sandboxes themselves, so that none of them can reach a sandbox without saying for
//! which call: what is outside of the caller's labels is as good as not there.

use std::collections::BTreeMap;

use tonic::{Code, Request};

use super::call::Call;
use crate::api::convert;
use crate::api::proto::ErrorReason;
use crate::api::status::Fault;
use crate::auth::policy::Scope;
use crate::hands::{Hands, Run};
use crate::ids::SandboxId;
use crate::network::policy::Policy;
use crate::network::secrets::Binding;
use crate::sandbox::{Defaults, Lease, Sandbox, SandboxError, Sandboxes, Wish};

/// Refuses labels that lack one that the caller is bound to.
///
/// # Errors
/// They do.
pub fn bound(scope: &Scope, labels: &BTreeMap<String, String>) -> Result<(), Fault> {
    if scope.covers(labels) {
        return Ok(());
    }
    let message = format!("labels: must hold {scope}, which the caller is bound to");
    Err(Fault::new(Code::PermissionDenied, ErrorReason::Forbidden, message))
}

/// Refuses a caller who is bound to labels what is the whole node's.
///
/// # Errors
/// The caller is.
pub fn unbound(scope: &Scope, what: &str) -> Result<(), Fault> {
    if scope.is_all() {
        return Ok(());
    }
    let message = format!("{what} are the node's, and the caller is bound to {scope}");
    Err(Fault::new(Code::PermissionDenied, ErrorReason::Forbidden, message))
}

/// The way to the sandboxes.
#[derive(Clone)]
pub struct Doors {
    sandboxes: Sandboxes,
}

/// What one call may know of.
pub struct Door<'a> {
    sandboxes: &'a Sandboxes,
    call: Call,
}

impl Doors {
    /// The way to these.
    #[must_use]
    pub fn new(sandboxes: Sandboxes) -> Self {
        Self { sandboxes }
    }

    /// The door for the call of a request, and what the request says.
    ///
    /// # Errors
    /// As [`Call::of`].
    pub fn enter<T>(&self, request: Request<T>) -> Result<(Door<'_>, T), Fault> {
        let (_, extensions, message) = request.into_parts();
        Ok((Door { sandboxes: &self.sandboxes, call: Call::of(&extensions)? }, message))
    }

    /// What requests that leave it out get.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        self.sandboxes.defaults()
    }
}

impl Door<'_> {
    /// A sandbox, by the text of its id; from here on, the call is about it.
    ///
    /// # Errors
    /// There is none with this id, or it is none of the caller's.
    pub fn find(&self, id: &str) -> Result<Sandbox, Fault> {
        self.get(&convert::sandbox_id(id)?)
    }

    /// As [`Door::find`].
    ///
    /// # Errors
    /// The same.
    pub fn get(&self, id: &SandboxId) -> Result<Sandbox, Fault> {
        let sandbox = self.sandboxes.get(id)?;
        if !self.scope()?.covers(&sandbox.profile().labels) {
            return Err(SandboxError::NotFound(id.clone()).into());
        }
        self.call.is_about(id);
        Ok(sandbox)
    }

    /// Its hands, to look at: a sandbox that sleeps goes on sleeping.
    ///
    /// # Errors
    /// As [`Door::find`], or it is in a phase without hands.
    pub fn hands(&self, id: &SandboxId) -> Result<Hands, Fault> {
        Ok(self.get(id)?.hands()?)
    }

    /// Its hands, to use: it is awake as long as the lease is held.
    ///
    /// # Errors
    /// As [`Door::find`], or it does not wake.
    pub async fn awake(&self, id: &SandboxId) -> Result<(Hands, Lease), Fault> {
        Ok(self.get(id)?.awake().await?)
    }

    /// As [`Door::awake`], by the text of its id.
    ///
    /// # Errors
    /// The same.
    pub async fn awake_by(&self, id: &str) -> Result<(Hands, Lease), Fault> {
        self.awake(&convert::sandbox_id(id)?).await
    }

    /// A run, and the hands that have it; from here on, the call is about it.
    ///
    /// # Errors
    /// As [`Door::awake`], or there is no such run.
    pub async fn run(&self, sandbox: &str, run: &str) -> Result<(Hands, Run), Fault> {
        let hands = self.find(sandbox)?.hands_of_before().await?;
        let run = hands.run(&convert::run_id(run)?)?;
        self.call.is_about_run(run.id());
        Ok((hands, run))
    }

    /// Changes what a sandbox may reach, as far as the node gives it.
    ///
    /// # Errors
    /// More is asked for, or it cannot be changed.
    pub async fn set_network(&self, sandbox: &Sandbox, policy: Policy, secrets: Vec<Binding>) -> Result<(), Fault> {
        Ok(self.sandboxes.set_network(sandbox, policy, secrets).await?)
    }

    /// Notes that the call is about a run that it has started.
    pub fn has_started(&self, run: &Run) {
        self.call.is_about_run(run.id());
    }

    /// A page of those that have the labels; and whether there are more.
    ///
    /// # Errors
    /// As [`Call::of`].
    pub fn list(
        &self,
        after: Option<&SandboxId>,
        limit: usize,
        labels: &BTreeMap<String, String>,
    ) -> Result<(Vec<Sandbox>, bool), Fault> {
        let labels = self.scope()?.narrowed(labels);
        // What is asked for and is not the caller's is nowhere.
        Ok(labels.map(|labels| self.sandboxes.list(after, limit, &labels)).unwrap_or_default())
    }

    /// Makes a sandbox, which has to have the caller's labels.
    ///
    /// # Errors
    /// It does not, or it cannot be made.
    pub async fn create(&self, wish: Wish, key: Option<String>) -> Result<Sandbox, Fault> {
        let scope = self.scope()?;
        bound(scope, &wish.labels)?;
        // Whose sandbox it is must not be found out by trying keys.
        let key = key.map(|key| if scope.is_all() { key } else { format!("{scope}: {key}") });
        let sandbox = self.sandboxes.create(wish, key).await?;
        self.call.is_about(&sandbox.profile().id);
        Ok(sandbox)
    }

    fn scope(&self) -> Result<&Scope, Fault> {
        Ok(&self.call.caller()?.scope)
    }
}
