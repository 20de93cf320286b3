// Sandboxes by phase, one of them in detail, its runs, and what a run writes.

/** How far back a row's strip goes. */
const WINDOW = 10 * 60 * 1000;
/** Rows of a list: more are found by the filter. */
const ROWS = 200;
/** Characters of output that are kept on the page; the node keeps the rest. */
const KEPT = 400_000;

const sandboxes = new Map();
/** Phases as they were seen, by sandbox. */
const histories = new Map();
const view = { tab: "sandboxes", phase: "", filter: "", sandbox: "", run: "", runs: [] };
let output = null;

function sandboxChanged(sandbox) {
  const id = sandbox.sandboxID;
  const history = histories.get(id) ?? [];
  if (history.at(-1)?.word !== sandbox.phase) history.push({ at: Date.now(), word: sandbox.phase });
  histories.set(id, history);
  if (sandbox.phase === "destroyed") {
    sandboxes.delete(id);
    histories.delete(id);
    if (view.sandbox === id) select("");
  } else {
    sandboxes.set(id, sandbox);
  }
  // Of many changes at once, one picture is made.
  sandboxChanged.frame ??= requestAnimationFrame(() => {
    sandboxChanged.frame = undefined;
    showSandboxes();
  });
}

/** The parts of the list that stay, so that typing is not disturbed; the rest is filled in. */
function showSandboxList() {
  const add = attempt(async () => select((await call("POST", "/api/sandboxes", { timeout: 600 })).sandboxID));
  const filter = el("input", { type: "search", placeholder: "Filter by id, image or label", "aria-label": "Filter", value: view.filter,
    oninput: () => { view.filter = filter.value.trim().toLowerCase(); showSandboxes(); } });
  fill(byId("list"),
    el("div", { className: "actions" }, el("h2", {}, "Sandboxes"), el("button", { onclick: add }, "New sandbox")),
    el("div", { className: "line" }, filter), el("div", { className: "chips", id: "chips" }), el("div", { id: "rows" }));
}

/** What a sandbox is for. */
function purpose({ templateID, metadata }) {
  const { "handsd.session": session, "handsd.role": role, ...labels } = metadata;
  const own = Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(" ");
  return [session ? `${role} of ${session}` : templateID, own].filter(Boolean).join(" · ");
}

function showSandboxes() {
  if (view.tab !== "sandboxes" || !byId("rows")) return;
  const all = [...sandboxes.values()].sort((a, b) => b.startedAt.localeCompare(a.startedAt));
  const counts = Map.groupBy(all, (sandbox) => sandbox.phase);
  const chip = (word, count) =>
    el("button", { "data-key": `phase ${word}`, "aria-pressed": `${view.phase === word}`, onclick: () => { view.phase = view.phase === word ? "" : word; showSandboxes(); } },
      word ? pill(`${word} ${count}`, COLOURS[word]) : `all ${count}`);
  const isWanted = (sandbox) => (!view.phase || sandbox.phase === view.phase)
    && (!view.filter || `${sandbox.sandboxID} ${purpose(sandbox)}`.toLowerCase().includes(view.filter));
  const found = all.filter(isWanted);
  const row = (sandbox) => {
    const id = sandbox.sandboxID;
    return el("li", {},
      el("button", { className: "sandbox", "data-key": id, "aria-current": `${view.sandbox === id}`, onclick: () => select(id) },
        el("span", { className: "mono clip" }, id), pill(sandbox.phase, COLOURS[sandbox.phase]),
        el("span", { className: "dim clip", title: purpose(sandbox) }, purpose(sandbox)), el("span", { className: "dim" }, since(sandbox.startedAt)),
        el("span", { className: "wide" }, strip(histories.get(id) ?? [], Date.now() - WINDOW))));
  };
  fill(byId("chips"), chip("", all.length), ...[...counts].map(([word, of]) => chip(word, of.length)));
  fill(byId("rows"),
    found.length ? el("ul", { className: "rows" }, ...found.slice(0, ROWS).map(row))
      : el("p", { className: "empty" }, all.length ? "None is like that." : "There is no sandbox yet. Make one here, or with “hands create”."),
    found.length > ROWS ? el("p", { className: "hint" }, `and ${number(found.length - ROWS)} more, which the filter finds`) : null);
  showFacts();
}

