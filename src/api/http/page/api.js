// The public API, as this page uses it: nothing here that a script with the key could not do.

const KEY = "handsd.key";
let key = sessionStorage.getItem(KEY) ?? "";

/** The key is wrong, or was changed. */
class Unauthorized extends Error {}

async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${key}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) }).catch(() => {
    throw new Error("The node does not answer.");
  });
  if (response.status === 401) throw new Unauthorized("This key is not the node's.");
  const answer = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new Error(answer?.error?.message ?? answer?.error ?? `${response.status} ${path}`);
  return answer;
}

/** Each JSON event of a stream, for ever: a stream that ends is opened again, as `path` says it then. */
async function follow(path, signal, onEvent, onState) {
  while (!signal.aborted) {
    try {
      const response = await fetch(path(), { headers: { Authorization: `Bearer ${key}` }, signal });
      if (!response.ok) throw new Error(`${response.status}`);
      onState(true);
      let rest = "";
      for await (const text of decoded(response.body)) {
        const frames = (rest + text).split("\n\n");
        rest = frames.pop();
        for (const frame of frames) {
          const data = frame.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
          if (data) onEvent(JSON.parse(data));
        }
      }
    } catch {
      // Whatever broke it off, it is tried again.
    }
    if (signal.aborted) return;
    onState(false);
    await pause(1000);
  }
}

async function* decoded(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A WebSocket to a run. Browsers cannot set its headers, so the key is in the query. */
function attach(sandbox, run) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const path = `/api/sandboxes/${sandbox}/exec/${run}?api_key=${encodeURIComponent(key)}`;
  const socket = new WebSocket(`${scheme}://${location.host}${path}`);
  socket.binaryType = "arraybuffer";
  return socket;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
