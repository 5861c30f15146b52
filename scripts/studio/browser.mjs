// A headless Chromium, driven through its DevTools protocol: only what the check needs.

import { spawn } from "node:child_process";
import WebSocket from "ws";

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Starts the browser, which keeps its files in the folder `profile`; `close` ends it. */
export async function launch(program, profile) {
  const child = spawn(program, [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank",
  ], { stdio: ["ignore", "ignore", "pipe"] });
  const address = await new Promise((resolve, reject) => {
    let text = "";
    child.stderr.on("data", (data) => {
      text += data;
      const found = text.match(/DevTools listening on (ws:\S+)/);
      if (found) resolve(found[1]);
    });
    child.on("exit", (code) => reject(new Error(`the browser ended with ${code}:\n${text}`)));
    child.on("error", reject);
  });
  const close = async () => {
    child.removeAllListeners("exit");
    const ended = new Promise((resolve) => child.on("exit", resolve));
    child.kill();
    await Promise.race([ended, sleep(5000)]);
  };
  return { connection: await connect(address), close };
}

async function connect(address) {
  const socket = new WebSocket(address, { perMessageDeflate: false });
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  let last = 0;
  const waiting = new Map();
  const listeners = [];
  socket.on("message", (text) => {
    const message = JSON.parse(text);
    if (!message.id) return listeners.forEach((listener) => listener(message));
    const { resolve, reject } = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) reject(new Error(`${message.error.message} ${message.error.data ?? ""}`));
    else resolve(message.result);
  });
  const send = (method, params = {}, sessionId) => new Promise((resolve, reject) => {
    const id = ++last;
    waiting.set(id, { resolve, reject });
    socket.send(JSON.stringify({ id, method, params, sessionId }));
  });
  return { send, listen: (listener) => listeners.push(listener) };
}

/** A page of a size, with what it complains about in `complaints`. */
export async function open({ connection }, url, { width, height, phone, dark }) {
  const { targetId } = await connection.send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await connection.send("Target.attachToTarget", { targetId, flatten: true });
  const send = (method, params) => connection.send(method, params, sessionId);
  const complaints = [];
  connection.listen(({ method, params, sessionId: of }) => {
    if (of !== sessionId) return;
    if (method === "Runtime.exceptionThrown") complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === "Runtime.consoleAPICalled" && ["error", "warning"].includes(params.type)) complaints.push(params.args.map((one) => one.value ?? one.description).join(" "));
    if (method === "Log.entryAdded" && params.entry.level === "error") complaints.push(`${params.entry.text} ${params.entry.url ?? ""}`);
  });
  for (const domain of ["Page", "Runtime", "Log", "DOM"]) await send(`${domain}.enable`);
  await send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: Boolean(phone) });
  if (phone) await send("Emulation.setTouchEmulationEnabled", { enabled: true });
  await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });

  /** The value of an expression in the page. */
  const run = async (expression) => {
    const answer = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (answer.exceptionDetails) throw new Error(answer.exceptionDetails.exception?.description ?? answer.exceptionDetails.text);
    return answer.result.value;
  };
  /** Waits until an expression is true in the page. */
  const until = async (expression, seconds = 60) => {
    const end = Date.now() + seconds * 1000;
    while (!(await run(expression))) {
      if (Date.now() > end) throw new Error(`never came: ${expression}\n${await run("document.body.innerText")}`);
      await sleep(30);
    }
  };
  const picture = async (whole) => {
    const { data } = await send("Page.captureScreenshot", { format: "png", captureBeyondViewport: Boolean(whole) });
    return Buffer.from(data, "base64");
  };
  await send("Page.navigate", { url });
  return { send, run, until, picture, complaints };
}
