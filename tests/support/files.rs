//! The files of a sandbox. Every stream of `Read` is held to its contract: `stat` first, `end` last, one of each.

use futures_util::{Stream, StreamExt as _, stream};
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::read_response::Part;
use handsd::api::proto::{
    FileInfo, LsRequest, LsResponse, MkdirRequest, ReadEnd, ReadRequest, ReadResponse, RemoveRequest, RenameRequest,
    StatRequest, WriteHeader, WriteRequest, WriteResponse, write_request,
};
use handsd::client::Channel;
use tonic::{Status, Streaming};

use super::{Daemon, Sandbox};

/// Bytes of a message, when a test does not care.
pub const CHUNK: usize = 256 << 10;

/// The files of one sandbox.
#[derive(Debug, Clone)]
pub struct Files {
    sandbox_id: String,
    hands: HandsClient<Channel>,
}

/// A file as `Read` gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The first message.
    pub stat: FileInfo,
    /// What came in between.
    pub data: Vec<u8>,
    /// The last message.
    pub end: ReadEnd,
}

/// A file that is being read.
#[derive(Debug)]
pub struct Reader {
    /// The first message.
    pub stat: FileInfo,
    stream: Streaming<ReadResponse>,
}

/// The header of a `Write`, as a message.
pub fn header(header: WriteHeader) -> WriteRequest {
    WriteRequest { part: Some(write_request::Part::Header(header)) }
}

/// Content of a `Write`, as a message.
pub fn data(bytes: impl Into<bytes::Bytes>) -> WriteRequest {
    WriteRequest { part: Some(write_request::Part::Data(bytes.into())) }
}

impl Files {
    /// Those of a sandbox.
    pub fn of(daemon: &Daemon, sandbox: &Sandbox) -> Self {
        Self::new(daemon.hands(), &sandbox.id)
    }

    /// Those of a sandbox, over a client of the test's own.
    pub fn new(hands: HandsClient<Channel>, sandbox_id: &str) -> Self {
        Self { sandbox_id: sandbox_id.to_owned(), hands }
    }

    /// Replaces a file.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn write(&self, path: &str, content: &[u8]) -> Result<WriteResponse, Status> {
        self.write_as(WriteHeader { path: path.to_owned(), ..WriteHeader::default() }, content).await
    }

    /// Writes a file in a way of the test's own.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn write_as(&self, header: WriteHeader, content: &[u8]) -> Result<WriteResponse, Status> {
        let chunks: Vec<_> = content.chunks(CHUNK).map(|chunk| data(chunk.to_vec())).collect();
        self.write_stream(header, stream::iter(chunks)).await
    }

    /// Writes a file from a stream of messages.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn write_stream<S>(&self, wish: WriteHeader, content: S) -> Result<WriteResponse, Status>
    where
        S: Stream<Item = WriteRequest> + Send + 'static,
    {
        let first = header(WriteHeader { sandbox_id: self.sandbox_id.clone(), ..wish });
        self.send(stream::iter([first]).chain(content)).await
    }

    /// Sends these messages to `Write`, whatever they are.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn send<S>(&self, messages: S) -> Result<WriteResponse, Status>
    where
        S: Stream<Item = WriteRequest> + Send + 'static,
    {
        Ok(self.hands.clone().write(messages).await?.into_inner())
    }

    /// All of a file.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Status> {
        Ok(self.read_range(ReadRequest { path: path.to_owned(), ..ReadRequest::default() }).await?.data)
    }

    /// A part of a file.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn read_range(&self, request: ReadRequest) -> Result<Content, Status> {
        let mut reader = self.open(request).await?;
        let mut data = Vec::new();
        loop {
            match reader.next().await? {
                Ok(bytes) => data.extend(bytes),
                Err(end) => return Ok(Content { stat: reader.stat, data, end }),
            }
        }
    }

    /// Begins to read a file.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn open(&self, request: ReadRequest) -> Result<Reader, Status> {
        let request = ReadRequest { sandbox_id: self.sandbox_id.clone(), ..request };
        let mut stream = self.hands.clone().read(request).await?.into_inner();
        match stream.message().await?.and_then(|message| message.part) {
            Some(Part::Stat(stat)) => Ok(Reader { stat, stream }),
            other => panic!("the first message is {other:?}"),
        }
    }

    /// A page of a listing.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn ls(&self, request: LsRequest) -> Result<LsResponse, Status> {
        let request = LsRequest { sandbox_id: self.sandbox_id.clone(), ..request };
        Ok(self.hands.clone().ls(request).await?.into_inner())
    }

    /// How a file stands; a symlink itself.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn stat(&self, path: &str) -> Result<FileInfo, Status> {
        let request = StatRequest { sandbox_id: self.sandbox_id.clone(), path: path.to_owned(), follow: false };
        Ok(self.hands.clone().stat(request).await?.into_inner())
    }

    /// How a file stands, or what a symlink points to.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn stat_target(&self, path: &str) -> Result<FileInfo, Status> {
        let request = StatRequest { sandbox_id: self.sandbox_id.clone(), path: path.to_owned(), follow: true };
        Ok(self.hands.clone().stat(request).await?.into_inner())
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn mkdir(&self, request: MkdirRequest) -> Result<FileInfo, Status> {
        let request = MkdirRequest { sandbox_id: self.sandbox_id.clone(), ..request };
        Ok(self.hands.clone().mkdir(request).await?.into_inner())
    }

    /// Removes a file or an empty directory.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn remove(&self, path: &str) -> Result<(), Status> {
        let request = RemoveRequest { sandbox_id: self.sandbox_id.clone(), path: path.to_owned(), recursive: false };
        self.hands.clone().remove(request).await.map(|_| ())
    }

    /// Removes all of a tree.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn remove_all(&self, path: &str) -> Result<(), Status> {
        let request = RemoveRequest { sandbox_id: self.sandbox_id.clone(), path: path.to_owned(), recursive: true };
        self.hands.clone().remove(request).await.map(|_| ())
    }

    /// Renames to a free name.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn rename(&self, from: &str, to: &str) -> Result<FileInfo, Status> {
        self.move_to(RenameRequest { from: from.to_owned(), to: to.to_owned(), ..RenameRequest::default() }).await
    }

    /// Renames over whatever has the name.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn rename_over(&self, from: &str, to: &str) -> Result<FileInfo, Status> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.move_to(RenameRequest { from, to, replace: true, ..RenameRequest::default() }).await
    }

    async fn move_to(&self, request: RenameRequest) -> Result<FileInfo, Status> {
        let request = RenameRequest { sandbox_id: self.sandbox_id.clone(), ..request };
        Ok(self.hands.clone().rename(request).await?.into_inner())
    }
}

impl Reader {
    /// The next bytes; at the end, that.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn next(&mut self) -> Result<Result<bytes::Bytes, ReadEnd>, Status> {
        match self.stream.message().await?.and_then(|message| message.part) {
            Some(Part::Data(bytes)) => {
                assert!(!bytes.is_empty() && bytes.len() <= 1 << 20, "{} bytes", bytes.len());
                Ok(Ok(bytes))
            }
            Some(Part::End(end)) => {
                assert!(self.stream.message().await?.is_none(), "nothing follows the end");
                Ok(Err(end))
            }
            other => panic!("{other:?} in the middle"),
        }
    }
}
