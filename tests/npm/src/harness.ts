// What the tests share: where the node is, and a word on each test.

/** Where the node is and its key, as the test that started it says. */
export function node(): { url: string; key: string } {
  const { HANDSD_URL: url, HANDSD_API_KEY: key } = process.env;
  if (!url || !key) throw new Error("HANDSD_URL and HANDSD_API_KEY say where the node is");
  return { url, key };
}

/** Runs a test; the first that fails ends the process. */
export async function test(name: string, body: () => Promise<void>): Promise<void> {
  const begun = performance.now();
  try {
    await body();
  } catch (error) {
    console.log(`not ok: ${name}`);
    throw error;
  }
  console.log(`ok: ${name} (${Math.round(performance.now() - begun)} ms)`);
}

/** Waits until the condition holds; errors count as "not yet". */
export async function eventually(condition: () => Promise<boolean>, seconds = 20): Promise<void> {
  const until = performance.now() + seconds * 1000;
  let last: unknown;
  for (;;) {
    try {
      if (await condition()) return;
    } catch (error) {
      last = error;
    }
    if (performance.now() > until) throw new Error(`not within ${seconds} s: ${condition}`, { cause: last });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
