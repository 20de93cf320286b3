//! A node for tests: plays streams that were written beforehand and remembers what it was asked.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::hands_server::{Hands, HandsServer};
use handsd::api::proto::run_event::Event;
use handsd::api::proto::*;
use handsd::client::Channel;
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

pub fn started() -> Event {
    Event::Started(Started { run_id: "run_1".to_owned(), pid: 7, deadline: None })
}

pub fn output(cursor: u64, data: &'static [u8]) -> Event {
    Event::Output(Output { stream: OutputStream::Stdout.into(), cursor, data: data.into() })
}

pub fn exited(code: i32) -> Event {
    let reason = exited::Reason::Exited.into();
    Event::Exited(Exited { status: Some(exited::Status::Code(code)), reason, ..Default::default() })
}

/// An error as the node makes them.
pub fn error(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, "no", ErrorDetails::with_error_info(reason, "hands.v1", HashMap::new()))
}

/// The answer to one `Bash` or `Attach`.
pub struct Stream {
    events: Vec<Event>,
    end: Option<Status>,
}

impl Stream {
    /// Ends as it should.
    pub fn whole(events: impl IntoIterator<Item = Event>) -> Self {
        Self { events: events.into_iter().collect(), end: None }
    }

    /// Ends as a cut connection does.
    pub fn broken(events: impl IntoIterator<Item = Event>) -> Self {
        Self { events: events.into_iter().collect(), end: Some(Status::unavailable("cut")) }
    }
}

/// The node.
#[derive(Clone, Default)]
pub struct Node(Arc<State>);

#[derive(Default)]
struct State {
    streams: Mutex<VecDeque<Stream>>,
    calls: Mutex<Vec<String>>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    directories: Mutex<BTreeSet<String>>,
}

type Events<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

impl Node {
    /// One that answers with these streams, in this order.
    pub fn new(streams: impl IntoIterator<Item = Stream>) -> Self {
        let state = State { streams: Mutex::new(streams.into_iter().collect()), ..Default::default() };
        Self(Arc::new(state))
    }

    /// What it was asked, oldest first.
    pub fn calls(&self) -> Vec<String> {
        self.0.calls.lock().expect("no test panics while it holds it").clone()
    }

    /// A file's content, if it was written.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.0.files.lock().expect("no test panics while it holds it").get(path).cloned()
    }

    /// What is at the path: a link, if the path says so.
    fn info(&self, path: &str) -> Option<FileInfo> {
        let kind = if self.0.directories.lock().expect("no test panics while it holds it").contains(path) {
            FileType::Directory
        } else if path.ends_with("link") {
            FileType::Symlink
        } else {
            FileType::File
        };
        let size = if kind == FileType::Directory { 0 } else { self.file(path)?.len() as u64 };
        let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (name, path, target) = (name.to_owned(), path.to_owned(), "elsewhere".to_owned());
        Some(FileInfo { name, path, target, r#type: kind.into(), size, mode: 0o640, ..Default::default() })
    }

    /// What is directly in the directory.
    fn entries(&self, path: &str) -> Vec<FileInfo> {
        let files = self.0.files.lock().expect("no test panics while it holds it").clone().into_keys();
        let directories = self.0.directories.lock().expect("no test panics while it holds it").clone();
        let inside = |it: &String| it.rsplit_once('/').is_some_and(|(parent, _)| parent == path);
        files.chain(directories).filter(inside).filter_map(|it| self.info(&it)).collect()
    }

    /// Listens, until the handle is dropped.
    pub async fn serve(&self) -> (HandsClient<Channel>, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let service = HandsServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        let task = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("it serves")
        });
        let channel = handsd::client::connect(&address.parse().expect("an address")).await.expect("it listens");
        (handsd::client::hands(channel), AbortOnDropHandle::new(task))
    }

    fn note(&self, call: String) {
        self.0.calls.lock().expect("no test panics while it holds it").push(call);
    }

    fn play(&self) -> Result<Response<Events<RunEvent>>, Status> {
        let stream = self
            .0
            .streams
            .lock()
            .expect("no test panics while it holds it")
            .pop_front()
            .ok_or_else(|| error(Code::NotFound, "RUN_NOT_FOUND"))?;
        let events = stream.events.into_iter().map(|event| Ok(RunEvent { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events.chain(stream.end.map(Err))))))
    }
}

