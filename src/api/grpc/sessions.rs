//! `hands.v1.Sessions`

use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::ReplyStream;
use super::session_doors::SessionDoors;
use crate::api::convert::{credentials, sessions as convert};
use crate::api::proto::sessions_server::Sessions as Service;
use crate::api::proto::{
    Agent, ArchiveSessionRequest, CancelSessionRequest, CreateAgentRequest, CreateCredentialRequest,
    CreateSessionRequest, Credential, DeleteCredentialRequest, DeleteCredentialResponse, EventsRequest,
    GetAgentRequest, GetSessionRequest, ListAgentsRequest, ListAgentsResponse, ListCredentialsRequest,
    ListCredentialsResponse, ListSessionsRequest, ListSessionsResponse, ResultRequest, ResultResponse, SendRequest,
    SendResponse, Session, SessionEvent, TurnsRequest, TurnsResponse, UpdateAgentRequest, UpdateCredentialRequest,
};
use crate::api::status::Fault;
use crate::ids::SessionId;
use crate::session::{EventQuery, Sessions};

/// Events that are read at a time for a caller who does not follow.
const PAGE: usize = 256;

/// The service.
pub struct SessionsService {
    doors: SessionDoors,
}

impl SessionsService {
    /// Serves these sessions.
    #[must_use]
    pub fn new(sessions: Sessions) -> Self {
        Self { doors: SessionDoors::new(sessions) }
    }
}

/// The events there are behind a `seq`, page by page.
fn read_all(sessions: Sessions, id: SessionId, query: EventQuery) -> ReplyStream<SessionEvent> {
    let pages = stream::unfold(Some(query), move |query| {
        let (sessions, id) = (sessions.clone(), id.clone());
        async move {
            let mut query = query?;
            let page = match sessions.events(&id, query.clone(), PAGE).await {
                Ok(page) => page,
                Err(error) => return Some((vec![Err(Fault::from(error).into())], None)),
            };
            query.after = page.last()?.seq;
            Some((page.iter().map(|event| Ok(convert::event(event))).collect(), Some(query)))
        }
    });
    Box::pin(pages.flat_map(stream::iter))
}

#[tonic::async_trait]
impl Service for SessionsService {
    type EventsStream = ReplyStream<SessionEvent>;

