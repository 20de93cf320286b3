//! What the network costs: a real `handsd` beside plain loopback, in the same run.
//!
//! ```text
//! cargo bench --bench network                  some minutes
//! cargo bench --bench network -- --quick       seconds, and noisier
//! ```
//!
//! The daemon runs in a network namespace of its own, so that nothing of this machine's network is changed. Servers inside
//! are written in python3; without it only creates are measured. It measures and does not judge.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use handsd::api::proto::network::Mode;
use handsd::api::proto::{
    BashRequest, CreateSandboxRequest, DestroySandboxRequest, ForwardOpen, ForwardRequest, ForwardResponse, Network,
    PortsRequest, forward_request, forward_response, run_event,
};
use handsd::client::{self, Address, Channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Measures the network of sandboxes beside plain loopback
#[derive(Debug, Parser)]
struct Arguments {
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long anything may take before something is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

/// Bytes of one message and of one write.
const CHUNK: usize = 64 << 10;

/// Echoes.
const ECHO: &str = r#"
import socket
server = socket.create_server(("127.0.0.1", 3000))
while True:
    connection = server.accept()[0]
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(1 << 20):
        connection.sendall(data)
    connection.close()
"#;

/// Measures round trips and bytes a second to an echo at HOST and PORT, through the proxy of a sandbox if WAY is "proxy".
const MEASURE: &str = r#"
import socket, sys, threading, time
way, host, port, trips, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
one = socket.create_connection(("127.0.0.1", 7422) if way == "proxy" else (host, port))
one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if way == "proxy":
    one.sendall(b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (host.encode(), port))
    assert b" 200 " in one.recv(4096)
times = []
for _ in range(trips):
    began = time.perf_counter()
    one.sendall(b"x")
    one.recv(1)
    times.append(time.perf_counter() - began)
chunk, total = bytes(1 << 16), megabytes << 20
def send():
    for _ in range(total >> 16):
        one.sendall(chunk)
began = time.perf_counter()
threading.Thread(target=send).start()
left = total
while left > 0:
    left -= len(one.recv(1 << 20))
print(sorted(times)[len(times) // 2] * 1e6, total / (time.perf_counter() - began) / 1e6)
"#;

/// The ends of the link between the daemon's namespace and that of the world.
const NODE: &str = "203.0.113.1/24";
const WORLD: &str = "203.0.113.2/24";

/// An echo in python that is killed when it is dropped.
struct Echo(Child);

impl Echo {
    /// Starts it as `words` say, and waits until it listens.
    fn start(words: &[&str]) -> Result<Self> {
        let program = ECHO.replace("127.0.0.1", "0.0.0.0").replace("3000", "3001");
        let program = program.replace("while True:", "print('ready', flush=True)\nwhile True:");
        let (first, words) = words.split_first().context("a command")?;
        let mut command = Command::new(first);
        let mut echo = Self(command.args(words).args(["python3", "-c", &program]).stdout(Stdio::piped()).spawn()?);
        BufReader::new(echo.0.stdout.take().context("its output")?).read_line(&mut String::new())?;
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that is killed when it is dropped.
struct Node {
    child: Child,
    channel: Channel,
    _state: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has been told to end, or the bench has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is measured of a path: the median round trip of a byte, and bytes a second there and back.
struct Measured {
    trip: Duration,
    speed: f64,
}

fn main() -> Result<()> {
    let Arguments { quick, .. } = Arguments::parse();
    let (creates, trips, megabytes) = if quick { (15, 300, 64) } else { (100, 3000, 512) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut node = Node::start().await?;
        node.creates(creates).await?;
        if Path::new("/usr/bin/python3").exists() {
            node.paths(trips, megabytes).await?;
        } else {
            println!("there is no /usr/bin/python3: connections are not measured");
        }
        node.stop()
    })
}

impl Node {
    async fn start() -> Result<Self> {
        let state = tempfile::Builder::new().prefix("hands-bench.").tempdir()?;
        let (config, socket) = (state.path().join("handsd.toml"), state.path().join("h.sock"));
        std::fs::write(&config, "[network]\nreachable = ['127.0.0.0/8']\n")?;
        let line = "ip link set lo up && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", line, "sh", env!("CARGO_BIN_EXE_handsd"), "serve", "--ephemeral"]);
        command.args(["--http", "off", "--grpc", &format!("unix:{}", socket.display())]);
        command.arg("--state-dir").arg(state.path()).arg("--config").arg(config);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("start the daemon")?;
        let until = Instant::now() + DEADLINE;
        let channel = loop {
            match client::connect(&Address::Unix(socket.clone())).await {
                Ok(channel) => break channel,
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        Ok(Self { child, channel, _state: state })
    }

    fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }

    async fn create(&self, mode: Mode, allow: &[&str]) -> Result<(String, Duration)> {
        let allow = allow.iter().map(|rule| (*rule).to_owned()).collect();
        let network = Some(Network { mode: mode.into(), allow });
        let began = Instant::now();
        let request = CreateSandboxRequest { network, ..Default::default() };
        let sandbox = client::sandboxes(self.channel.clone()).create(request).await?.into_inner();
        Ok((sandbox.id, began.elapsed()))
    }

    async fn destroy(&self, sandbox_id: String) -> Result<Duration> {
        let began = Instant::now();
        client::sandboxes(self.channel.clone()).destroy(DestroySandboxRequest { sandbox_id }).await?;
        Ok(began.elapsed())
    }

    /// Rounds of one sandbox of each mode, destroyed when all are there: what the kernel has still to do for those that are gone
    /// holds up the first of the next round, whichever that is, and each mode is as often the first.
    async fn creates(&mut self, rounds: usize) -> Result<()> {
        let modes = [("none", Mode::None), ("proxy", Mode::Proxy), ("nat", Mode::Nat)];
        let mut times = [const { (Vec::new(), Vec::new()) }; 3];
        // What is made once is not counted: the image, and the rules, which this one keeps.
        let (kept, _) = self.create(Mode::Nat, &[]).await?;
        for round in 0..rounds.next_multiple_of(modes.len()) {
            let mut made = Vec::new();
            for turn in 0..modes.len() {
                let mode = (round + turn) % modes.len();
                let (id, time) = self.create(modes[mode].1, &[]).await?;
                times[mode].0.push(time);
                made.push((mode, id));
            }
            for (mode, id) in made {
                times[mode].1.push(self.destroy(id).await?);
            }
        }
        self.destroy(kept).await?;
        println!("{:<34} {:>10} {:>10} {:>10}", "", "create", "+", "destroy");
        let plain = median(times[0].0.clone());
        for ((name, _), (made, destroyed)) in modes.iter().zip(times) {
            let (made, destroyed) = (median(made), median(destroyed));
            let more = millis(made) - millis(plain);
            println!("{name:<34} {:>8.2}ms {more:>+8.2}ms {:>8.2}ms", millis(made), millis(destroyed));
        }
        Ok(())
    }

    async fn paths(&mut self, trips: usize, megabytes: usize) -> Result<()> {
        println!("\n{:<34} {:>10} {:>10}", "there and back", "1 byte", "speed");
        let plain = echo_here().await?;
        print("plain loopback", &over_tcp(plain, trips, megabytes).await?);
        let (sandbox, _) = self.create(Mode::None, &[]).await?;
        self.bash(&sandbox, &format!("cat > echo.py <<'EOF'\n{ECHO}\nEOF\npython3 echo.py > /dev/null 2>&1 &")).await?;
        self.wait_for_port(&sandbox).await?;
        print("Forward, over gRPC", &self.over_forward(&sandbox, trips, megabytes).await?);
        self.destroy(sandbox).await?;
        self.by_python(trips, megabytes).await
    }

    /// What goes through the kernel only, and what python costs: the same program measures all of these.
    async fn by_python(&self, trips: usize, megabytes: usize) -> Result<()> {
        let namespace = self.namespace();
        let _near = Echo::start(&["nsenter", &namespace])?;
        let far = Echo::start(&["unshare", "--net"])?;
        self.link_to(far.0.id())?;
        let [near, far] = ["127.0.0.1", "203.0.113.2"].map(|host| format!("{host} 3001 {trips} {megabytes}"));
        for (name, arguments) in [("plain loopback, from python", &near), ("a plain link, from python", &far)] {
            let mut command = Command::new("nsenter");
            command.args([&namespace, "python3", "-c", MEASURE, "plain"]).args(arguments.split(' '));
            print(name, &parse(&String::from_utf8(command.output()?.stdout)?)?);
        }
        let proxied = format!("localhost 3001 {trips} {megabytes}");
        for (name, mode, allow, way, arguments) in [
            ("proxy, from python inside", Mode::Proxy, &["localhost"][..], "proxy", &proxied),
            ("nat, from python inside", Mode::Nat, &[], "plain", &far),
        ] {
            let (sandbox, _) = self.create(mode, allow).await?;
            let line = format!("cat > m.py <<'EOF'\n{MEASURE}\nEOF\npython3 m.py {way} {arguments}");
            print(name, &parse(&self.bash(&sandbox, &line).await?)?);
            self.destroy(sandbox).await?;
        }
        Ok(())
    }

    /// The namespace of its network, which stands for the node's; its loopback is the world of the proxy.
    fn namespace(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.child.id())
    }

    /// Links it to the namespace of a process.
    fn link_to(&self, pid: u32) -> Result<()> {
        let (node, pid) = (self.namespace(), pid.to_string());
        let world = format!("--net=/proc/{pid}/ns/net");
        let pair = ["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &pid];
        for (namespace, words) in [
            (&node, &pair[..]),
            (&node, &["address", "add", NODE, "dev", "wire"]),
            (&world, &["address", "add", WORLD, "dev", "wire"]),
            (&node, &["link", "set", "wire", "up"]),
            (&world, &["link", "set", "wire", "up"]),
        ] {
            if !Command::new("nsenter").args([namespace, "ip"]).args(words).status()?.success() {
                bail!("ip {words:?}");
            }
        }
        Ok(())
    }

    /// What a command writes to stdout.
    async fn bash(&self, sandbox: &str, line: &str) -> Result<String> {
        let request =
            BashRequest { sandbox_id: sandbox.to_owned(), command: Some(line.to_owned()), ..Default::default() };
        let mut events = client::hands(self.channel.clone()).bash(request).await?.into_inner();
        let mut said = Vec::new();
        while let Some(event) = events.message().await? {
            if let Some(run_event::Event::Output(output)) = event.event {
                said.extend_from_slice(&output.data);
            }
        }
        Ok(String::from_utf8(said)?)
    }

    async fn wait_for_port(&self, sandbox: &str) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let request = PortsRequest { sandbox_id: sandbox.to_owned() };
            let ports = client::sandboxes(self.channel.clone()).ports(request).await?.into_inner().ports;
            if !ports.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("the server inside does not listen")
    }

    async fn over_forward(&self, sandbox: &str, trips: usize, megabytes: usize) -> Result<Measured> {
        let (sender, messages) = mpsc::channel(16);
        let open = ForwardOpen { sandbox_id: sandbox.to_owned(), port: 3000 };
        sender.send(ForwardRequest { part: Some(forward_request::Part::Open(open)) }).await?;
        let mut client = client::sandboxes(self.channel.clone());
        let mut answers = client.forward(ReceiverStream::new(messages)).await?.into_inner();
        let message = |bytes: Vec<u8>| ForwardRequest { part: Some(forward_request::Part::Data(bytes.into())) };
        let mut times = Vec::with_capacity(trips);
        for _ in 0..trips {
            let began = Instant::now();
            sender.send(message(vec![0])).await?;
            receive(&mut answers, 1).await?;
            times.push(began.elapsed());
        }
        let total = megabytes << 20;
        let began = Instant::now();
        let send = async {
            for _ in 0..total / CHUNK {
                sender.send(message(vec![0; CHUNK])).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(send, receive(&mut answers, total))?;
        Ok(Measured { trip: median(times), speed: total as f64 / began.elapsed().as_secs_f64() })
    }
}

async fn receive(answers: &mut Streaming<ForwardResponse>, count: usize) -> Result<()> {
    let mut left = count;
    while left > 0 {
        match answers.message().await?.and_then(|answer| answer.part) {
            Some(forward_response::Part::Data(data)) => left = left.saturating_sub(data.len()),
            Some(forward_response::Part::Opened(_)) => {}
            Some(forward_response::Part::End(_)) | None => bail!("it ended with {left} bytes to come"),
        }
    }
    Ok(())
}

/// An echo on this process's own loopback, and a connection to it.
async fn echo_here() -> Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (socket, _) = listener.accept().await.expect("a connection");
            socket.set_nodelay(true).expect("an option");
            let (mut reader, mut writer) = socket.into_split();
            // It ends with the connection.
            let _ =
                tokio::io::copy_buf(&mut tokio::io::BufReader::with_capacity(CHUNK, &mut reader), &mut writer).await;
        });
    });
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn over_tcp(mut stream: TcpStream, trips: usize, megabytes: usize) -> Result<Measured> {
    let mut times = Vec::with_capacity(trips);
    let mut byte = [0];
    for _ in 0..trips {
        let began = Instant::now();
        stream.write_all(&byte).await?;
        stream.read_exact(&mut byte).await?;
        times.push(began.elapsed());
    }
    let total = megabytes << 20;
    let began = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        let chunk = vec![0; CHUNK];
        for _ in 0..total / CHUNK {
            writer.write_all(&chunk).await?;
        }
        anyhow::Ok(())
    };
    let receive = async {
        let (mut left, mut chunk) = (total, vec![0; CHUNK]);
        while left > 0 {
            match reader.read(&mut chunk).await? {
                0 => bail!("the echo ended"),
                count => left = left.saturating_sub(count),
            }
        }
        Ok(())
    };
    tokio::try_join!(send, receive)?;
    Ok(Measured { trip: median(times), speed: total as f64 / began.elapsed().as_secs_f64() })
}

/// What [`MEASURE`] prints.
fn parse(said: &str) -> Result<Measured> {
    let mut numbers = said.split_whitespace().map(str::parse::<f64>);
    let (Some(Ok(trip)), Some(Ok(speed))) = (numbers.next(), numbers.next()) else { bail!("no numbers: {said}") };
    Ok(Measured { trip: Duration::from_secs_f64(trip / 1e6), speed: speed * 1e6 })
}

fn print(name: &str, measured: &Measured) {
    println!("{name:<34} {:>8.0}µs {:>5.0}MB/s", measured.trip.as_secs_f64() * 1e6, measured.speed / 1e6);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
