// Sessions: their log by seq, what they have left of their limits, and a word to them.

const LEVELS = ["user", "progress", "internal", "output"];
/** Events that are kept on the page; the node keeps all. */
const KEPT_EVENTS = 2000;
/** Seconds of a turn that has no other limit. */
const LONGEST_TURN = 1800;

const talk = { sessions: [], id: "", level: "internal", following: null };
const STATUS_COLOURS = {
  running: "var(--running)", queued: "var(--between)", awaiting_input: "var(--between)", idle: "var(--asleep)",
  failed: "var(--failed)", archived: "var(--gone)",
};

async function refreshSessions() {
  talk.sessions = (await call("GET", "/v3/sessions?limit=100")).data;
  showSessions();
}

function showSessions() {
  if (view.tab !== "sessions") return;
  const row = (session) => el("li", {},
    el("button", { className: "sandbox", "data-key": session.id, "aria-current": talk.id === session.id, onclick: () => openSession(session.id) },
      el("span", { className: "mono clip" }, session.id), pill(session.status, STATUS_COLOURS[session.status]),
      el("span", { className: "dim clip" }, `${session.agent_snapshot.name} · ${session.head} events`),
      el("span", { className: "dim" }, since(session.created_at))));
  fill(byId("list"), el("div", { className: "actions" }, el("h2", {}, "Sessions")),
    talk.sessions.length ? el("ul", { className: "rows" }, ...talk.sessions.map(row)) : el("p", { className: "empty" }, "There is no session yet."));
  showSessionFacts();
}

function openSession(id) {
  talk.id = id;
  talk.following?.abort();
  if (!id) return fill(byId("detail"), el("p", { className: "empty" }, "Choose a session to see its log."));
  const text = el("input", { placeholder: "Say something to it", "aria-label": "Message" });
  const send = attempt(async () => {
    await call("POST", `/v3/sessions/${id}/messages`, { text: text.value });
    text.value = "";
  });
  const level = el("select", { "aria-label": "Level", onchange: (event) => { talk.level = event.target.value; openSession(id); } },
    ...LEVELS.map((name) => el("option", { selected: name === talk.level }, name)));
  const log = el("div", { className: "log", role: "log", "aria-label": "Events", tabindex: "0" });
  fill(byId("detail"), el("div", { id: "session" }),
    el("form", { className: "line", onsubmit: send }, text, el("button", { className: "primary" }, "Send")),
    el("div", { className: "actions" }, el("h2", {}, "Events"), level), log, el("div", { id: "result" }));
  talk.following = new AbortController();
  let after = 0;
  const path = () => `/v3/sessions/${id}/events?stream=sse&level=${talk.level}&after=${after}`;
  follow(path, talk.following.signal, (event) => {
    after = event.seq;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
    log.append(eventLine(event));
    if (log.childNodes.length > KEPT_EVENTS) log.firstChild.remove();
    if (isAtEnd) log.scrollTop = log.scrollHeight;
    if (event.type.startsWith("turn.")) refreshSessions().then(showResult).catch(() => {});
  }, () => {});
  showSessions();
  showResult().catch(() => {});
}

function eventLine(event) {
  const { text, ...rest } = event.body ?? {};
  const told = typeof text === "string" ? text : Object.entries(rest).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" ");
  return el("div", { className: `event ${event.level}`, title: event.ts },
    el("span", { className: "dim mono" }, `${event.seq}`), el("span", { className: "mono kind" }, event.type), el("span", { className: "told" }, told));
}

function showSessionFacts() {
  const session = talk.sessions.find((session) => session.id === talk.id);
  const place = byId("session");
  if (!place || !session) return;
  const ask = (verb) => attempt(async () => { await call("POST", `/v3/sessions/${session.id}/${verb}`, {}); await refreshSessions(); });
  const turn = session.last_turn;
  const passed = turn && !turn.completed_at ? (Date.now() - Date.parse(turn.started_at)) / 1000 : 0;
  const seconds = session.limits.turn_seconds ?? LONGEST_TURN;
  const gauge = (name, value, share) => el("div", {}, el("span", {}, name), value,
    share === undefined ? null : bar(share, share > 0.8 ? "var(--between)" : undefined));
  const { tokens, turns } = session.limits;
  const isOver = session.status === "archived";
  fill(place,
    el("div", { className: "actions" }, el("h1", {}, session.id), pill(session.status, STATUS_COLOURS[session.status]),
      el("button", { "data-key": "cancel", onclick: ask("cancel") }, "Cancel turn"),
      isOver ? null : el("button", { className: "danger", "data-key": "archive", onclick: ask("archive") }, "Archive")),
    session.error ? el("p", { className: "fault" }, session.error.message) : null,
    el("div", { className: "facts" },
      gauge("agent", session.agent_snapshot.name), gauge("runtime", `${session.agent_snapshot.runtime} ${session.agent_snapshot.model}`),
      gauge("turn", passed ? `${span(passed * 1000)} of ${span(seconds * 1000)}` : "none under way", passed / seconds),
      gauge("tokens", tokens ? `${session.usage.tokens} of ${tokens}` : `${session.usage.tokens}`, tokens && session.usage.tokens / tokens),
      gauge("turns", turns ? `${session.turns} of ${turns}` : `${session.turns}`, turns && session.turns / turns)));
}

async function showResult() {
  const id = talk.id;
  if (!id) return;
  const { result, last_turn: turn } = await call("GET", `/v3/sessions/${id}/result`);
  const place = byId("result");
  if (!place || talk.id !== id) return;
  fill(place, el("h2", {}, "Result"),
    el("p", {}, result?.body?.text ?? "None yet."),
    turn?.yield_reason ? el("p", { className: "dim" }, `${turn.yield_reason.replace("_", " ")}${turn.error ? `: ${turn.error.message}` : ""}`) : null);
}

function showTabs() {
  const tab = (name) => el("button", { role: "tab", "data-key": `tab ${name}`, "aria-selected": `${view.tab === name}`, onclick: attempt(() => openTab(name)) },
    name[0].toUpperCase() + name.slice(1));
  fill(byId("tabs"), tab("sandboxes"), tab("sessions"));
}

async function openTab(name) {
  view.tab = name;
  showTabs();
  talk.following?.abort();
  if (name === "sandboxes") return select(view.sandbox, view.run);
  output?.close();
  openSession(talk.id);
  await refreshSessions();
}
