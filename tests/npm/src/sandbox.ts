// The `Sandbox` class of the published client, unmodified, against one node.
import assert from "node:assert/strict";

import { ExecTimeoutError, Sandbox, ShellBusyError, ShellClosedError } from "@opencomputer/sdk";

import { cutter } from "./cutter.js";
import { eventually, node, test } from "./harness.js";

const { key, url } = node();
const connection = { apiUrl: url, apiKey: key };

async function withSandbox(use: (sandbox: Sandbox) => Promise<void>): Promise<void> {
  const sandbox = await Sandbox.create({ ...connection, envs: { COLOUR: "blue" }, metadata: { test: "npm" } });
  try {
    await use(sandbox);
  } finally {
    await sandbox.kill();
  }
}

await test("a sandbox is made, found again and killed", async () => {
  const sandbox = await Sandbox.create({ ...connection, timeout: 300, memoryMB: 256 });
  assert.match(sandbox.sandboxId, /^sb_/);
  assert.equal(sandbox.status, "running");
  const again = await Sandbox.connect(sandbox.id, connection);
  assert.equal(await again.isRunning(), true);
  await sandbox.kill();
  assert.equal(sandbox.status, "stopped");
  assert.equal(await again.isRunning(), false);
  await assert.rejects(Sandbox.connect(sandbox.id, connection), /404/);
});

await test("a command's result has both streams, the code and the environment", () =>
  withSandbox(async (sandbox) => {
    const result = await sandbox.exec.run("echo $COLOUR $SHAPE; echo bad >&2; pwd; exit 7", {
      env: { SHAPE: "round" },
      cwd: "/tmp",
    });
    assert.deepEqual(result, { exitCode: 7, stdout: "blue round\n/tmp\n", stderr: "bad\n" });
  }));

await test("a command that is late is ended, and one whose caller gives up goes on", () =>
  withSandbox(async (sandbox) => {
    const late = await sandbox.exec.run("printf partial; sleep 60", { timeout: 1 });
    assert.deepEqual([late.exitCode, late.stdout], [124, "partial"]);
    const signal = AbortSignal.timeout(100);
    const given = sandbox.exec.run("sleep 2; echo went on > /tmp/mark", { signal, timeoutMs: 1 });
    await assert.rejects(given, ExecTimeoutError);
    await eventually(async () => (await sandbox.files.read("/tmp/mark")) === "went on\n");
  }));

await test("a command's output comes as it is written, and stdin goes in", () =>
  withSandbox(async (sandbox) => {
    const decoder = new TextDecoder();
    let [stdout, stderr, ended] = ["", "", -2];
    const session = await sandbox.exec.start("sh", {
      args: ["-c", "echo ready; echo note >&2; while read line; do echo got $line; done; exit 3"],
      onStdout: (data) => (stdout += decoder.decode(data)),
      onStderr: (data) => (stderr += decoder.decode(data)),
      onExit: (code) => (ended = code),
    });
    await eventually(async () => stdout === "ready\n" && stderr === "note\n");
    session.sendStdin("one\n");
    await eventually(async () => stdout.endsWith("got one\n"));
    const running = await sandbox.exec.list();
    assert.deepEqual(
      running.map((run) => [run.sessionID, run.running, run.attachedClients]),
      [[session.sessionId, true, 1]],
    );

    // A second client sees all of it, from the beginning, and where the past ends.
    let replay = "";
    let past: string | undefined;
    const second = await sandbox.exec.attach(session.sessionId, {
      onStdout: (data) => (replay += decoder.decode(data)),
      onScrollbackEnd: () => (past = replay),
    });
    await eventually(async () => past !== undefined);
    assert.equal(past, "ready\ngot one\n");
    await session.kill(15);
    assert.equal(await session.done, 143);
    assert.equal(await second.done, 143);
    assert.equal(ended, 143);
  }));

await test("a command whose connection is cut ten times loses no byte of its output", () =>
  withSandbox(async (sandbox) => {
    const proxy = await cutter(new URL(url).port);
    const far = await Sandbox.connect(sandbox.id, { ...connection, apiUrl: proxy.url });
    const expected = Array.from({ length: 200 }, (_, at) => `${at + 1}\n`).join("");
    // What each connection brings by itself: one that was cut may bring a last word later.
    const reader = () => {
      const decoder = new TextDecoder();
      const read = { text: "", onStdout: (data: Uint8Array) => void (read.text += decoder.decode(data)) };
      return read;
    };
    let read = reader();
    const args = ["-c", "for i in $(seq 200); do echo $i; sleep 0.02; done; read line; exit 5"];
    const begun = await far.exec.start("sh", { args, onStdout: read.onStdout });
    begun.done.catch(() => {});
    for (let cut = 0; cut < 10; cut++) {
      const least = expected.length * ((cut + 1) / 12);
      await eventually(async () => read.text.length >= least);
      assert.ok(expected.startsWith(read.text), read.text);
      proxy.cut();
      // All of it comes again, from the beginning.
      read = reader();
      (await far.exec.attach(begun.sessionId, { onStdout: read.onStdout })).done.catch(() => {});
    }
    await eventually(async () => read.text === expected);
    const last = await sandbox.exec.attach(begun.sessionId);
    last.sendStdin("\n");
    assert.equal(await last.done, 5);
    proxy.close();
  }));

