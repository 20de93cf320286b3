// Webhooks, with the published client's own verification of them.
import assert from "node:assert/strict";
import { type IncomingMessage, createServer } from "node:http";
import type { AddressInfo } from "node:net";

import { OpenComputer, type Session, ValidationError, WebhookVerificationError, verifyWebhook } from "@opencomputer/sdk";

import { eventually, node, test } from "./harness.js";

const { key, url } = node();
const oc = new OpenComputer({ apiKey: key, baseUrl: `${url}/v3` });
const agent = await oc.agents.create({ name: "obedient", prompt: "", model: "", runtime: "script" });

interface Request {
  path: string;
  headers: IncomingMessage["headers"];
  body: string;
}

/** A receiver; what it answers to each request is said by `answer`. */
async function receiver(answer: (request: Request, count: number) => number): Promise<{ url: string; requests: Request[]; close: () => void }> {
  const requests: Request[] = [];
  const server = createServer((incoming, response) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", () => {
      const request = { path: incoming.url ?? "", headers: incoming.headers, body: Buffer.concat(parts).toString() };
      requests.push(request);
      const status = answer(request, requests.length);
      response.writeHead(status, status === 302 ? { location: "/elsewhere" } : {}).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/hook`, requests, close: () => server.close() };
}

/** A session that has said its first word. */
async function idle(metadata: Record<string, unknown> = {}): Promise<Session> {
  const session = await oc.sessions.create({ agent: agent.id, input: "say ready", metadata });
  await eventually(async () => (await session.refresh()).status === "idle");
  return session;
}

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

await test("500 three times and then 200 is one success of one event, signed", async () => {
  const { url, requests, close } = await receiver((_, count) => (count <= 3 ? 500 : 200));
  const session = await idle({ thread: "T1" });
  const destination = await session.destinations.create({ url, secret, types: ["turn.completed"] });
  assert.deepEqual([destination.hasSecret, destination.level, destination.enabled], [true, "user", true]);
  assert.ok(!JSON.stringify(destination).includes("MfKQ"));
  await session.steer("say hello");
  await eventually(async () => (await session.deliveries.list())[0]?.status === "delivered");
  assert.equal(requests.length, 4);
  assert.equal(new Set(requests.map((request) => request.headers["webhook-id"])).size, 1);
  const last = requests[3];
  assert.ok(last);
  const delivery = await verifyWebhook(last.body, last.headers as Record<string, string>, secret);
  assert.equal(delivery.type, "turn.completed");
  assert.deepEqual(delivery.metadata, { thread: "T1" });
  await assert.rejects(verifyWebhook(`${last.body} `, last.headers as Record<string, string>, secret), WebhookVerificationError);

  const [record] = await session.deliveries.list();
  assert.deepEqual([record?.attempts, record?.responseCode, record?.eventId], [4, 200, last.headers["webhook-id"]]);
  assert.equal(last.headers["x-oc-delivery-id"], record?.id);
  await session.deliveries.redeliver(record?.id ?? "");
  const again = await session.deliveries.get(record?.id ?? "");
  assert.deepEqual([again.status, again.attempts], ["delivered", 5]);
  assert.equal(requests.length, 5);
  await session.destinations.delete(destination.id);
  assert.deepEqual(await session.destinations.list(), []);
  close();
});

await test("one that is down does not delay another, and each has its events in order", async () => {
  const up = await receiver(() => 200);
  const down = await receiver(() => 503);
  const session = await oc.sessions.create({
    agent: agent.id,
    input: "say one\nsay two\nsay three",
    destinations: [{ url: down.url }, { url: up.url, level: "internal" }],
  });
  await eventually(async () => up.requests.some((request) => JSON.parse(request.body).type === "turn.completed"));
  const seqs = up.requests.map((request) => JSON.parse(request.body).event.seq as number);
  assert.equal(seqs[0], 1);
  assert.deepEqual(seqs, [...seqs].sort((a, b) => a - b));
  const ids = new Set(down.requests.map((request) => request.headers["webhook-id"]));
  assert.equal(ids.size, 1, "the first event is tried until it is taken or given up");
  await session.archive();
  up.close();
  down.close();
});

await test("one that is disabled keeps its events, and a redirect is not followed", async () => {
  const place = await receiver(() => 200);
  const session = await idle();
  const destination = await session.destinations.create({ url: place.url, types: ["agent.*"], enabled: false });
  await session.steer("say kept");
  await eventually(async () => (await session.turns()).data.length === 2 && (await session.refresh()).status === "idle");
  assert.equal(place.requests.length, 0);
  await session.destinations.update(destination.id, { enabled: true });
  await eventually(async () => place.requests.length === 1);
  assert.equal(JSON.parse(place.requests[0]?.body ?? "").event.body.text, "kept");
  place.close();

  const turning = await receiver(() => 302);
  await session.destinations.create({ url: turning.url });
  await session.steer("say on");
  await eventually(async () => turning.requests.length >= 2);
  assert.ok(turning.requests.every((request) => request.path === "/hook"));
  await session.archive();
  turning.close();
});

await test("one that is changed again and again while it is sent to has each event once, in order", async () => {
  const place = await receiver(() => 200);
  const session = await idle();
  const destination = await session.destinations.create({ url: place.url, level: "progress" });
  const changing = (async () => {
    for (let round = 0; round < 10; round++) {
      const change = { includeRaw: round % 2 === 0, level: "progress" as const };
      await Promise.all([session.destinations.update(destination.id, change), session.destinations.update(destination.id, change)]);
    }
  })();
  await session.steer(Array.from({ length: 20 }, (_, line) => `say ${line}`).join("\n"));
  await changing;
  const told = () => place.requests.map((request) => JSON.parse(request.body) as { type: string; event: { seq: number } });
  await eventually(async () => told().some((delivery) => delivery.type === "turn.completed"), 60);
  const seqs = told().map((delivery) => delivery.event.seq);
  assert.deepEqual(seqs, [...new Set(seqs)].sort((a, b) => a - b));
  // The last one is noted once its answer has come.
  await eventually(async () => (await session.deliveries.list({ status: "delivered", limit: 1000 })).length === seqs.length);
  await session.archive();
  place.close();
});

await test("a URL that leads nowhere good is refused", async () => {
  const session = await idle();
  for (const url of ["ftp://127.0.0.1/", "nonsense", "http://user:word@127.0.0.1/"]) {
    await assert.rejects(session.destinations.create({ url }), (error) => !(error instanceof ValidationError) && /url/.test(String(error)));
  }
});
