// An agent that speaks the Agent Client Protocol: it asks its model for a command, runs it, and tells what it wrote.
import http from 'node:http';
import readline from 'node:readline';

const waiting = new Map();
const send = (message) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n');
const ask = (method, params) =>
  new Promise((resolve) => {
    const id = waiting.size;
    waiting.set(id, resolve);
    send({ id, method, params });
  });

const model = (text) =>
  new Promise((resolve, reject) => {
    const request = http.request(`${process.env.MODEL_URL}/v1/messages`, { method: 'POST' }, async (response) => {
      let body = '';
      for await (const chunk of response) body += chunk;
      resolve(JSON.parse(body).content[0].text);
    });
    request.on('error', reject);
    request.setHeader('content-type', 'application/json');
    request.end(JSON.stringify({ model: process.argv[2], messages: [{ role: 'user', content: text }] }));
  });

const prompt = async ({ sessionId, prompt: [{ text }] }) => {
  const { terminalId } = await ask('terminal/create', { sessionId, command: 'sh', args: ['-c', await model(text)] });
  await ask('terminal/wait_for_exit', { sessionId, terminalId });
  const { output } = await ask('terminal/output', { sessionId, terminalId });
  const content = { type: 'text', text: output };
  send({ method: 'session/update', params: { sessionId, update: { sessionUpdate: 'agent_message_chunk', content } } });
  return { stopReason: 'end_turn' };
};

const methods = {
  initialize: () => ({ protocolVersion: 1, agentCapabilities: {} }),
  'session/new': () => ({ sessionId: 'the only one' }),
  'session/prompt': prompt,
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, method, params, result } = JSON.parse(line);
  if (method === undefined) waiting.get(id)(result);
  else if (id !== undefined) Promise.resolve(methods[method](params)).then((result) => send({ id, result }));
}