function select(sandbox, run = "") {
  if (sandbox !== view.sandbox) view.runs = [];
  Object.assign(view, { sandbox, run });
  location.hash = [sandbox, run].filter(Boolean).join("/");
  if (!byId("rows")) showSandboxList();
  showDetail();
  showSandboxes();
  refreshRuns().catch(() => {});
}

/** The parts of the detail that stay, so that typing is not disturbed; the rest is filled in. */
function showDetail() {
  output?.close();
  output = null;
  if (!view.sandbox) return fill(byId("detail"), el("p", { className: "empty" }, "Choose a sandbox to see its runs."));
  const command = el("input", { placeholder: "Run a command, such as: ls -l", "aria-label": "Command", id: "command" });
  const start = attempt(async (event) => {
    event.preventDefault();
    const run = await call("POST", `/api/sandboxes/${view.sandbox}/exec`, { cmd: "sh", args: ["-c", command.value], timeout: 3600 });
    command.value = "";
    select(view.sandbox, run.sessionID);
  });
  fill(byId("detail"), el("div", { id: "facts" }),
    el("form", { className: "line", onsubmit: start }, command, el("button", { className: "primary" }, "Run")),
    el("h2", {}, "Runs"), el("div", { id: "runs" }),
    view.run ? el("div", { id: "run" }) : null,
    view.run ? el("pre", { className: "output", id: "output", tabindex: "0", "aria-label": "Output" }) : null);
  if (view.run) output = followRun(view.sandbox, view.run, byId("output"));
}

function showFacts() {
  const sandbox = sandboxes.get(view.sandbox);
  const place = byId("facts");
  if (!place || !sandbox) return;
  const id = sandbox.sandboxID;
  const ask = (verb) => attempt(() => call("POST", `/api/sandboxes/${id}/${verb}`, {}));
  const fact = (name, value) => el("div", {}, el("span", {}, name), value);
  const history = histories.get(id) ?? [];
  const from = Math.max(Date.now() - WINDOW, Math.min(history[0]?.at ?? Date.now(), Date.now() - 1000));
  // What is failed can only be destroyed, and what crashed is started by a wake.
  const [word, verb] = { running: ["Hibernate", "hibernate"], hibernated: ["Wake", "wake"], waking: ["Wake", "wake"], crashed: ["Start again", "wake"] }[sandbox.phase] ?? [];
  const destroy = attempt(async () => {
    if (confirm(`Destroy ${id} and all its files?`)) await call("DELETE", `/api/sandboxes/${id}`);
  });
  fill(place,
    el("div", { className: "actions" }, el("h1", {}, id), pill(sandbox.phase, COLOURS[sandbox.phase]),
      word ? el("button", { "data-key": "sleep", onclick: ask(verb) }, word) : null,
      el("button", { className: "danger", "data-key": "destroy", onclick: destroy }, "Destroy")),
    sandbox.error ? el("p", { className: "fault", role: "status" }, sandbox.error) : null,
    el("div", { className: "facts" },
      fact("image", sandbox.templateID), fact("age", since(sandbox.startedAt)),
      fact("sleeps after", sandbox.timeout ? span(sandbox.timeout * 1000) : "never"),
      fact("memory", sandbox.memoryMB ? `${sandbox.memoryMB} MiB` : "unlimited"),
      fact("CPUs", sandbox.cpuCount ? `${sandbox.cpuCount}` : "unlimited"), fact("engine", sandbox.engine),
      sandbox.runtime ? fact("keeps running", `${sandbox.runtime.state}, start ${sandbox.runtime.starts}`) : null,
      sandbox.secrets?.length ? fact("secrets", sandbox.secrets.map(({ name, header }) => `${header} for ${name}`).join(", ")) : null),
    el("h2", {}, "Phases"), strip(history, from, "strip tall"),
    el("div", { className: "legend" }, el("span", {}, `${span(Date.now() - from)} ago`), el("span", {}, "now")));
}

