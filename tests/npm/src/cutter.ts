// A way to the node that can be cut.
import { type AddressInfo, type Socket, connect, createServer } from "node:net";

/** Passes connections on to a port of this machine, until they are cut; `cut` says whether there were any. */
export async function cutter(port: string): Promise<{ url: string; cut: () => boolean; close: () => void }> {
  const open = new Set<Socket>();
  const server = createServer((from) => {
    const to = connect(Number(port), "127.0.0.1");
    for (const [socket, other] of [[from, to], [to, from]] as const) {
      open.add(socket);
      socket.pipe(other);
      socket.on("error", () => other.destroy());
      socket.on("close", () => open.delete(socket));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cut = () => {
    const were = open.size > 0;
    open.forEach((socket) => socket.destroy());
    open.clear();
    return were;
  };
  const close = () => {
    server.close();
    cut();
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, cut, close };
}
