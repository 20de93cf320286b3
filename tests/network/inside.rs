//! Servers inside a sandbox, and connections to them.

use handsd::api::proto::{
    ForwardOpen, ForwardRequest, ForwardResponse, HibernateSandboxRequest, Phase, PortsRequest, forward_request,
    forward_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::support::{Daemon, SOON, Sandbox, eventually, expect};

/// Echoes every connection until it ends, and then says "bye".
pub const ECHO: &str = r#"
import socket, sys, threading
def serve(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.sendall(b"bye")
    connection.close()
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, backlog=2048)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"#;

/// Whether servers can be written inside: the node's python3 is what the node's image has.
pub fn has_python() -> bool {
    let has = std::path::Path::new("/usr/bin/python3").exists();
    if !has {
        println!("skipped: there is no /usr/bin/python3 to write a server in");
    }
    has
}

/// Starts a server in the background and waits until it listens.
pub async fn serve(daemon: &Daemon, sandbox: &Sandbox, program: &str, address: &str, port: u16) {
    let line = format!(
        "cat > server{port}.py <<'EOF'\n{program}\nEOF\npython3 server{port}.py {address} {port} > server{port}.log 2>&1 &"
    );
    assert_eq!(sandbox.bash(&line).await.code(), Some(0));
    eventually(SOON, || async {
        let ports = ports(daemon, sandbox).await;
        let said = format!("{ports:?}");
        expect(ports.iter().any(|(open, _)| *open == port), said)
    })
    .await;
}

/// What is listened on.
pub async fn ports(daemon: &Daemon, sandbox: &Sandbox) -> Vec<(u16, String)> {
    let request = PortsRequest { sandbox_id: sandbox.id.clone() };
    let ports = daemon.sandboxes().ports(request).await.unwrap().into_inner().ports;
    ports.into_iter().map(|port| (u16::try_from(port.port).unwrap(), port.address)).collect()
}

/// Puts it to sleep, as soon as a connection whose end was seen here is over for the daemon too.
pub async fn hibernate(daemon: &Daemon, sandbox: &Sandbox) {
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), ..Default::default() };
    eventually(SOON, async || {
        let asleep = daemon.sandboxes().hibernate(request.clone()).await.map_err(|status| status.to_string())?;
        assert_eq!(asleep.into_inner().phase(), Phase::Hibernated);
        Ok(())
    })
    .await;
}

/// Its phase.
pub async fn phase(sandbox: &Sandbox) -> Phase {
    sandbox.get().await.unwrap().phase()
}

/// A forwarded connection.
pub struct Forward {
    sender: Option<mpsc::Sender<ForwardRequest>>,
    answers: Streaming<ForwardResponse>,
}

impl Forward {
    /// Connects.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn open(daemon: &Daemon, sandbox: &Sandbox, port: u32) -> Result<Self, Status> {
        let open = ForwardOpen { sandbox_id: sandbox.id.clone(), port };
        Self::begin(daemon, forward_request::Part::Open(open)).await
    }

    /// Begins with any message.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn begin(daemon: &Daemon, first: forward_request::Part) -> Result<Self, Status> {
        let (sender, messages) = mpsc::channel(4);
        sender.send(ForwardRequest { part: Some(first) }).await.unwrap();
        let mut answers = daemon.sandboxes().forward(ReceiverStream::new(messages)).await?.into_inner();
        let opened = answers.message().await?.and_then(|answer| answer.part);
        assert!(matches!(opened, Some(forward_response::Part::Opened(_))), "{opened:?}");
        Ok(Self { sender: Some(sender), answers })
    }

    /// Sends bytes.
    pub async fn send(&self, bytes: &[u8]) {
        let data = forward_request::Part::Data(bytes.to_vec().into());
        self.sender.as_ref().unwrap().send(ForwardRequest { part: Some(data) }).await.unwrap();
    }

    /// Sends no more.
    pub fn finish(&mut self) {
        self.sender = None;
    }

    /// The next message.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn next(&mut self) -> Result<Option<forward_response::Part>, Status> {
        Ok(self.answers.message().await?.and_then(|answer| answer.part))
    }

    /// So many bytes.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            match self.next().await.unwrap() {
                Some(forward_response::Part::Data(data)) => bytes.extend_from_slice(&data),
                other => panic!("{other:?} after {} bytes", bytes.len()),
            }
        }
        bytes
    }

    /// All bytes up to the end, which has to be told.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Some(forward_response::Part::Data(data)) => bytes.extend_from_slice(&data),
                Some(forward_response::Part::End(_)) => return bytes,
                other => panic!("{other:?} after {} bytes", bytes.len()),
            }
        }
    }

    /// So many bytes there, and back from an echo that says `last` at the end; each direction has its own end.
    pub async fn goes_both_ways(mut self, count: u32, last: &[u8]) {
        let sent: Vec<u8> = (0..count).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        let mut received = Vec::new();
        for chunk in sent.chunks(100_000) {
            self.send(chunk).await;
            received.extend(self.read(chunk.len()).await);
        }
        assert!(received == sent, "the bytes are the same");
        self.finish();
        assert_eq!(self.read_to_end().await, last);
        assert!(self.next().await.unwrap().is_none(), "the call is over when both directions are");
    }
}
