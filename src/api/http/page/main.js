// Logging in, and what is looked at again and again.

let watching = null;

function logIn(fault = "") {
  watching?.abort();
  talk.following?.abort();
  output?.close();
  sessionStorage.removeItem(KEY);
  byId("app").hidden = true;
  byId("login").hidden = false;
  byId("login-fault").textContent = fault;
  byId("key").focus();
}

async function enter() {
  await refreshNode();
  sessionStorage.setItem(KEY, key);
  byId("login").hidden = true;
  byId("app").hidden = false;
  watching = new AbortController();
  const { signal } = watching;
  const told = (isOpen) => {
    // Those that went while nobody told are not told of.
    if (isOpen) sandboxes.clear();
    else byId("health").replaceChildren("no connection");
  };
  follow(() => "/api/sandboxes?stream=sse", signal, sandboxChanged, told);
  view.tab = "sandboxes";
  showTabs();
  showSandboxList();
  const [sandbox = "", run = ""] = location.hash.slice(1).split("/");
  select(sandbox, run);
  repeat(signal, 2000, refreshNode);
  repeat(signal, 1000, async () => {
    showSandboxes();
    await refreshRuns();
    if (view.tab === "sessions") await refreshSessions();
  });
}

/** Does something from time to time, while somebody looks. */
async function repeat(signal, milliseconds, action) {
  while (!signal.aborted) {
    await pause(milliseconds);
    if (document.hidden || isPressed || signal.aborted) continue;
    try {
      await action();
    } catch (error) {
      if (error instanceof Unauthorized) logIn(error.message);
    }
  }
}

byId("login").onsubmit = async (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  try {
    await enter();
    byId("key").value = "";
  } catch (error) {
    byId("login-fault").textContent = error.message;
  }
};
byId("logout").onclick = () => logIn();
if (key) enter().catch((error) => logIn(error.message));
else logIn();
