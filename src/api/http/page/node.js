// The node: its health and its load.

let node = null;

const lacking = (count) => (count ? `${count} ${count === 1 ? "thing is" : "things are"} lacking` : "nothing is lacking");

async function refreshNode() {
  node = await call("GET", "/api/node");
  const health = node.ready ? ["ready", "var(--running)"] : ["not ready", "var(--failed)"];
  byId("health").replaceChildren(health[0]);
  byId("health").style.setProperty("--colour", health[1]);
  byId("about").textContent = `${node.version} · ${node.engine} · ${node.kernel}`;
  const load = node.loadAverage ?? [0, 0, 0];
  const used = node.memoryBytes - (node.memoryAvailableBytes ?? node.memoryBytes);
  const share = (part, whole) => (whole ? part / whole : 0);
  const colour = (part) => (part > 0.9 ? "var(--failed)" : part > 0.7 ? "var(--between)" : undefined);
  const tile = (name, value, under, part) =>
    el("div", { className: "tile" }, el("span", { className: "dim" }, name), el("b", {}, value),
      el("span", { className: "dim" }, under), part === undefined ? null : bar(part, colour(part)));
  fill(byId("node"),
    tile("Load", load[0].toFixed(2), `${node.cpus} CPUs · 5 min ${load[1].toFixed(2)}`, share(load[0], node.cpus)),
    tile("Memory", bytes(used), `of ${bytes(node.memoryBytes)}`, share(used, node.memoryBytes)),
    tile("Sandboxes", `${node.sandboxes}`, `of ${node.maxSandboxes}`, share(node.sandboxes, node.maxSandboxes)),
    tile("Runs", `${node.running}`, "under way"),
    tile("Up", since(node.startedAt), el("span", { title: node.lacks.join("\n") }, lacking(node.lacks.length))));
}