macro_rules! hands_service {
    ($($method:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl Hands for Node {
            type BashStream = Events<RunEvent>;
            type AttachStream = Events<RunEvent>;
            type ReadStream = Events<ReadResponse>;

            async fn bash(&self, request: Request<BashRequest>) -> Result<Response<Self::BashStream>, Status> {
                self.note(format!("bash {}", request.get_ref().idempotency_key));
                self.play()
            }

            async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
                self.note(format!("attach {} {}", request.get_ref().run_id, request.get_ref().cursor));
                self.play()
            }

            async fn input(&self, request: Request<Streaming<InputRequest>>) -> Result<Response<InputResponse>, Status> {
                let mut messages = request.into_inner();
                let mut bytes = 0;
                while let Some(message) = messages.next().await {
                    let message = message?;
                    match message.input {
                        Some(input_request::Input::Data(data)) => {
                            bytes += data.len() as u64;
                            self.note(format!("data {} {}", message.run_id, String::from_utf8_lossy(&data)));
                        }
                        other => self.note(format!("{other:?}")),
                    }
                }
                Ok(Response::new(InputResponse { bytes }))
            }

            async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
                let content = self.file(&request.get_ref().path).ok_or_else(|| error(Code::NotFound, "FILE_NOT_FOUND"))?;
                let length = content.len() as u64;
                let stat = FileInfo { size: length, mode: 0o640, r#type: FileType::File.into(), ..Default::default() };
                let mut parts = vec![read_response::Part::Stat(stat)];
                parts.extend(content.chunks(3).map(|chunk| read_response::Part::Data(chunk.to_vec().into())));
                // A path that says so breaks off, as a node that is stopped does.
                if !request.get_ref().path.ends_with("cut") {
                    parts.push(read_response::Part::End(ReadEnd { eof: true, next_offset: length }));
                }
                let parts = parts.into_iter().map(|part| Ok(ReadResponse { part: Some(part) }));
                Ok(Response::new(Box::pin(tokio_stream::iter(parts.collect::<Vec<_>>()))))
            }

            async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
                let mut messages = request.into_inner();
                let first = messages.message().await?.and_then(|message| message.part);
                let Some(write_request::Part::Header(header)) = first else { panic!("no header") };
                let mut content = Vec::new();
                while let Some(message) = messages.next().await {
                    let Some(write_request::Part::Data(data)) = message?.part else { panic!("no data") };
                    content.extend_from_slice(&data);
                }
                let sha256 = crate::transfer::sha256(&content);
                let size = content.len() as u64;
                self.0.files.lock().expect("no test panics while it holds it").insert(header.path, content);
                Ok(Response::new(WriteResponse { size, sha256 }))
            }

            async fn stat(&self, request: Request<StatRequest>) -> Result<Response<FileInfo>, Status> {
                let info = self.info(&request.get_ref().path);
                info.map(Response::new).ok_or_else(|| error(Code::NotFound, "FILE_NOT_FOUND"))
            }

            async fn mkdir(&self, request: Request<MkdirRequest>) -> Result<Response<FileInfo>, Status> {
                let path = request.into_inner().path;
                self.0.directories.lock().expect("no test panics while it holds it").insert(path);
                Ok(Response::new(FileInfo::default()))
            }

            /// A page for every entry, so that whoever stops after the first is found out.
            async fn ls(&self, request: Request<LsRequest>) -> Result<Response<LsResponse>, Status> {
                let at: usize = request.get_ref().page_token.parse().unwrap_or(0);
                let all = self.entries(&request.get_ref().path);
                let next_page_token = if at + 1 < all.len() { (at + 1).to_string() } else { String::new() };
                let entries = all.into_iter().skip(at).take(1).collect();
                Ok(Response::new(LsResponse { entries, next_page_token }))
            }

            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented(stringify!($method)))
            })*
        }
    };
}

hands_service! {
    list_runs(ListRunsRequest) -> ListRunsResponse;
    get_run(GetRunRequest) -> Run;
    kill_run(KillRunRequest) -> KillRunResponse;
    remove(RemoveRequest) -> RemoveResponse;
    rename(RenameRequest) -> FileInfo;
    edit(EditRequest) -> EditResponse;
    glob(GlobRequest) -> GlobResponse;
    grep(GrepRequest) -> GrepResponse;
}
