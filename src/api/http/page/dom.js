// Elements, and how things are written. What comes from the node becomes text, never markup.

const byId = (id) => document.getElementById(id);

/** An element with properties and children. */
function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element[name] = value;
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (value !== undefined && value !== false) element.setAttribute(name === "className" ? "class" : name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const COLOURS = {
  running: "var(--running)", hibernated: "var(--asleep)", hibernating: "var(--between)", waking: "var(--between)",
  creating: "var(--between)", crashed: "var(--failed)", failed: "var(--failed)", destroying: "var(--gone)",
  destroyed: "var(--gone)",
};

const pill = (word, colour) => el("span", { className: "pill", style: { "--colour": colour ?? "var(--gone)" } }, words(word));

/** A word of the wire, as people write it. */
const words = (word) => word.replaceAll("_", " ");

const number = (count) => count.toLocaleString("en");

const bar = (share, colour) =>
  el("div", { className: "bar", style: colour ? { "--colour": colour } : {} },
    el("i", { style: { width: `${Math.min(100, Math.max(0, share * 100))}%` } }));

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024;
  return `${unit && count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

function span(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 1) return `${Math.round(milliseconds)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const two = (whole, unit, part, small) => {
    const rest = Math.floor((seconds % whole) / part);
    return `${Math.floor(seconds / whole)} ${unit}${rest ? ` ${rest} ${small}` : ""}`;
  };
  if (seconds < 3600) return two(60, "min", 1, "s");
  return seconds < 86400 ? two(3600, "h", 60, "min") : two(86400, "d", 3600, "h");
}

const since = (time) => span(Math.max(0, Date.now() - Date.parse(time)));

/** What happened when, as a strip from `from` to now. */
function strip(history, from, className = "strip") {
  const SVG = "http://www.w3.org/2000/svg";
  const now = Date.now();
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("viewBox", "0 0 1000 10");
  svg.setAttribute("preserveAspectRatio", "none");
  history.forEach(({ at, word }, index) => {
    const [begin, end] = [Math.max(at, from), history[index + 1]?.at ?? now];
    if (end < from) return;
    const rect = document.createElementNS(SVG, "rect");
    const scale = (time) => (1000 * (time - from)) / Math.max(1, now - from);
    rect.setAttribute("x", scale(begin));
    rect.setAttribute("width", Math.max(1.5, scale(end) - scale(begin)));
    rect.setAttribute("height", 10);
    rect.style.fill = COLOURS[word] ?? "var(--gone)";
    const title = document.createElementNS(SVG, "title");
    title.textContent = `${word}, ${span(end - begin)}`;
    rect.append(title);
    svg.append(rect);
  });
  return svg;
}

/** Replaces what an element holds; what had the focus has it again. */
function fill(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
  if (focused) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** A button is pressed: it must not be replaced before it is let go. */
let isPressed = false;
addEventListener("pointerdown", () => (isPressed = true), true);
for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, () => (isPressed = false), true);

/** Shows what went wrong, for a while. */
function notice(error) {
  const place = byId("notice");
  place.textContent = error.message;
  place.hidden = false;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => (place.hidden = true), 8000);
}

/** Does what a button asks for, and says so if it cannot be done. */
const attempt = (action) => async (event) => {
  event?.preventDefault?.();
  try {
    await action(event);
  } catch (error) {
    if (error instanceof Unauthorized) logIn(error.message);
    else notice(error);
  }
};
