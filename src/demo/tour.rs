//! The tour: what a client does, what it must see, and what it prints of it.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use handsd::api::proto::exited::{Reason, Status};
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::read_response::Part;
use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::write_request::Part as WritePart;
use handsd::api::proto::{
    AttachRequest, BashRequest, CreateSandboxRequest, DestroySandboxRequest, LsRequest, ReadRequest, WriteHeader,
    WriteRequest,
};
use handsd::client::{self, Address, Channel};
use sha2::{Digest, Sha256};

use super::follow::{Follower, Received, ending, refused};
use super::session;
use super::timeline::{Step, Timeline};

/// Lines that the counter writes: two seconds' worth.
const COUNT: u32 = 400_000;
/// Counts to [`COUNT`] in 40 parts with a rest after each.
const COUNTER: &str =
    "i=0; while [ $i -lt 40 ]; do seq $((i*10000+1)) $((i*10000+10000)); i=$((i+1)); sleep 0.05; done";
/// Bytes after which the client of the counter hangs up: about the first 15,000 lines.
const ENOUGH: u64 = 80_000;

/// Two processes that have left their parent, session and process group, and the command itself.
const TREE: &str = "(setsid sh -c 'sleep 600 & exec sleep 601' &); echo two have escaped; sleep 602";
/// How long it gets.
const TREE_DEADLINE: prost_types::Duration = prost_types::Duration { seconds: 1, nanos: 0 };
/// Counts the processes of the tree, which are known by their last argument. Others may end while it looks.
const COUNT_TREE: &str = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '^60[012]$'";

struct Tour<'a> {
    address: &'a Address,
    hands: HandsClient<Channel>,
    sandboxes: SandboxesClient<Channel>,
    timeline: &'a mut Timeline,
    /// The last one is in use.
    sandbox_ids: Vec<String>,
}

/// Takes the whole tour.
///
/// # Errors
/// The first step at which something else was seen than should be.
pub async fn take(address: &Address, timeline: &mut Timeline) -> anyhow::Result<()> {
    let channel = client::connect(address).await?;
    let (hands, sandboxes) = (client::hands(channel.clone()), client::sandboxes(channel.clone()));
    let mut tour = Tour { address, hands, sandboxes, timeline, sandbox_ids: Vec::new() };
    tour.create(": its first use, for which it was prepared").await.context("create")?;
    tour.create("").await.context("create")?;
    tour.live_output().await.context("bash")?;
    tour.streams().await.context("bash")?;
    tour.files().await.context("files")?;
    let received = tour.hang_up().await.context("drop")?;
    tour.deadline().await.context("deadline")?;
    tour.come_back(received).await.context("attach")?;
    session::converse(channel, tour.timeline).await.context("session")?;
    tour.destroy().await.context("destroy")
}

