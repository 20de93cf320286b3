// The page in a real browser: what an operator does with it, with nothing said on the console.
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";

import { OpenComputer, Sandbox } from "@opencomputer/sdk";
import { type Page, chromium } from "playwright-core";

import { node, test } from "./harness.js";

const { key, url } = node();
const pictures = process.env.HANDSD_PICTURES;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });

/** A page that is watched for complaints. */
async function open(colorScheme: "light" | "dark"): Promise<{ page: Page; complaints: string[] }> {
  const page = await browser.newPage({ colorScheme, viewport: { width: 1280, height: 860 } });
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) complaints.push(`asks for ${request.url()}`);
  });
  page.on("dialog", (dialog) => void dialog.accept());
  await page.goto(url);
  return { page, complaints };
}

async function logIn(page: Page): Promise<void> {
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("heading", { name: "Sandboxes" }).waitFor();
}

async function picture(page: Page, name: string): Promise<void> {
  if (!pictures) return;
  await mkdir(pictures, { recursive: true });
  await page.screenshot({ path: `${pictures}/${name}.png` });
}

try {
  await test("a wrong key is told apart from the right one", async () => {
    const { page } = await open("light");
    await page.getByLabel("API key").fill("hands_wrong");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByText("This key is not the node's.").waitFor();
    await picture(page, "login");
    await logIn(page);
    await page.close();
  });

  for (const scheme of ["light", "dark"] as const) {
    await test(`a sandbox is made, used, put to sleep, woken and destroyed (${scheme})`, async () => {
      const { page, complaints } = await open(scheme);
      await logIn(page);
      await page.getByRole("button", { name: "New sandbox" }).click();
      const detail = page.getByLabel("Detail");
      const name = await detail.locator("h1").textContent();
      await detail.getByText("running", { exact: true }).waitFor();

      await detail.getByLabel("Command").fill("for n in 1 2 3 4 5 6; do echo line $n; echo note $n >&2; sleep 0.3; done; sleep 30");
      await detail.getByRole("button", { name: "Run", exact: true }).click();
      const output = detail.getByLabel("Output");
      await output.getByText("line 2").waitFor();
      assert.ok(!(await output.textContent())?.includes("line 6"), "the output came all at once");
      await output.getByText("line 6").waitFor();
      await picture(page, `run-${scheme}`);
      await detail.getByRole("button", { name: "End" }).click();
      await output.getByText("ended with 143").waitFor();

      // Somebody else makes one, and the page tells of it.
      const other = await Sandbox.create({ apiUrl: url, apiKey: key, metadata: { owner: "somebody else" } });
      const list = page.getByLabel("List", { exact: true });
      await list.getByText(other.id).waitFor();
      await page.getByLabel("Filter").fill("owner=somebody");
      await list.getByText(name ?? "").waitFor({ state: "detached" });
      await page.getByLabel("Filter").fill("");
      await list.getByText(name ?? "").waitFor();
      await detail.getByRole("button", { name: "Hibernate" }).click();
      await detail.getByText("hibernated", { exact: true }).waitFor();
      await picture(page, `asleep-${scheme}`);
      await detail.getByRole("button", { name: "Wake" }).click();
      await detail.getByText("running", { exact: true }).waitFor();
      await detail.getByRole("button", { name: "Destroy" }).click();
      await page.getByLabel("List").getByText(name ?? "").waitFor({ state: "detached" });
      await other.kill();
      assert.deepEqual(complaints, []);
      await page.close();
    });
  }
  await test("a session is followed and steered", async () => {
    const oc = new OpenComputer({ apiKey: key, baseUrl: `${url}/v3` });
    const agent = await oc.agents.create({ name: "shown", prompt: "", model: "", runtime: "script", limits: { turns: 5, tokens: 1000 } });
    const session = await oc.sessions.create({ agent: agent.id, input: "bash echo from the hands\ntokens 100 50\nsay first words" });
    const { page, complaints } = await open("light");
    await logIn(page);
    await page.getByRole("tab", { name: "Sessions" }).click();
    // The list of sandboxes, whose labels name the session, goes when that of sessions comes.
    await page.getByLabel("List").getByText(session.id, { exact: true }).click();
    const detail = page.getByLabel("Detail");
    const log = detail.getByLabel("Events");
    await log.getByText("first words").first().waitFor();
    // The last turn's end says what it has cost.
    await log.getByText("completed · 150 tokens").waitFor();
    await detail.getByLabel("Message").fill("say second words");
    await detail.getByRole("button", { name: "Send" }).click();
    await log.getByText("second words", { exact: true }).waitFor();
    await detail.locator("#result").getByText("second words").waitFor();
    await picture(page, "session-light");
    await page.setViewportSize({ width: 400, height: 850 });
    assert.equal(await page.evaluate("document.documentElement.scrollWidth"), 400, "a narrow window scrolls sideways");
    await picture(page, "session-narrow");
    await page.getByRole("tab", { name: "Sessions" }).press("ArrowLeft");
    await page.getByRole("heading", { name: "Sandboxes" }).waitFor();
    await page.getByRole("tab", { name: "Sandboxes" }).press("ArrowRight");
    await detail.getByRole("button", { name: "hands" }).waitFor();
    await detail.getByRole("button", { name: "Archive" }).click();
    await detail.getByText("archived", { exact: true }).waitFor();
    assert.deepEqual(complaints, []);
    await page.close();
  });
} finally {
  await browser.close();
}