    async fn create_agent(&self, request: Request<CreateAgentRequest>) -> Result<Response<Agent>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sessions = door.of_node("agents")?;
        let (spec, key) = convert::agent_spec(request)?;
        let made = sessions.create_agent(spec, key).await.map_err(Fault::from)?;
        Ok(Response::new(convert::agent(&made.agent)))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<Agent>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let name = convert::agent_name(request.agent)?;
        let agent = door.agents().agent(&name).await.map_err(Fault::from)?;
        Ok(Response::new(convert::agent(&agent)))
    }

    async fn update_agent(&self, request: Request<UpdateAgentRequest>) -> Result<Response<Agent>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sessions = door.of_node("agents")?;
        let name = convert::agent_name(request.agent.clone())?;
        let change = convert::agent_change(request);
        let agent = sessions.update_agent(&name, change).await.map_err(Fault::from)?;
        Ok(Response::new(convert::agent(&agent)))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (before, limit) = convert::agent_page(&request)?;
        let page = door.agents().agents(before, limit).await.map_err(Fault::from)?;
        let last = page.items.last().filter(|_| page.has_more).map(|agent| agent.id.to_string());
        let agents = page.items.iter().map(convert::agent).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token: last.unwrap_or_default() }))
    }

    async fn create_credential(
        &self,
        request: Request<CreateCredentialRequest>,
    ) -> Result<Response<Credential>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let all = door.of_node("credentials")?.credentials();
        let made = all.create(credentials::new_credential(request)).await.map_err(Fault::from)?;
        Ok(Response::new(credentials::credential(made)))
    }

    async fn list_credentials(
        &self,
        request: Request<ListCredentialsRequest>,
    ) -> Result<Response<ListCredentialsResponse>, Status> {
        let (door, ListCredentialsRequest {}) = self.doors.enter(request)?;
        let found = door.of_node("credentials")?.credentials().list().await.map_err(Fault::from)?;
        let credentials = found.into_iter().map(credentials::credential).collect();
        Ok(Response::new(ListCredentialsResponse { credentials }))
    }

    async fn update_credential(
        &self,
        request: Request<UpdateCredentialRequest>,
    ) -> Result<Response<Credential>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let all = door.of_node("credentials")?.credentials();
        let UpdateCredentialRequest { credential, key, make_default } = request;
        let id = all.get(&credential).await.map_err(Fault::from)?.id;
        if let Some(key) = key {
            all.replace(&id, &key.into()).await.map_err(Fault::from)?;
        }
        if make_default {
            all.set_default(&id).await.map_err(Fault::from)?;
        }
        let now = all.get(id.as_str()).await.map_err(Fault::from)?;
        Ok(Response::new(credentials::credential(now)))
    }

    async fn delete_credential(
        &self,
        request: Request<DeleteCredentialRequest>,
    ) -> Result<Response<DeleteCredentialResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let all = door.of_node("credentials")?.credentials();
        let found = all.get(&request.credential).await.map_err(Fault::from)?;
        all.remove(&found.id).await.map_err(Fault::from)?;
        Ok(Response::new(DeleteCredentialResponse {}))
    }

    async fn create(&self, request: Request<CreateSessionRequest>) -> Result<Response<Session>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let session = door.create(convert::new_session(request)?).await?;
        Ok(Response::new(convert::session(&session)))
    }

    async fn get(&self, request: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sessions, id) = door.find(&request.session_id).await?;
        let session = sessions.get(&id).await.map_err(Fault::from)?;
        Ok(Response::new(convert::session(&session)))
    }

    async fn list(&self, request: Request<ListSessionsRequest>) -> Result<Response<ListSessionsResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (filter, before, limit) = convert::session_page(&request)?;
        let page = door.list(filter, before, limit).await?;
        let last = page.items.last().filter(|_| page.has_more).map(|session| session.id.to_string());
        let sessions = page.items.iter().map(convert::session).collect();
        Ok(Response::new(ListSessionsResponse { sessions, next_page_token: last.unwrap_or_default() }))
    }

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sessions, id) = door.find(&request.session_id).await?;
        let (message, key) = convert::user_message(request)?;
        let sent = sessions.send(&id, message, key).await.map_err(Fault::from)?;
        Ok(Response::new(SendResponse {
            event_id: sent.event.to_string(),
            seq: sent.event.seq(),
            replayed: !sent.is_new,
            session: Some(convert::session(&sent.session)),
        }))
    }

    async fn cancel(&self, request: Request<CancelSessionRequest>) -> Result<Response<Session>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sessions, id) = door.find(&request.session_id).await?;
        let session = sessions.cancel(&id).await.map_err(Fault::from)?;
        Ok(Response::new(convert::session(&session)))
    }

    async fn archive(&self, request: Request<ArchiveSessionRequest>) -> Result<Response<Session>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sessions, id) = door.find(&request.session_id).await?;
        let session = sessions.archive(&id).await.map_err(Fault::from)?;
        Ok(Response::new(convert::session(&session)))
    }

    async fn result(&self, request: Request<ResultRequest>) -> Result<Response<ResultResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sessions, id) = door.find(&request.session_id).await?;
        let found = sessions.result(&id).await.map_err(Fault::from)?;
        let (last_turn, result) = (found.last_turn.as_ref(), found.result.as_ref());
        let response = ResultResponse { last_turn: last_turn.map(convert::turn), result: result.map(convert::event) };
        Ok(Response::new(response))
    }

    async fn turns(&self, request: Request<TurnsRequest>) -> Result<Response<TurnsResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sessions, id) = door.find(&request.session_id).await?;
        let (before, limit) = convert::turn_page(&request)?;
        let page = sessions.turns(&id, before, limit).await.map_err(Fault::from)?;
        let last = page.items.last().filter(|_| page.has_more).map(|turn| turn.number.to_string());
        let turns = page.items.iter().map(convert::turn).collect();
        Ok(Response::new(TurnsResponse { turns, next_page_token: last.unwrap_or_default() }))
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sessions, id) = door.find(&request.session_id).await?;
        let query = convert::event_query(&request)?;
        if !request.follow {
            sessions.get(&id).await.map_err(Fault::from)?;
            return Ok(Response::new(read_all(sessions.clone(), id, query)));
        }
        let events = sessions.follow(&id, query).await.map_err(Fault::from)?;
        let messages = events.map(|event| match event {
            Ok(event) => Ok(convert::event(&event)),
            Err(error) => Err(Fault::from(error).into()),
        });
        Ok(Response::new(Box::pin(messages)))
    }
}
