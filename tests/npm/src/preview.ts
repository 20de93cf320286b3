// Previews of real development servers in a real browser: pages that reload hot, and go on across a sleep.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";

import { Sandbox } from "@opencomputer/sdk";
import { type Page, chromium } from "playwright-core";

import { eventually, node, test } from "./harness.js";

const { key, url } = node();
const { CHROMIUM, HANDS, HANDSD_MODULES, HANDSD_SANDBOX, HANDSD_VITE, HANDSD_PLAIN } = process.env;
if (!HANDS || !HANDSD_MODULES || !HANDSD_SANDBOX || !HANDSD_VITE || !HANDSD_PLAIN) {
  throw new Error("the test that starts this says where");
}

const sandbox = await Sandbox.connect(HANDSD_SANDBOX, { apiUrl: url, apiKey: key });
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });

/** What the page shows. */
const text = (page: Page) => page.locator("#text").textContent({ timeout: 1000 });
const shows = (page: Page, word: string) => eventually(async () => (await text(page)) === word, 60);

/** What a page that was not loaded anew still knows. */
const mark = (page: Page) => page.evaluate(() => Reflect.get(globalThis, "mark") as unknown);
const setMark = (page: Page) => page.evaluate(() => void Reflect.set(globalThis, "mark", true));

/** Vite and what it needs, from here into the sandbox. */
async function install(): Promise<void> {
  const archive = execFileSync("tar", ["-cf", "-", "."], { cwd: HANDSD_MODULES, maxBuffer: 256 << 20 });
  await sandbox.files.write("/workspace/modules.tar", new Uint8Array(archive));
  const unpack = "mkdir -p app/node_modules && tar -xf modules.tar -C app/node_modules && rm modules.tar";
  const unpacked = await sandbox.exec.run(unpack, { cwd: "/workspace" });
  assert.equal(unpacked.exitCode, 0, unpacked.stderr);
}

async function say(word: string): Promise<void> {
  await sandbox.files.write("/workspace/app/word.js", `export const word = ${JSON.stringify(word)};\n`);
}

/** Starts a server that stays behind; one that is waited for would keep the sandbox awake. */
async function start(command: string, cwd: string): Promise<void> {
  const started = await sandbox.exec.run(`${command} > server.log 2>&1 &`, { cwd });
  assert.equal(started.exitCode, 0, started.stderr);
}

const serve = () => start("node node_modules/vite/bin/vite.js --port 5173 --strictPort", "/workspace/app");

/** Puts it to sleep, as soon as what the page has asked for last is answered. */
const sleep = () =>
  eventually(async () => {
    await sandbox.hibernate();
    return true;
  });

try {
  await test("a page that nobody serves yet looks again until somebody does, and comes back after a sleep", async () => {
    const page = await browser.newPage();
    await page.goto(HANDSD_PLAIN);
    await page.getByText("Nobody listens on port 8000").waitFor();
    await sandbox.exec.run("mkdir site && echo '<p id=text>plain</p>' > site/index.html", { cwd: "/workspace" });
    await start("python3 -m http.server 8000 --bind 127.0.0.1", "/workspace/site");
    await shows(page, "plain");
    await sleep();
    await page.reload();
    assert.equal(await text(page), "plain");
    await page.close();
  });

  await test("a change is seen without the page being loaded anew, also after a sleep", async () => {
    await install();
    const script =
      'import { word } from "./word.js";\nconst text = document.querySelector("#text");\ntext.textContent = word;\n' +
      'import.meta.hot.accept("./word.js", (changed) => { text.textContent = changed.word; });\n';
    await sandbox.files.write("/workspace/app/main.js", script);
    await sandbox.files.write("/workspace/app/index.html", "<p id=text></p><script type=module src=/main.js></script>\n");
    await say("one");
    await serve();
    const page = await browser.newPage();
    await page.goto(HANDSD_VITE);
    await shows(page, "one");
    await setMark(page);
    await say("two");
    await shows(page, "two");
    await sleep();
    await say("three");
    await shows(page, "three");
    assert.equal(await mark(page), true, "it is the page of before");
    await sleep();
    await page.reload();
    await shows(page, "three");
    await page.close();
  });

  await test("a page finds the server that is started after a sleep has ended the one before", async () => {
    const page = await browser.newPage();
    await page.goto(HANDSD_VITE);
    await shows(page, "three");
    await setMark(page);
    await eventually(async () => {
      execFileSync(HANDS, ["hibernate", "--stop", sandbox.id]);
      return true;
    });
    await say("four");
    await serve();
    await shows(page, "four");
    assert.equal(await mark(page), undefined, "it has loaded itself anew");
    await page.close();
  });
} finally {
  await browser.close();
}
