// Durable sessions through the published client, unmodified, against one node.
import assert from "node:assert/strict";

import { AuthError, ConflictError, NotFoundError, OpenComputer, type Event, connectSession } from "@opencomputer/sdk";

import { cutter } from "./cutter.js";
import { node, test } from "./harness.js";

const { key, url } = node();
const baseUrl = `${url}/v3`;
const oc = new OpenComputer({ apiKey: key, baseUrl });

/** An agent whose messages say what it does. */
const agent = await oc.agents.create({ name: "obedient", prompt: "", model: "", runtime: "script" });

/** Everything, down to what commands write: a level of this node's own, and the one at which `seq` has no gaps. */
const level = "output" as unknown as "internal";

/** What an event tells under a name. */
const told = (event: Event | null | undefined, name: string) => (event?.body as Record<string, unknown> | undefined)?.[name];

/** Takes events until one is of this type. */
async function until(events: AsyncIterable<Event>, type: string): Promise<Event[]> {
  const seen: Event[] = [];
  for await (const event of events) {
    seen.push(event);
    if (event.type === type) return seen;
  }
  throw new Error(`the stream ended before ${type}`);
}

await test("an agent is made once, shown, listed and changed", async () => {
  const again = await oc.agents.create({ name: "obedient", prompt: "", model: "", runtime: "script" });
  assert.equal(again.id, agent.id);
  await assert.rejects(oc.agents.create({ name: "obedient", prompt: "other", model: "", runtime: "script" }), ConflictError);
  assert.equal((await oc.agents.get(agent.id)).name, "obedient");
  const other = await oc.agents.create({ name: "other", prompt: "say 1", model: "m", runtime: "script", limits: { turns: 3 } });
  assert.deepEqual(other.limits, { turns: 3 });
  const changed = await oc.agents.update(other.id, { prompt: "say 2" });
  assert.equal(changed.revision, (other.revision ?? 0) + 1);
  const { data } = await oc.agents.list();
  assert.deepEqual(data.map((it: { name: string }) => it.name).sort(), ["obedient", "other"]);
  await assert.rejects(oc.agents.get("agt_00000000000000000000"), NotFoundError);
});

await test("credentials are kept, rotated, made the default and deleted, and their keys are told to nobody", async () => {
  const made = await oc.credentials.create({ key: "sk-npm-0123456789-wxyz", name: "npm", isDefault: true });
  assert.deepEqual([made.provider, made.last4, made.isDefault], ["anthropic", "wxyz", true]);
  const paid = await oc.agents.create({ name: "paid", prompt: "", model: "", runtime: "script", credential: made.id });
  assert.equal(paid.credentialId, made.id);
  assert.equal((await oc.credentials.rotate(made.id, "sk-npm-0123456789-abcd")).last4, "abcd");
  await oc.credentials.setDefault({ credential: made.id });
  const listed = await oc.credentials.list();
  assert.deepEqual(listed.map((it) => it.id), [made.id]);
  assert.ok(!JSON.stringify(listed).includes("sk-npm"));
  await oc.credentials.delete(made.id);
  await assert.rejects(oc.credentials.rotate(made.id, "x"), NotFoundError);
});

