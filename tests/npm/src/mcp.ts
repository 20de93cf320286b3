// The reference client of the Model Context Protocol, unmodified and in both ways in which it speaks, against one node.
import assert from "node:assert/strict";

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { OpenComputer, Sandbox } from "@opencomputer/sdk";

import { eventually, node, test } from "./harness.js";

const { key, url } = node();
const connection = { apiUrl: url, apiKey: key };
const tools = ["bash", "edit", "glob", "grep", "ls", "read", "write"];

/** "legacy" is the way of before 2026-07-28: with a conversation that the server keeps. */
const ways = ["legacy", { pin: "2026-07-28" }] as const;
type Way = (typeof ways)[number];

async function connect(path: string, way: Way, token = key): Promise<Client> {
  const requestInit = { headers: { Authorization: `Bearer ${token}` } };
  const client = new Client({ name: "test", version: "1" }, { versionNegotiation: { mode: way } });
  await client.connect(new StreamableHTTPClientTransport(new URL(`${url}${path}`), { requestInit }));
  return client;
}

/** What a tool answers, and whether it says that it could not do what it should. */
async function call(client: Client, name: string, input: Record<string, unknown>, options = {}): Promise<[string, boolean]> {
  const result = await client.callTool({ name, arguments: input }, options);
  const text = result.content.map((block) => (block.type === "text" ? block.text : "")).join("");
  return [text, result.isError === true];
}

/** The node refuses with this status. */
async function refused(connecting: Promise<Client>, status: number): Promise<void> {
  await assert.rejects(connecting, (error: { data?: { status?: number } }) => {
    assert.equal(error.data?.status, status, `${error}`);
    return true;
  });
}

async function withSandbox(way: Way, use: (client: Client, sandbox: Sandbox) => Promise<void>): Promise<void> {
  const sandbox = await Sandbox.create(connection);
  const client = await connect(`/mcp/sandboxes/${sandbox.id}`, way);
  try {
    await use(client, sandbox);
  } finally {
    await client.close();
    await sandbox.kill();
  }
}

for (const way of ways) {
  const name = typeof way === "string" ? way : way.pin;

  await test(`${name}: the tools are listed, and do what they say`, () =>
    withSandbox(way, async (client) => {
      const listed = await client.listTools();
      assert.deepEqual(listed.tools.map((tool) => tool.name).sort(), tools);
      assert.deepEqual(listed.tools.find((tool) => tool.name === "write")?.inputSchema.required, ["path", "content"]);
      assert.deepEqual(await call(client, "write", { path: "notes/a", content: "one\ntwo\n" }), ["wrote 8 bytes to notes/a", false]);
      assert.deepEqual(await call(client, "bash", { command: "cat notes/a" }), ["one\ntwo\n[exit 0]", false]);
      assert.deepEqual(await call(client, "read", { path: "notes/a", offset: 1 }), ["two\n", false]);
      assert.match((await call(client, "edit", { path: "notes/a", old: "two", new: "three" }))[0], /^replaced 1 /);
      assert.match((await call(client, "grep", { pattern: "thr.e" }))[0], /notes\/a:2: three/);
      assert.match((await call(client, "glob", { pattern: "**/a" }))[0], /notes\/a/);
      assert.match((await call(client, "ls", {}))[0], /notes\//);
    }));

  await test(`${name}: what goes wrong is told, and a long output is cut`, () =>
    withSandbox(way, async (client) => {
      assert.deepEqual(await call(client, "bash", { command: "echo no >&2; exit 7" }), ["no\n[exit 7]", false]);
      const [late, isError] = await call(client, "bash", { command: "sleep 60", timeout_seconds: 1 });
      assert.ok(isError && late.includes("did not end within 1 s"), late);
      assert.equal((await call(client, "read", { path: "/nowhere" }))[1], true);
      assert.match((await call(client, "read", { path: 7 }))[0], /^path: a text is needed/);
      await assert.rejects(call(client, "say", { text: "hello" }), /there is no tool say/);
      const [long] = await call(client, "bash", { command: "head -c 1000000 /dev/zero | tr '\\0' x" });
      assert.ok(long.length < 40_000 && long.includes("bytes are left out"), `${long.length}`);
    }));

  await test(`${name}: a client that cancels ends its command, and hears of progress before`, () =>
    withSandbox(way, async (client, sandbox) => {
      const giveUp = new AbortController();
      let heard = "";
      const options = {
        signal: giveUp.signal,
        onprogress: ({ message }: { message?: string }) => {
          heard += message ?? "";
          giveUp.abort("enough");
        },
      };
      const command = "trap 'echo ended > mark; exit' TERM; echo begun; while :; do sleep 0.05; done";
      await assert.rejects(call(client, "bash", { command }, options));
      assert.match(heard, /begun/);
      await eventually(async () => (await sandbox.files.read("/workspace/mark")) === "ended\n");
    }));

  await test(`${name}: a call wakes a sandbox that sleeps`, () =>
    withSandbox(way, async (client, sandbox) => {
      await call(client, "write", { path: "kept", content: "still here" });
      await sandbox.hibernate();
      assert.deepEqual(await call(client, "read", { path: "kept" }), ["still here", false]);
    }));
}

/** What the node answers where the client of the sessions has no words for it. */
interface Made {
  session?: { id: string };
  client_token?: string;
  token?: string;
}

await test("a session's hands are used with a token for just that", async () => {
  const baseUrl = `${url}/v3`;
  const oc = new OpenComputer({ apiKey: key, baseUrl });
  await oc.agents.create({ name: "quiet", prompt: "", model: "", runtime: "script" });
  // The client's own types know neither a session without input nor this scope.
  const post = async (path: string, body: unknown): Promise<Made> => {
    const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
    const made = await fetch(baseUrl + path, { method: "POST", headers, body: JSON.stringify(body) });
    assert.equal(made.status, 201);
    return (await made.json()) as Made;
  };
  const made = await post("/sessions", { agent: "quiet" });
  const session = await oc.sessions.get(made.session?.id ?? "");
  const path = `/mcp/sessions/${session.id}`;
  const { token } = await post(`/sessions/${session.id}/client-tokens`, { scopes: ["tools"] });
  const client = await connect(path, "legacy", token);
  assert.deepEqual((await client.listTools()).tools.map((tool) => tool.name).sort(), tools);
  const [early, isError] = await call(client, "bash", { command: "true" });
  assert.ok(isError && early.includes("gets one with its first message"), early);
  await session.steer("bash echo of the brain > trace");
  await eventually(async () => (await session.refresh(), session.status === "idle"));
  assert.deepEqual(await call(client, "read", { path: "trace" }), ["of the brain\n", false]);
  await client.close();
  // A token to read and steer, such as a page has, runs nothing; and none reaches beyond its session.
  await refused(connect(path, "legacy", made.client_token), 403);
  const sandbox = await Sandbox.create(connection);
  await refused(connect(`/mcp/sandboxes/${sandbox.id}`, "legacy", token), 403);
  await sandbox.kill();
});

await test("who has no key or names no place is refused", async () => {
  const sandbox = await Sandbox.create(connection);
  const path = `/mcp/sandboxes/${sandbox.id}`;
  await refused(connect(path, "legacy", "hands_wrong"), 401);
  const headers = { Authorization: `Bearer ${key}`, Origin: "https://evil.example" };
  assert.equal((await fetch(`${url}${path}`, { method: "POST", headers, body: "{}" })).status, 403);
  await sandbox.kill();
  await refused(connect(path, "legacy"), 404);
  await refused(connect("/mcp/sessions/ses_00000000000000000000", "legacy"), 404);
});