await test("a shell keeps its directory and its variables", () =>
  withSandbox(async (sandbox) => {
    const shell = await sandbox.exec.shell();
    await shell.run("cd /tmp && export WORD=kept");
    const result = await shell.run("pwd; echo $WORD; echo to stderr >&2; false");
    assert.deepEqual(result, { exitCode: 1, stdout: "/tmp\nkept\n", stderr: "to stderr\n" });
    const slow = shell.run("sleep 0.2");
    await assert.rejects(shell.run("true"), ShellBusyError);
    await slow;
    await assert.rejects(shell.run("exit 4"), ShellClosedError);
  }));

await test("files are written, read, listed and removed", () =>
  withSandbox(async (sandbox) => {
    const { files } = sandbox;
    const bytes = Uint8Array.from({ length: 3 << 20 }, (_, index) => index * 31);
    await files.write("/workspace/deep/bytes", bytes);
    assert.deepEqual(Buffer.compare(await files.readBytes("/workspace/deep/bytes"), bytes), 0);
    await files.write("/workspace/text", "héllo");
    assert.equal(await files.read("/workspace/text"), "héllo");
    const stream = new Blob(["from ", "a stream"]).stream() as ReadableStream<Uint8Array>;
    await files.write("/workspace/streamed", stream);
    assert.equal(await files.read("/workspace/streamed"), "from a stream");
    await files.makeDir("/workspace/a/b");
    const entries = (await files.list("/workspace")).map((entry) => [entry.name, entry.isDir, entry.path]);
    assert.deepEqual(entries, [
      ["a", true, "/workspace/a"],
      ["deep", true, "/workspace/deep"],
      ["streamed", false, "/workspace/streamed"],
      ["text", false, "/workspace/text"],
    ]);
    await files.remove("/workspace/deep");
    assert.equal(await files.exists("/workspace/deep/bytes"), false);
    assert.equal(await files.exists("/workspace/text"), true);
    await assert.rejects(files.read("/workspace/nothing"), /404/);
  }));

await test("a terminal shows what is typed", () =>
  withSandbox(async (sandbox) => {
    const decoder = new TextDecoder();
    let screen = "";
    const pty = await sandbox.pty.create({ cols: 100, rows: 30, onOutput: (data) => (screen += decoder.decode(data)) });
    // The client does not wait for its connection.
    await eventually(async () => {
      try {
        pty.send("stty size; echo $((6 * 7))\n");
        return true;
      } catch {
        return false;
      }
    });
    await eventually(async () => screen.includes("30 100") && screen.includes("\n42"));
    pty.close();
  }));

await test("a sandbox sleeps and wakes with its processes", () =>
  withSandbox(async (sandbox) => {
    await sandbox.exec.run("(n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.05; done) >/dev/null 2>&1 &");
    await sandbox.hibernate();
    assert.equal(sandbox.status, "hibernated");
    assert.equal(await sandbox.isRunning(), false);
    assert.equal(sandbox.status, "hibernated");
    await sandbox.wake();
    assert.equal(sandbox.status, "running");
    const before = Number(await sandbox.files.read("/tmp/count"));
    await eventually(async () => Number(await sandbox.files.read("/tmp/count")) > before);
    // Whoever uses it wakes it.
    await sandbox.hibernate();
    assert.equal((await sandbox.exec.run("echo awake")).stdout, "awake\n");
    await sandbox.setTimeout(600);
  }));

await test("what this node does not have says so", () =>
  withSandbox(async (sandbox) => {
    await assert.rejects(sandbox.reboot(), /501/);
    await assert.rejects(sandbox.createCheckpoint("x"), /501/);
    await assert.rejects(sandbox.getAutoscale(), /501/);
    await assert.rejects(Sandbox.create({ ...connection, snapshot: "x" }), /501/);
    await assert.rejects(Sandbox.create({ ...connection, apiKey: "hands_wrong" }), /401/);
  }));
