//! `hands forward` and `hands ports`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::inside::{ECHO, has_python, hibernate, serve};
use crate::support::{Daemon, Sandbox};

/// A `hands forward` that is ended when it is dropped.
pub struct Forwarding {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Forwarding {
    fn start(daemon: &Daemon, sandbox: &Sandbox, port: u16) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_hands")), &daemon.address(), sandbox, port)
    }

    /// With a command that executes it, to a node at an address.
    pub fn start_as(mut command: Command, address: &str, sandbox: &Sandbox, port: u16) -> Self {
        command.args(["forward", &sandbox.id, &format!("0:{port}")]).env("HANDS_ADDR", address);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split(' ').next().unwrap().to_owned();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn talk(mut socket: TcpStream, word: &str) -> String {
    socket.write_all(word.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).unwrap();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_port_leads_into_a_sandbox_also_when_it_sleeps() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, ECHO, "127.0.0.1", 3000).await;
    let forwarding = Forwarding::start(&daemon, &sandbox, 3000);
    let (early, late) = (forwarding.connect(), forwarding.connect());
    assert_eq!(talk(early, "one"), "onebye");
    hibernate(&daemon, &sandbox).await;
    assert_eq!(talk(late, "two"), "twobye");
    let mut ports = Command::new(env!("CARGO_BIN_EXE_hands"));
    let ports = ports.args(["ports", &sandbox.id]).env("HANDS_ADDR", daemon.address()).output().unwrap();
    assert_eq!(String::from_utf8(ports.stdout).unwrap(), "PORT  ADDRESS\n3000  127.0.0.1\n");
}