async function refreshRuns() {
  if (!sandboxes.has(view.sandbox) || view.tab !== "sandboxes") return;
  const asked = view.sandbox;
  const runs = await call("GET", `/api/sandboxes/${asked}/exec`);
  if (asked !== view.sandbox || !byId("runs")) return;
  view.runs = runs.reverse();
  const row = (run) => {
    const state = run.running ? pill(since(run.startedAt), "var(--running)")
      : pill(run.reason === "exited" ? `exit ${run.exitCode}` : run.reason, run.exitCode === 0 ? "var(--gone)" : "var(--failed)");
    return el("li", {},
      el("button", { className: "run", "data-key": run.sessionID, "aria-current": `${run.sessionID === view.run}`, onclick: () => select(view.sandbox, run.sessionID) },
        el("code", { className: "clip" }, commandLine(run)), state));
  };
  fill(byId("runs"), view.runs.length ? el("ul", { className: "rows", style: { "max-height": "190px", overflow: "auto" } }, ...view.runs.map(row))
    : el("p", { className: "empty" }, "Nothing has run here yet."));
  showRun();
}

/** What was typed, without the shell around it. */
function commandLine(run) {
  const words = [run.command, ...run.args];
  return words.length === 3 && words[1] === "-c" ? words[2] : words.join(" ");
}

function showRun() {
  const run = view.runs.find((run) => run.sessionID === view.run);
  const place = byId("run");
  if (!place || !run) return;
  const whole = Date.parse(run.deadline) - Date.parse(run.startedAt);
  const passed = run.running ? Date.now() - Date.parse(run.startedAt) : run.elapsedMs;
  const kill = attempt(() => call("POST", `/api/sandboxes/${view.sandbox}/exec/${run.sessionID}/kill`, {}));
  fill(place, el("h2", {}, "Output"),
    el("div", { className: "actions" }, el("code", { className: "clip" }, commandLine(run)),
      el("span", { className: "dim" }, `${bytes(run.outputBytes)} · ${span(passed)}`),
      run.running ? el("button", { className: "danger", "data-key": "end", onclick: kill }, "End") : null),
    run.deadline ? el("div", { title: `deadline after ${span(whole)}` }, bar(passed / whole, passed > whole * 0.8 ? "var(--between)" : undefined)) : null);
}

/** Shows a run's output as it comes. */
function followRun(sandbox, run, place) {
  const socket = attach(sandbox, run);
  const decoders = { 1: new TextDecoder(), 2: new TextDecoder() };
  let kept = 0;
  const write = (text, className) => {
    const isAtEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 30;
    // Colours and cursor moves mean nothing here.
    const plain = text.replace(/\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07/g, "");
    place.append(el("span", { className }, plain));
    for (kept += plain.length; kept > KEPT && place.childNodes.length > 1; place.firstChild.remove()) kept -= place.firstChild.textContent.length;
    if (isAtEnd) place.scrollTop = place.scrollHeight;
  };
  socket.onmessage = ({ data }) => {
    const [kind, rest] = [new Uint8Array(data, 0, 1)[0], new Uint8Array(data, 1)];
    if (kind === 1 || kind === 2) write(decoders[kind].decode(rest, { stream: true }), kind === 2 ? "stderr" : "stdout");
    if (kind === 3) {
      write(`\nended with ${new DataView(data).getInt32(1)}\n`, "note");
      refreshRuns().catch(() => {});
    }
  };
  return socket;
}