await test("a session works, is followed with its token, steered, and has a result", async () => {
  const metadata = { thread: "T1", nested: { camelCase: 1, snake_case: 2 } };
  const params = { agent: agent.id, input: "bash echo from the hands\nsay first", metadata, idempotencyKey: "create-1" };
  const session = await oc.sessions.create(params);
  assert.match(session.id, /^ses_/);
  assert.deepEqual(session.metadata, metadata);
  assert.equal((await oc.sessions.create(params)).id, session.id);
  await assert.rejects(oc.sessions.create({ ...params, input: "say other" }), ConflictError);

  const live = await connectSession({ sessionId: session.id, clientToken: session.clientToken ?? "", baseUrl });
  const seen = await until(live.events({ level }), "turn.completed");
  assert.deepEqual(seen.map((event) => event.seq), seen.map((_, index) => index + 1));
  const types = seen.map((event) => event.type);
  assert.ok(types.indexOf("turn.started") < types.indexOf("tool.call"), types.join());
  assert.ok(types.indexOf("tool.call") < types.indexOf("turn.completed"), types.join());

  const sent = await live.steer("say second", { idempotencyKey: "steer-1" });
  assert.equal((await live.steer("say second", { idempotencyKey: "steer-1" })).id, sent.id);
  await assert.rejects(live.steer("say third", { idempotencyKey: "steer-1" }), ConflictError);
  const rest = await until(live.events({ after: seen.at(-1)?.seq, level: "user" }), "turn.completed");
  assert.deepEqual(rest.map((event) => event.type), ["user.message", "agent.message", "turn.completed"]);

  const result = await session.result();
  assert.equal(told(result.result, "text"), "second");
  assert.equal(result.lastTurn?.yieldReason, "completed");
  await session.refresh();
  assert.equal(session.status, "idle");
  const { data: turns } = await session.turns();
  assert.equal(turns.length, 2);
  assert.equal((await session.turn(turns[0]?.id ?? "")).state, "ok");

  const first = await session.listEvents({ limit: 2, level });
  assert.equal(first.data.length, 2);
  const next = await session.listEvents({ after: Number(first.nextCursor), limit: 2, level });
  assert.deepEqual(next.data.map((event: Event) => event.seq), [3, 4]);
  const { data: said } = await live.messages();
  assert.deepEqual(said.map((event: Event) => told(event, "text")), [params.input, "first", "say second", "second"]);
  const one = seen[0];
  assert.equal((await live.event(one?.id ?? "")).seq, 1);
});

await test("a key is get-or-create, and lists find a session by it", async () => {
  const params = { agent: "obedient", key: "thread-7", input: "say hello" };
  const session = await oc.sessions.create(params);
  assert.equal((await oc.sessions.create(params)).id, session.id);
  const { data } = await oc.sessions.list({ key: "thread-7" });
  assert.deepEqual(data.map((it: { id: string }) => it.id), [session.id]);
  await session.archive();
  assert.equal((await oc.sessions.get(session.id)).status, "archived");
});

await test("a client token is good for its own session's log and nothing else", async () => {
  const session = await oc.sessions.create({ agent: agent.id, input: "say hello" });
  const other = await oc.sessions.create({ agent: agent.id, input: "say hello" });
  const token = session.clientToken ?? "";
  const stranger = await connectSession({ sessionId: other.id, clientToken: token, baseUrl });
  await assert.rejects(stranger.listEvents(), AuthError);
  await assert.rejects(new OpenComputer({ apiKey: token, baseUrl }).sessions.get(session.id), AuthError);
  await assert.rejects(new OpenComputer({ apiKey: token, baseUrl }).sessions.list(), AuthError);
  const reader = await session.mintClientToken({ scopes: ["read"], ttlSeconds: 60 });
  const live = await connectSession({ sessionId: session.id, clientToken: reader, baseUrl });
  await live.listEvents();
  await assert.rejects(live.steer("say no"), AuthError);
  const response = await fetch(`${baseUrl}/sessions/${session.id}/events?stream=sse&token=${reader}`, {});
  assert.equal(response.status, 200);
  await response.body?.cancel();
});

await test("a turn is canceled", async () => {
  const session = await oc.sessions.create({ agent: agent.id, input: "bash sleep 60" });
  await until(session.events(), "tool.call");
  await session.cancel();
  const ended = (await until(session.events(), "turn.completed")).at(-1);
  assert.equal(told(ended, "yieldReason"), "canceled");
});

await test("a stream that is cut ten times has every event once", async () => {
  const script = Array.from({ length: 150 }, (_, at) => `bash echo ${at}; sleep 0.05`).join("\n");
  const session = await oc.sessions.create({ agent: agent.id, input: `${script}\nsay done` });
  const proxy = await cutter(new URL(url).port);
  const live = await connectSession({ sessionId: session.id, clientToken: session.clientToken ?? "", baseUrl: `${proxy.url}/v3` });
  const seqs: number[] = [];
  let cuts = 0;
  for await (const event of live.events({ level })) {
    seqs.push(event.seq);
    if (event.type === "turn.completed") break;
    if (cuts < 10 && proxy.cut()) cuts += 1;
  }
  assert.equal(cuts, 10);
  assert.deepEqual(seqs, seqs.map((_, at) => at + 1));
  proxy.close();
});

await test("what this node does not have says so", async () => {
  const managed = { name: "x", prompt: "", model: "", runtime: "script", credential: "managed" as const };
  await assert.rejects(oc.agents.create(managed), /no managed keys/);
  await assert.rejects(oc.agents.create({ name: "x", prompt: "", model: "", runtime: "flue" }), /flue/);
});
