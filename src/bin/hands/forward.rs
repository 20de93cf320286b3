//! Ports of a sandbox: which there are, and ports of this machine that lead to them.

use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use bytes::BytesMut;
use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::{ForwardOpen, ForwardRequest, GetSandboxRequest, PortsRequest, PreviewRequest};
use handsd::api::proto::{forward_request, forward_response};
use handsd::client::Channel;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::events::Format;
use crate::output::{self, Align};
use crate::{Context, errors};

/// Bytes of one message.
const CHUNK: usize = 64 << 10;
/// Messages that may wait for the connection to the node.
const WAITING: usize = 4;

/// Lists the TCP ports that are listened on in a sandbox.
#[derive(Debug, clap::Args)]
pub struct PortsArgs {
    /// The sandbox
    id: String,
}

/// Prints the address at which a browser sees a port of a sandbox.
#[derive(Debug, clap::Args)]
pub struct PreviewArgs {
    /// The sandbox
    id: String,
    /// The port
    port: u16,
}

/// Connects ports of this machine to ports of a sandbox, until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands forward $ID 8080:3000           # http://127.0.0.1:8080 is port 3000 of the sandbox
  hands forward $ID 3000 5173           # the same numbers on both sides
  hands forward $ID 0:3000              # on a free port, which is printed

A sandbox that sleeps wakes with the first byte.")]
pub struct ForwardArgs {
    /// The sandbox
    id: String,
    /// The local port, if it is another one, and the port of the sandbox
    #[arg(required = true, value_name = "[LOCAL:]PORT")]
    ports: Vec<Ports>,
}

/// A port of this machine and one of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse::<u16>().map_err(|_| "expected PORT or LOCAL:PORT".to_owned());
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let ports = Self { local: port(local)?, remote: port(remote)? };
        if ports.remote == 0 { Err("the sandbox's port is 1 to 65535".to_owned()) } else { Ok(ports) }
    }
}

/// `hands ports`
pub async fn ports(context: &Context, args: PortsArgs) -> anyhow::Result<()> {
    let ports = context.sandboxes().ports(PortsRequest { sandbox_id: args.id }).await?.into_inner().ports;
    match context.format {
        Format::Json => {
            output::print_json(&ports.iter().map(|it| json!({ "port": it.port, "address": it.address })).collect())
        }
        Format::Text => {
            let rows: Vec<_> = ports.iter().map(|it| vec![it.port.to_string(), it.address.clone()]).collect();
            output::print(&output::table(&[("PORT", Align::Right), ("ADDRESS", Align::Left)], &rows))
        }
    }
}

/// `hands preview`
pub async fn preview(context: &Context, args: PreviewArgs) -> anyhow::Result<()> {
    let request = PreviewRequest { sandbox_id: args.id, port: args.port.into() };
    let links = context.sandboxes().preview(request).await?.into_inner();
    match context.format {
        Format::Json => output::print_json(&json!({ "url": links.url, "path": links.path, "token": links.token })),
        Format::Text if links.url.is_empty() => bail!("the node serves no HTTP"),
        Format::Text => output::print(&format!("{}\n", links.url)),
    }
}

/// `hands forward`
pub async fn forward(context: &Context, args: ForwardArgs) -> anyhow::Result<()> {
    // Whoever mistypes the sandbox hears of it now, not with the first connection.
    context.sandboxes().get(GetSandboxRequest { sandbox_id: args.id.clone() }).await?;
    let mut tasks = JoinSet::new();
    for Ports { local, remote } in args.ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local)).await;
        let listener = listener.with_context(|| format!("cannot listen on port {local}"))?;
        let address = listener.local_addr().context("cannot listen")?;
        match context.format {
            Format::Text => output::print(&format!("{address} -> {}:{remote}\n", args.id))?,
            Format::Json => {
                let target = json!({ "listening": address, "sandbox_id": args.id, "port": remote });
                output::print_json(&target)?;
            }
        }
        let open = ForwardOpen { sandbox_id: args.id.clone(), port: remote.into() };
        tasks.spawn(accept(listener, open, context.sandboxes()));
    }
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot catch signals"),
        Some(ended) = tasks.join_next() => ended.unwrap_or_else(|error| Err(anyhow!(error))),
    }
}

/// Serves the connections of one port; they end with it.
async fn accept(listener: TcpListener, open: ForwardOpen, client: SandboxesClient<Channel>) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted.context("cannot accept a connection")?;
                connections.spawn(serve(socket, open.clone(), client.clone()));
            }
            Some(served) = connections.join_next() => {
                if let Ok(Err(error)) = served {
                    errors::report(&error);
                }
            }
        }
    }
}

async fn serve(socket: TcpStream, open: ForwardOpen, mut client: SandboxesClient<Channel>) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let (reader, writer) = socket.into_split();
    let (sender, messages) = mpsc::channel(WAITING);
    let open = ForwardRequest { part: Some(forward_request::Part::Open(open)) };
    sender.send(open).await.expect("its receiver is here");
    let answers = client.forward(ReceiverStream::new(messages)).await?.into_inner();
    let (sent, received) = tokio::join!(send(reader, sender), receive(answers, writer));
    sent.and(received)
}

/// Sends what comes from the local side, up to its end.
async fn send(mut reader: OwnedReadHalf, sender: mpsc::Sender<ForwardRequest>) -> anyhow::Result<()> {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        tokio::select! {
            read = reader.read_buf(&mut chunk) => {
                // A client that has vanished has no more to say.
                if !matches!(read, Ok(count) if count > 0) {
                    return Ok(());
                }
            }
            // The call is over.
            () = sender.closed() => return Ok(()),
        }
        let message = ForwardRequest { part: Some(forward_request::Part::Data(chunk.freeze())) };
        if sender.send(message).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes what comes from the sandbox, up to its end.
async fn receive(
    mut answers: Streaming<handsd::api::proto::ForwardResponse>,
    mut writer: OwnedWriteHalf,
) -> anyhow::Result<()> {
    while let Some(answer) = answers.message().await? {
        match answer.part {
            Some(forward_response::Part::Data(data)) => {
                if writer.write_all(&data).await.is_err() {
                    return Ok(());
                }
            }
            Some(forward_response::Part::End(_)) => {
                // Of a client that has vanished, the other direction hears.
                let _ = writer.shutdown().await;
            }
            Some(forward_response::Part::Opened(_)) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_port_may_be_left_out_and_may_be_any() {
        assert_eq!("3000".parse(), Ok(Ports { local: 3000, remote: 3000 }));
        assert_eq!("8080:3000".parse(), Ok(Ports { local: 8080, remote: 3000 }));
        assert_eq!("0:3000".parse(), Ok(Ports { local: 0, remote: 3000 }));
        for text in ["", "0", "80:0", "65536", "a:1", "1:2:3", ":1", "1:"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }
}
