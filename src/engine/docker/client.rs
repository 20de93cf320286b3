//! Calls to Docker, each with a deadline.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, ContainerUpdateBody, SystemInfo,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;
use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use tokio::time::timeout;

use crate::engine::EngineError;

/// Of a call that only looks. Docker answers it in a millisecond.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// Of a call that makes or ends a container: a quarter of a second when the node is idle.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);

/// bollard's own, which has to be above every one of ours: pulls take long.
pub const LONGEST: Duration = Duration::from_secs(3600);

const NOT_FOUND: u16 = 404;
const NOT_MODIFIED: u16 = 304;
const CONFLICT: u16 = 409;

/// A handle on a Docker engine. Every call makes a connection of its own, so an engine that comes back is found again.
#[derive(Debug, Clone)]
pub struct Client {
    docker: bollard::Docker,
}

impl Client {
    /// Finds the engine behind a socket, and the newest version of the API that both sides speak.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`]
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let step = format!("reach Docker at {}", socket.display());
        let path = socket.to_string_lossy();
        let docker = bollard::Docker::connect_with_unix(&path, LONGEST.as_secs(), API_DEFAULT_VERSION);
        let docker = docker.map_err(|error| unavailable(&step, error))?;
        let negotiated = timeout(LOOK_DEADLINE, docker.negotiate_version()).await;
        let docker = negotiated.map_err(|_| late(&step))?.map_err(|error| unavailable(&step, error))?;
        let prefix = format!("/v{}", docker.client_version());
        let docker = docker.with_request_modifier(move |mut request| {
            *request.uri_mut() = below(&prefix, request.uri());
            request
        });
        Ok(Self { docker })
    }

    /// What has no method here.
    pub fn raw(&self) -> &bollard::Docker {
        &self.docker
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`]
    pub async fn ping(&self) -> Result<(), EngineError> {
        call("ask Docker for a sign of life", LOOK_DEADLINE, self.docker.ping()).await.map(drop)
    }

    /// What the engine and its node can do.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn info(&self) -> Result<SystemInfo, EngineError> {
        call("ask Docker about itself", LOOK_DEADLINE, self.docker.info()).await
    }

    /// Makes a container, which does not run yet; answers its id.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = call("make the container", CHANGE_DEADLINE, self.docker.create_container(Some(options), body));
        Ok(made.await?.id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn start(&self, container: &str) -> Result<(), EngineError> {
        let starting = self.docker.start_container(container, None::<StartContainerOptions>);
        call("start the container", CHANGE_DEADLINE, starting).await
    }

    /// Ends a container's processes at once; of one without, it does nothing.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn stop(&self, container: &str) -> Result<(), EngineError> {
        let options = StopContainerOptionsBuilder::new().t(0).build();
        let stopping = async {
            match self.docker.stop_container(container, Some(options)).await {
                Err(Error::DockerResponseServerError { status_code: NOT_MODIFIED, .. }) => Ok(()),
                result => result,
            }
        };
        call("stop the container", CHANGE_DEADLINE, stopping).await
    }

    /// How a container stands.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, EngineError> {
        let looking = self.docker.inspect_container(container, None::<InspectContainerOptions>);
        call("inspect the container", LOOK_DEADLINE, looking).await
    }

    /// Makes a container's processes stand still. One that does already stays so.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn pause(&self, container: &str) -> Result<(), EngineError> {
        let pausing = unless_it_is_so(self.docker.pause_container(container));
        call("pause the container", CHANGE_DEADLINE, pausing).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn unpause(&self, container: &str) -> Result<(), EngineError> {
        let unpausing = unless_it_is_so(self.docker.unpause_container(container));
        call("unpause the container", CHANGE_DEADLINE, unpausing).await
    }

    /// Changes a container's limits.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn update(&self, container: &str, limits: ContainerUpdateBody) -> Result<(), EngineError> {
        call("set the container's limits", CHANGE_DEADLINE, self.docker.update_container(container, limits)).await
    }

    /// The containers that have all of some labels, running or not.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn list(&self, labels: Vec<String>) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = HashMap::from([("label", labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        call("list containers", LOOK_DEADLINE, self.docker.list_containers(Some(options))).await
    }

    /// Ends a container and removes it and its volumes; answers whether it is gone, or still being removed because
    /// somebody else has begun to. One that is not there is gone.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn remove(&self, container: &str) -> Result<bool, EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removing = async {
            match self.docker.remove_container(container, Some(options)).await {
                Ok(()) => Ok(true),
                Err(Error::DockerResponseServerError { status_code: NOT_FOUND | NOT_MODIFIED, .. }) => Ok(true),
                Err(Error::DockerResponseServerError { status_code: CONFLICT, .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        call("remove the container", CHANGE_DEADLINE, removing).await
    }

    /// Waits until a container is "not-running" or "removed". However Docker answers, it is: by then, or before it was
    /// asked.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] if it is not in time.
    pub async fn wait(&self, container: &str, condition: &str, deadline: Duration) -> Result<(), EngineError> {
        let options = WaitContainerOptionsBuilder::new().condition(condition).build();
        let mut answers = self.docker.wait_container(container, Some(options)).boxed();
        let answered = async {
            answers.next().await;
            Ok(())
        };
        call(&format!("wait until the container is {condition}"), deadline, answered).await
    }
}

/// What is asked for, in a version of the API: bollard leaves that out, and then Docker speaks its newest.
fn below(prefix: &str, uri: &Uri) -> Uri {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{prefix}{path}").parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Waits for a call, but not longer than its deadline.
///
/// # Errors
/// [`EngineError::Step`] if Docker answers that it cannot, else [`EngineError::Unavailable`].
pub async fn call<T>(
    step: &str,
    deadline: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match timeout(deadline, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error @ (Error::DockerResponseServerError { .. } | Error::DockerStreamError { .. }))) => {
            Err(EngineError::Step { step: step.to_owned(), source: io::Error::other(error) })
        }
        Ok(Err(error)) => Err(unavailable(step, error)),
        Err(_) => Err(late(step)),
    }
}

/// Docker answers a conflict to who pauses what is paused, and the like.
async fn unless_it_is_so(change: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    match change.await {
        Err(Error::DockerResponseServerError { status_code: CONFLICT, .. }) => Ok(()),
        result => result,
    }
}

/// Docker says that there is no such thing.
pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: NOT_FOUND, .. })
}

/// Docker cannot be talked to.
pub fn unavailable(step: &str, error: Error) -> EngineError {
    EngineError::Unavailable { step: step.to_owned(), source: io::Error::other(error) }
}

fn late(step: &str) -> EngineError {
    EngineError::Unavailable { step: step.to_owned(), source: io::ErrorKind::TimedOut.into() }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::telemetry::chain;

    /// The first line of what is asked next, which is answered.
    async fn answer(docker: &UnixListener, status: &str, body: &str) -> String {
        let (mut stream, _) = docker.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(&[answer.as_bytes(), body.as_bytes()].concat()).await.unwrap();
        String::from_utf8(head).unwrap().lines().next().unwrap_or_default().to_owned()
    }

    /// What is asked of a Docker that speaks these versions, after it has said so.
    async fn asked(newest: &str, oldest: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let docker = UnixListener::bind(&path).unwrap();
        let versions = format!(r#"{{"ApiVersion":"{newest}","MinAPIVersion":"{oldest}"}}"#);
        let asking = async { Client::connect(&path).await.unwrap().info().await.unwrap() };
        let answering = async {
            answer(&docker, "200 OK", &versions).await;
            answer(&docker, "200 OK", "{}").await
        };
        tokio::join!(asking, answering).1
    }

    #[tokio::test]
    async fn the_newest_version_that_both_sides_know_is_spoken() {
        let ours = API_DEFAULT_VERSION;
        assert_eq!(asked("1.41", "1.12").await, "GET /v1.41/info HTTP/1.1");
        assert_eq!(asked("1.52", "1.44").await, "GET /v1.52/info HTTP/1.1");
        assert_eq!(asked("1.999", "1.44").await, format!("GET /v{ours}/info HTTP/1.1"));
    }

    #[tokio::test]
    async fn a_docker_that_speaks_no_version_of_ours_says_so_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let docker = UnixListener::bind(&path).unwrap();
        let asking = async { Client::connect(&path).await.unwrap().info().await.unwrap_err() };
        let answering = async {
            answer(&docker, "200 OK", r#"{"ApiVersion":"1.999","MinAPIVersion":"1.998"}"#).await;
            answer(&docker, "400 Bad Request", r#"{"message":"client version is too old"}"#).await
        };
        let (refused, _) = tokio::join!(asking, answering);
        assert!(chain(&refused).to_string().contains("client version is too old"), "{refused:?}");
    }
}
