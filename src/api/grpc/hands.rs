//! `hands.v1.Hands`

use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use super::ReplyStream;
use super::doors::Doors;
use crate::api::convert::{self, Deadlines, Edit, InputAction};
use crate::api::proto::hands_server::Hands as Service;
use crate::api::proto::{
    AttachRequest, BashRequest, EditRequest, EditResponse, FileInfo, GetRunRequest, GlobRequest, GlobResponse,
    GrepRequest, GrepResponse, InputRequest, InputResponse, KillRunRequest, KillRunResponse, ListRunsRequest,
    ListRunsResponse, LsRequest, LsResponse, MkdirRequest, ReadRequest, ReadResponse, RemoveRequest, RemoveResponse,
    RenameRequest, Run as RunMessage, RunEvent, StatRequest, WriteRequest, WriteResponse, read_response, write_request,
};
use crate::api::status::Fault;
use crate::hands::files::{DEFAULT_DIRECTORY_MODE, ReadPart};
use crate::hands::{Events, Input, Run};
use crate::sandbox::Sandboxes;
use crate::sandbox::runtime::is_check;

/// The service.
pub struct HandsService {
    doors: Doors,
    deadlines: Deadlines,
}

impl HandsService {
    /// Serves the hands of these sandboxes.
    #[must_use]
    pub fn new(sandboxes: Sandboxes, deadlines: Deadlines) -> Self {
        Self { doors: Doors::new(sandboxes), deadlines }
    }
}

/// The events of a run, from a cursor.
fn events(run: Run, cursor: u64) -> Result<Response<ReplyStream<RunEvent>>, Status> {
    let events = Events::from(run, cursor).map_err(Fault::from)?;
    let messages = stream::unfold(Some(events), |events| async {
        let mut events = events?;
        match events.next().await {
            Ok(Some(event)) => Some((Ok(convert::event(event)), Some(events))),
            Ok(None) => None,
            Err(error) => Some((Err(Fault::from(error).into()), None)),
        }
    });
    Ok(Response::new(Box::pin(messages)))
}

#[tonic::async_trait]
impl Service for HandsService {
    type BashStream = ReplyStream<RunEvent>;
    type AttachStream = ReplyStream<RunEvent>;
    type ReadStream = ReplyStream<ReadResponse>;

