// What goes to the server and comes back.

import { make } from "./parts.js";

const TOKEN = "semanticist-token";

/** An answer of the server that says what is wrong. */
export class Refused extends Error {}

async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    const problem = await response.json().catch(() => ({}));
    throw new Refused(problem.error ?? `The server answered ${response.status}.`);
  }
}

let asking;
function askForToken() {
  asking ??= new Promise((resolve) => {
    const title = make("h2", { id: "title-ask" }, "This server needs a token");
    const token = make("input", { id: "token", type: "password", autocomplete: "current-password" });
    const button = make("button", { className: "primary", type: "submit" }, "Continue");
    const form = make("form", { method: "dialog" }, title, make("label", { htmlFor: "token" }, "Token"), token, make("div", { className: "bar" }, button));
    const dialog = make("dialog", {}, form);
    dialog.setAttribute("aria-labelledby", title.id);
    document.body.append(dialog);
    dialog.addEventListener("close", () => {
      setToken(token.value.trim());
      dialog.remove();
      asking = undefined;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

const json = async (response) => (await response).json();

export const models = () => json(ask("api/models"));
export const sample = async (name) => (await ask(`api/samples/${encodeURIComponent(name)}`)).blob();
const query = (settings) => new URLSearchParams(settings);
export const encode = async (photo, settings, signal) =>
  (await json(ask(`api/encode?${query(settings)}`, { method: "POST", body: photo, signal }))).tokens[0];
export const decode = async (tokens, settings, signal) =>
  (await ask(`api/decode?${query(settings)}`, { method: "POST", body: JSON.stringify({ tokens: [tokens] }), signal })).blob();
export const explain = (photo, settings, signal) =>
  json(ask(`api/explain?${query(settings)}`, { method: "POST", body: photo, signal }));

/** Sends a request whose answer is a stream of events, and calls `on[name](data)` for each. */
export async function events(path, { body, headers, signal }, on) {
  const response = await ask(path, { method: "POST", body, headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (.*)\ndata: (.*)$/);
      const content = JSON.parse(data);
      if (name === "error") throw new Refused(content.error);
      ended ||= name === "done";
      await on[name]?.(content);
    }
  }
  if (!ended) throw new Refused("The answer broke off before its end. Try again.");
}

const STUDY = "api/study";

export const setToken = (token) => sessionStorage.setItem(TOKEN, token);
export const study = () => json(ask(STUDY));
export const studyJoin = () => json(ask(`${STUDY}/participants`, { method: "POST" }));
export const studyParticipant = (id) => json(ask(`${STUDY}/participants/${id}`));
export const studyPicture = async (id, trial, which) =>
  (await ask(`${STUDY}/participants/${id}/trials/${trial}/${which}`)).blob();
export const studyAnswer = (id, answer) =>
  json(ask(`${STUDY}/participants/${id}/answers`, { method: "POST", body: JSON.stringify(answer) }));