impl Tour<'_> {
    /// Makes a sandbox, which is the one in use from now on.
    async fn create(&mut self, note: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let created = self.sandboxes.create(CreateSandboxRequest::default()).await;
        let sandbox = created.map_err(|status| refused(&status))?.into_inner();
        let took = began.elapsed().as_millis();
        self.timeline.say(Step::Create, &format!("{} of image {:?} in {took} ms{note}", sandbox.id, sandbox.image))?;
        self.sandbox_ids.push(sandbox.id);
        Ok(())
    }

    fn sandbox_id(&self) -> String {
        self.sandbox_ids.last().cloned().unwrap_or_default()
    }

    fn request(&self, command: &str) -> BashRequest {
        BashRequest { sandbox_id: self.sandbox_id(), command: Some(command.to_owned()), ..BashRequest::default() }
    }

    async fn bash(&mut self, request: BashRequest) -> anyhow::Result<Follower> {
        let events = self.hands.bash(request).await.map_err(|status| refused(&status))?.into_inner();
        Follower::begin(events, 0).await
    }

    /// Runs a command, shows it and what it writes; what it must write, and with which code it must end, is given.
    async fn run(&mut self, command: &str, expected: &str, code: i32) -> anyhow::Result<()> {
        self.timeline.say(Step::Bash, &format!("$ {command}"))?;
        let mut follower = self.bash(self.request(command)).await?;
        let exited = follower.show(Step::Bash, self.timeline).await?;
        self.timeline.say(Step::Bash, &ending(&exited))?;
        ensure!(exited.status == Some(Status::Code(code)), "expected exit code {code}, got {}", ending(&exited));
        let output = String::from_utf8_lossy(follower.output());
        ensure!(output == expected, "expected {expected:?}, got {output:?}");
        Ok(())
    }

    async fn live_output(&mut self) -> anyhow::Result<()> {
        self.run("for n in 1 2 3; do echo \"line $n\"; sleep 0.25; done", "line 1\nline 2\nline 3\n", 0).await
    }

    async fn streams(&mut self) -> anyhow::Result<()> {
        // The two are one pipe each, and which is read first is nobody's promise: so the second comes later.
        self.run("echo to stdout; sleep 0.1; echo to stderr >&2; exit 7", "to stdout\nto stderr\n", 7).await
    }

    async fn files(&mut self) -> anyhow::Result<()> {
        const PATH: &str = "notes/greeting.txt";
        const TEXT: &str = "hello from outside\n";
        let header = WriteHeader {
            sandbox_id: self.sandbox_id(),
            path: PATH.to_owned(),
            create_parents: true,
            ..WriteHeader::default()
        };
        let parts = [WritePart::Header(header), WritePart::Data(TEXT.into())];
        let parts = tokio_stream::iter(parts.map(|part| WriteRequest { part: Some(part) }));
        let written = self.hands.write(parts).await.map_err(|status| refused(&status))?.into_inner();
        self.timeline
            .say(Step::Write, &format!("{PATH}: {} bytes, sha256 {}", written.size, short(&written.sha256)))?;

        let request = ReadRequest { sandbox_id: self.sandbox_id(), path: PATH.to_owned(), ..ReadRequest::default() };
        let mut parts = self.hands.read(request).await.map_err(|status| refused(&status))?.into_inner();
        let mut read = Vec::new();
        while let Some(part) = parts.message().await.map_err(|status| refused(&status))? {
            if let Some(Part::Data(data)) = part.part {
                read.extend_from_slice(&data);
            }
        }
        ensure!(read == TEXT.as_bytes(), "read {read:?}");
        self.timeline.say(Step::Read, &format!("{PATH}: {:?}", TEXT))?;

        let request = LsRequest { sandbox_id: self.sandbox_id(), depth: Some(2), ..LsRequest::default() };
        let listed = self.hands.ls(request).await.map_err(|status| refused(&status))?.into_inner();
        let paths: Vec<_> = listed.entries.iter().map(|entry| entry.path.as_str()).collect();
        ensure!(paths == ["/workspace/notes", "/workspace/notes/greeting.txt"], "listed {paths:?}");
        self.timeline.say(Step::Ls, &paths.join("  "))?;
        Ok(())
    }

    /// Starts the counter over a connection of its own, which is then dropped.
    async fn hang_up(&mut self) -> anyhow::Result<Received> {
        let mut hands = client::hands(client::connect(self.address).await?);
        self.timeline.say(Step::Drop, &format!("$ {COUNTER}"))?;
        let events = hands.bash(self.request(COUNTER)).await.map_err(|status| refused(&status))?.into_inner();
        let mut follower = Follower::begin(events, 0).await?;
        while follower.cursor() < ENOUGH {
            follower.next().await?;
        }
        self.timeline.say(Step::Drop, &format!("the client hangs up at cursor {}", follower.cursor()))?;
        Ok(follower.hang_up())
    }

    async fn deadline(&mut self) -> anyhow::Result<()> {
        let timeout = f64::from(i32::try_from(TREE_DEADLINE.seconds)?);
        self.timeline.say(Step::Deadline, &format!("after {timeout} s: $ {TREE}"))?;
        let request = BashRequest { timeout: Some(TREE_DEADLINE), ..self.request(TREE) };
        let mut follower = self.bash(request).await?;
        let exited = follower.show(Step::Deadline, self.timeline).await?;
        let killed: Vec<_> =
            exited.killed.iter().map(|process| format!("{} ({})", process.name, process.pid)).collect();
        self.timeline.say(Step::Deadline, &format!("{}, killed: {}", ending(&exited), killed.join(", ")))?;
        if exited.degraded {
            let how = "no cgroup may be made here, so they were found by walking the process tree";
            self.timeline.say(Step::Deadline, how)?;
        }
        ensure!(exited.reason() == Reason::TimedOut, "expected the deadline to end it, got {}", ending(&exited));
        ensure!(killed.len() >= 3, "expected three processes to be killed, got {killed:?}");

        let mut follower = self.bash(self.request(COUNT_TREE)).await?;
        follower.finish().await?;
        let left = String::from_utf8_lossy(follower.output()).trim().to_owned();
        ensure!(left == "0", "{left} processes of the tree are left");
        self.timeline.say(Step::Deadline, "none of them is left")?;
        Ok(())
    }

    /// Attaches to the counter where it was left, and compares all that it wrote with what it should have written.
    async fn come_back(&mut self, before: Received) -> anyhow::Result<()> {
        let Received { run_id, mut output, cursor } = before;
        self.timeline.say(Step::Attach, &format!("{run_id} from cursor {cursor}"))?;
        let request = AttachRequest { sandbox_id: self.sandbox_id(), run_id, cursor };
        let events = self.hands.attach(request).await.map_err(|status| refused(&status))?.into_inner();
        let mut follower = Follower::begin(events, cursor).await?;
        let exited = follower.finish().await?;
        output.extend_from_slice(follower.output());
        let expected: String = (1..=COUNT).map(|number| format!("{number}\n")).collect();
        let (got, expected) = (sha256(&output), sha256(expected.as_bytes()));
        let text = format!("{}, {} bytes in both parts, sha256 {}", ending(&exited), output.len(), short(&got));
        self.timeline.say(Step::Attach, &text)?;
        ensure!(got == expected, "the numbers to {COUNT} have sha256 {}", short(&expected));
        self.timeline
            .say(Step::Attach, &format!("the same as of the numbers 1 to {COUNT}: no byte is lost or doubled"))?;
        Ok(())
    }

    async fn destroy(&mut self) -> anyhow::Result<()> {
        for sandbox_id in std::mem::take(&mut self.sandbox_ids) {
            let began = Instant::now();
            let request = DestroySandboxRequest { sandbox_id: sandbox_id.clone() };
            self.sandboxes.destroy(request).await.map_err(|status| refused(&status))?;
            let took = began.elapsed().as_millis();
            self.timeline.say(Step::Destroy, &format!("{sandbox_id} in {took} ms"))?;
        }
        Ok(())
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Enough of a checksum for people to compare.
fn short(sum: &str) -> &str {
    sum.get(..16).unwrap_or(sum)
}
