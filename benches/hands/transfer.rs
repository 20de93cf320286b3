//! Output and files, in bytes per second.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use handsd::api::proto::{ReadRequest, WriteHeader, WriteRequest, read_response, write_request};

use crate::docker::Docker;
use crate::node::{Node, argv};
use crate::sample::{Value, median_rate};
use crate::table::{Row, Table, Target};
use crate::{Effort, floor};

const STREAM_TARGET: Value = Value::Speed(0.8e9);
const READ_TARGET: Value = Value::Speed(1e9);

/// Size of the file that is read and written.
const FILE_BYTES: usize = 100 << 20;
/// The largest message.
const FILE_CHUNK: usize = 1 << 20;

/// The output of one run, read as it comes.
pub async fn output(node: &mut Node, docker: Option<&mut Docker>, effort: Effort, table: &mut Table) -> Result<()> {
    let [mut ours, mut bare, mut theirs] = [const { Vec::new() }; 3];
    let bytes = effort.stream_bytes;
    let count = bytes.to_string();
    let command = ["head", "-c", &count, "/dev/zero"];
    let mut docker = docker;
    for _ in 0..effort.rounds {
        bare.push(floor::output(bytes)?);
        // A new one each time: the output that the last one keeps would be on its way to the disk meanwhile.
        let sandbox = node.create().await?;
        let begin = Instant::now();
        let run = node.run(argv(&sandbox, &command)).await?;
        ours.push(bytes as f64 / begin.elapsed().as_secs_f64());
        ensure!(run.bytes == bytes && run.exited.output_bytes == bytes, "{} bytes instead of {bytes}", run.bytes);
        // Docker takes some seconds for a GiB; its rate shows with less.
        if let Some(docker) = docker.as_deref_mut() {
            let less = bytes / 8;
            let exec = docker.exec(&["head", "-c", &less.to_string(), "/dev/zero"])?;
            ensure!(exec.bytes == less, "docker: {} bytes instead of {less}", exec.bytes);
            theirs.push(less as f64 / exec.elapsed.as_secs_f64());
        }
        node.destroy(sandbox).await?;
    }
    let p50 = median_rate(ours).map(Value::Speed);
    table.push(Row {
        item: "output of one run",
        p50,
        floor: median_rate(bare).map(Value::Speed),
        docker: median_rate(theirs).map(Value::Speed),
        targets: Target::at_least(p50, STREAM_TARGET).into_iter().collect(),
        ..Row::default()
    });
    Ok(())
}

/// A file, written and read.
pub async fn files(node: &mut Node, effort: Effort, table: &mut Table) -> Result<()> {
    let [mut writes, mut reads, mut bare_writes, mut bare_reads] = [const { Vec::new() }; 4];
    let sandbox = node.create().await?;
    for _ in 0..effort.rounds {
        let (written, read) = floor::file(node.state(), FILE_BYTES)?;
        bare_writes.push(written);
        bare_reads.push(read);
        writes.push(write(node, &sandbox).await?);
        reads.push(read_back(node, &sandbox).await?);
    }
    node.destroy(sandbox).await?;
    let (p50, floor) = (median_rate(writes).map(Value::Speed), median_rate(bare_writes).map(Value::Speed));
    table.push(Row { item: "write 100 MiB, with SHA-256", p50, floor, ..Row::default() });
    let (p50, floor) = (median_rate(reads).map(Value::Speed), median_rate(bare_reads).map(Value::Speed));
    let targets = Target::at_least(p50, READ_TARGET).into_iter().collect();
    table.push(Row { item: "read 100 MiB", p50, floor, targets, ..Row::default() });
    Ok(())
}

async fn write(node: &mut Node, sandbox: &str) -> Result<f64> {
    let header = WriteHeader { sandbox_id: sandbox.to_owned(), path: "large".to_owned(), ..WriteHeader::default() };
    let chunk = Bytes::from(vec![7; FILE_CHUNK]);
    let data = (0..FILE_BYTES / FILE_CHUNK).map(move |_| write_request::Part::Data(chunk.clone()));
    let parts = [write_request::Part::Header(header)].into_iter().chain(data);
    let messages = parts.map(|part| WriteRequest { part: Some(part) });
    let begin = Instant::now();
    let written = node.hands.write(tokio_stream::iter(messages)).await.context("Hands.Write")?.into_inner();
    ensure!(written.size == FILE_BYTES as u64, "{} bytes were written", written.size);
    Ok(FILE_BYTES as f64 / begin.elapsed().as_secs_f64())
}

async fn read_back(node: &mut Node, sandbox: &str) -> Result<f64> {
    let request = ReadRequest { sandbox_id: sandbox.to_owned(), path: "large".to_owned(), ..ReadRequest::default() };
    let begin = Instant::now();
    let mut parts = node.hands.read(request).await.context("Hands.Read")?.into_inner();
    let mut bytes = 0;
    while let Some(message) = parts.message().await.context("the stream of a file")? {
        if let Some(read_response::Part::Data(data)) = message.part {
            bytes += data.len();
        }
    }
    ensure!(bytes == FILE_BYTES, "{bytes} bytes were read");
    Ok(FILE_BYTES as f64 / begin.elapsed().as_secs_f64())
}
