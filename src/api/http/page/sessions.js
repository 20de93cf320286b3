// Sessions: their log by seq, what they have left of their limits, and a word to them.

const LEVELS = ["user", "progress", "internal", "output"];
/** Events that are kept on the page; the node keeps all. */
const KEPT_EVENTS = 2000;
/** Seconds of a turn that has no other limit. */
const LONGEST_TURN = 1800;

const talk = { sessions: [], id: "", level: "output", following: null };
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
    el("button", { className: "sandbox", "data-key": session.id, "aria-current": `${talk.id === session.id}`, onclick: () => openSession(session.id) },
      el("span", { className: "mono clip" }, session.id), pill(session.status, STATUS_COLOURS[session.status]),
      el("span", { className: "dim clip" }, `${session.agent_snapshot.name} · ${number(session.head)} events`),
      el("span", { className: "dim" }, since(session.created_at))));
  fill(byId("list"), el("div", { className: "actions" }, el("h2", {}, "Sessions")),
    talk.sessions.length ? el("ul", { className: "rows" }, ...talk.sessions.map(row)) : el("p", { className: "empty" }, "There is no session yet. “hands session create” makes one."));
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

/** What an event tells, in a line; what is not known here is told as it is. */
const TOLD = {
  "tool.call": ({ tool, args_summary }) => `${tool} ${args_summary}`,
  "tool.completed": ({ tool, ok }) => `${tool} ${ok ? "is done" : "has failed"}`,
  "exec.started": () => "",
  "exec.completed": ({ summary, duration_ms, bytes: count }) => `${summary} · ${span(duration_ms)} · ${bytes(count)}`,
  "turn.started": ({ input_from_seq, input_to_seq }) => `from message ${input_from_seq}${input_to_seq > input_from_seq ? ` to ${input_to_seq}` : ""}`,
  "turn.completed": ({ yield_reason, usage }) => words(yield_reason) + (usage?.reported ? ` · ${number(usage.tokens)} tokens` : ""),
  "runtime.restarting": ({ after_ms }) => `in ${span(after_ms)}`,
  "runtime.resumed": ({ attempt }) => `attempt ${attempt}`,
};

function eventLine({ seq, ts, type, level, body }) {
  const plain = () => body.text ?? body.message
    ?? Object.entries(body).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" ");
  const isFault = type.startsWith("error.") || (type === "exec.completed" && body.exit_code !== 0) || (type === "turn.completed" && body.yield_reason === "error");
  return el("div", { className: `event ${level}${isFault ? " faulty" : ""}${type === "exec.output" ? " mono" : ""}`, title: `${ts}\n${JSON.stringify(body, null, 1)}` },
    el("span", { className: "dim mono" }, `${seq}`), el("span", { className: "mono kind" }, type), el("span", { className: "told" }, (TOLD[type] ?? plain)(body)));
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
  const of = (used, most) => (most ? [`${number(used)} of ${number(most)}`, used / most] : [number(used)]);
  const { tokens, turns } = session.limits;
  const isOver = session.status === "archived";
  const home = (role) => session.sandboxes[role] && el("button", { className: "link mono", "data-key": role, title: session.sandboxes[role], onclick: attempt(() => openSandbox(session.sandboxes[role])) }, role);
  fill(place,
    el("div", { className: "actions" }, el("h1", {}, session.id), pill(session.status, STATUS_COLOURS[session.status]),
      passed ? el("button", { "data-key": "cancel", onclick: ask("cancel") }, "Cancel turn") : null,
      isOver ? null : el("button", { className: "danger", "data-key": "archive", onclick: ask("archive") }, "Archive")),
    session.error ? el("p", { className: "fault", role: "status" }, session.error.message) : null,
    el("div", { className: "facts" },
      gauge("agent", session.agent_snapshot.name),
      gauge("runtime", [session.agent_snapshot.runtime, session.agent_snapshot.model].filter(Boolean).join(" · ")),
      gauge("turn", ...(passed ? [`${span(passed * 1000)} of ${span(seconds * 1000)}`, passed / seconds] : ["none under way"])),
      gauge("tokens", ...of(session.usage.tokens, tokens)), gauge("turns", ...of(session.turns, turns)),
      el("div", {}, el("span", {}, "sandboxes"), home("hands") ?? "none", " ", home("brain") ?? "")));
}

/** Shows a sandbox of a session. */
async function openSandbox(id) {
  Object.assign(view, { sandbox: id, run: "" });
  await openTab("sandboxes");
}

async function showResult() {
  const id = talk.id;
  if (!id) return;
  const { result, last_turn: turn } = await call("GET", `/v3/sessions/${id}/result`);
  const place = byId("result");
  if (!place || talk.id !== id) return;
  fill(place, el("h2", {}, "Result"),
    el("p", {}, result?.body?.text ?? "None yet."),
    turn?.yield_reason ? el("p", { className: "dim" }, `${words(turn.yield_reason)}${turn.error ? `: ${turn.error.message}` : ""}`) : null);
}

const TABS = ["sandboxes", "sessions"];

function showTabs() {
  const tab = (name) => el("button", { role: "tab", "data-key": `tab ${name}`, "aria-selected": `${view.tab === name}`, "aria-controls": "list",
    tabindex: view.tab === name ? "0" : "-1", onclick: attempt(() => openTab(name)) }, name[0].toUpperCase() + name.slice(1));
  const tabs = byId("tabs");
  fill(tabs, ...TABS.map(tab));
  // As tabs are: the arrows go from one to the next, and the tab key leaves them.
  tabs.onkeydown = attempt(async ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const next = TABS[(TABS.indexOf(view.tab) + step + TABS.length) % TABS.length];
    const opened = openTab(next);
    tabs.querySelector('[aria-selected="true"]').focus();
    await opened;
  });
}

async function openTab(name) {
  view.tab = name;
  showTabs();
  talk.following?.abort();
  if (name === "sandboxes") {
    showSandboxList();
    return select(view.sandbox, view.run);
  }
  output?.close();
  openSession(talk.id);
  await refreshSessions();
}