    async fn bash(&self, request: Request<BashRequest>) -> Result<Response<Self::BashStream>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sandbox, command, key) = convert::command(request, self.deadlines)?;
        let (hands, lease) = door.awake(&sandbox).await?;
        let run = hands.start(command, key, Some(lease)).await.map_err(Fault::from)?;
        door.has_started(&run);
        events(run, 0)
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (_, run) = door.run(&request.sandbox_id, &request.run_id).await?;
        events(run, request.cursor)
    }

    async fn input(&self, request: Request<Streaming<InputRequest>>) -> Result<Response<InputResponse>, Status> {
        let (door, mut messages) = self.doors.enter(request)?;
        let mut target = None;
        let mut bytes = 0;
        while let Some(message) = messages.message().await? {
            let (hands, run) = match &target {
                Some(target) => target,
                None => target.insert(door.run(&message.sandbox_id, &message.run_id).await?),
            };
            match convert::input(message.input)? {
                None => {}
                Some(InputAction::Signal(signal)) => hands.signal(run, signal).await.map_err(Fault::from)?,
                Some(InputAction::Write(input)) => {
                    let length = if let Input::Data(data) = &input { data.len() as u64 } else { 0 };
                    run.input(input).await.map_err(Fault::from)?;
                    bytes += length;
                }
            }
        }
        match target {
            Some(_) => Ok(Response::new(InputResponse { bytes })),
            None => Err(Fault::argument("sandbox_id", "is missing: there was no message").into()),
        }
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let id = convert::sandbox_id(&request.sandbox_id)?;
        let runs = door.hands(&id)?.runs();
        let runs = runs.iter().filter(|run| !is_check(run)).filter_map(|run| convert::run(&id, run)).collect();
        Ok(Response::new(ListRunsResponse { runs }))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<RunMessage>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let id = convert::sandbox_id(&request.sandbox_id)?;
        let (_, run) = door.run(&request.sandbox_id, &request.run_id).await?;
        let message = convert::run(&id, &run);
        Ok(Response::new(message.ok_or_else(|| Fault::from(crate::hands::RunError::NotFound(run.id().clone())))?))
    }

    async fn kill_run(&self, request: Request<KillRunRequest>) -> Result<Response<KillRunResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (hands, run) = door.run(&request.sandbox_id, &request.run_id).await?;
        if request.signal != 0 {
            let signal = convert::signal(request.signal)?;
            hands.signal(&run, signal).await.map_err(Fault::from)?;
            return Ok(Response::new(KillRunResponse { exited: None }));
        }
        let grace = convert::grace(request.grace, self.doors.defaults().runs.kill_grace)?;
        let exited = run.cancel(grace).await.map_err(Fault::from)?;
        Ok(Response::new(KillRunResponse { exited: Some(convert::exited(exited)) }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let range = convert::read_range(&request)?;
        let (hands, lease) = door.awake_by(&request.sandbox_id).await?;
        let path = convert::path("path", request.path)?;
        let reading = hands.files().read(&path, range).await.map_err(Fault::from)?;
        let stat = read_response::Part::Stat(convert::file_info(&reading.info));
        let rest = reading.into_stream().map(|part| match part {
            Ok(ReadPart::Data(data)) => Ok(read_response::Part::Data(data)),
            Ok(ReadPart::End(end)) => {
                Ok(read_response::Part::End(crate::api::proto::ReadEnd { eof: end.eof, next_offset: end.next_offset }))
            }
            Err(error) => Err(Status::from(Fault::from(error))),
        });
        let parts = stream::iter([Ok(stat)]).chain(rest);
        let mut lease = Some(lease);
        let messages = parts.map(move |part| {
            if !matches!(part, Ok(read_response::Part::Stat(_) | read_response::Part::Data(_))) {
                // Before the client can see the end, so that what it asks for next finds the sandbox unused.
                drop(lease.take());
            }
            part.map(|part| ReadResponse { part: Some(part) })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        let (door, mut messages) = self.doors.enter(request)?;
        let first = messages.message().await?.and_then(|message| message.part);
        let Some(write_request::Part::Header(header)) = first else {
            return Err(Fault::argument("header", "must come first").into());
        };
        let (sandbox, options) = convert::write_options(header)?;
        let (hands, _lease) = door.awake(&sandbox).await?;
        let mut writing = hands.files().write(options).await.map_err(Fault::from)?;
        while let Some(message) = messages.message().await? {
            match message.part {
                Some(write_request::Part::Data(data)) => {
                    convert::check_chunk(data.len())?;
                    writing.push(data).await.map_err(Fault::from)?;
                }
                Some(write_request::Part::Header(_)) => return Err(Fault::argument("header", "came twice").into()),
                None => {}
            }
        }
        let written = writing.finish().await.map_err(Fault::from)?;
        Ok(Response::new(WriteResponse { size: written.size, sha256: written.sha256.to_string() }))
    }

    async fn ls(&self, request: Request<LsRequest>) -> Result<Response<LsResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sandbox, options) = convert::list_options(request)?;
        let (hands, _lease) = door.awake(&sandbox).await?;
        let page = hands.files().list(options).await.map_err(Fault::from)?;
        let entries = page.entries.iter().map(convert::file_info).collect();
        Ok(Response::new(LsResponse { entries, next_page_token: page.next_page_token.unwrap_or_default() }))
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<FileInfo>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (hands, _lease) = door.awake_by(&request.sandbox_id).await?;
        let path = convert::path("path", request.path)?;
        let files = hands.files();
        let info = if request.follow { files.stat_target(&path).await } else { files.stat(&path).await };
        Ok(Response::new(convert::file_info(&info.map_err(Fault::from)?)))
    }

    async fn mkdir(&self, request: Request<MkdirRequest>) -> Result<Response<FileInfo>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (hands, _lease) = door.awake_by(&request.sandbox_id).await?;
        let path = convert::path("path", request.path)?;
        let mode = convert::mode(request.mode.unwrap_or(DEFAULT_DIRECTORY_MODE))?;
        let files = hands.files();
        let info = if request.parents { files.mkdir_all(&path, mode).await } else { files.mkdir(&path, mode).await };
        Ok(Response::new(convert::file_info(&info.map_err(Fault::from)?)))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (hands, _lease) = door.awake_by(&request.sandbox_id).await?;
        let path = convert::path("path", request.path)?;
        let files = hands.files();
        let removed = if request.recursive { files.remove_all(&path).await } else { files.remove(&path).await };
        removed.map_err(Fault::from)?;
        Ok(Response::new(RemoveResponse {}))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Result<Response<FileInfo>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (hands, _lease) = door.awake_by(&request.sandbox_id).await?;
        let (from, to) = (convert::path("from", request.from)?, convert::path("to", request.to)?);
        let files = hands.files();
        let info = if request.replace { files.rename_over(&from, &to).await } else { files.rename(&from, &to).await };
        Ok(Response::new(convert::file_info(&info.map_err(Fault::from)?)))
    }

    async fn edit(&self, request: Request<EditRequest>) -> Result<Response<EditResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let Edit { sandbox, path, old, new, which } = convert::edit(request)?;
        let (hands, _lease) = door.awake(&sandbox).await?;
        let edited = hands.files().edit(&path, &old, &new, which).await.map_err(Fault::from)?;
        Ok(Response::new(convert::edited(edited)))
    }

    async fn glob(&self, request: Request<GlobRequest>) -> Result<Response<GlobResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let limit = convert::search_limit(request.limit)?;
        let pattern = convert::path("pattern", request.pattern)?;
        let path = convert::directory(request.path)?;
        let (hands, _lease) = door.awake_by(&request.sandbox_id).await?;
        let found = hands.files().glob(&pattern, &path, limit).await.map_err(Fault::from)?;
        Ok(Response::new(convert::globbed(&found)))
    }

    async fn grep(&self, request: Request<GrepRequest>) -> Result<Response<GrepResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (sandbox, options) = convert::grep_options(request)?;
        let (hands, _lease) = door.awake(&sandbox).await?;
        let found = hands.files().grep(&options).await.map_err(Fault::from)?;
        Ok(Response::new(convert::grepped(&found)))
    }
}
