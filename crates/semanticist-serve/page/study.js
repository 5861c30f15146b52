// The perception test: consent, practice, trials whose reveal is timed by the frames of the screen, answers one by one.

import * as api from "./api.js";
import { get, make, notice } from "./parts.js";

const CROSS_MS = 500;
const MASK_MS = 250;
/** Frames that are looked at to know how long one takes. */
const FRAMES = 40;

const stage = get("stage");
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "same" };

const frame = () => new Promise(requestAnimationFrame);
const phase = (name) => (stage.dataset.phase = name);

/** The usual time between two frames, in milliseconds. */
async function frameTime() {
  const times = [];
  let last = await frame();
  for (let count = 0; count < FRAMES; count++) {
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  return times.sort((a, b) => a - b)[FRAMES / 2];
}

/** Shows a phase for a time: until the frame that comes nearest to its end. */
async function show(name, milliseconds, frameMs) {
  // What is set in a frame is seen from its end on.
  const begun = await frame();
  phase(name);
  let [last, frames, late] = [begun, 0, 0];
  for (;;) {
    const now = await frame();
    frames++;
    if (now - last > 1.5 * frameMs) late++;
    last = now;
    if (now - begun >= milliseconds - frameMs / 2) return { shown_ms: now - begun, frames, late_frames: late };
  }
}

const draw = (canvas, bitmap) => {
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
};

/** What comes after a picture and wipes it from the eye: squares of random colours. */
function mask(canvas) {
  const context = canvas.getContext("2d");
  const side = Math.max(1, Math.round(canvas.width / 24));
  for (let y = 0; y < canvas.height; y += side) {
    for (let x = 0; x < canvas.width; x += side) {
      context.fillStyle = `rgb(${[0, 0, 0].map(() => Math.floor(Math.random() * 256)).join(" ")})`;
      context.fillRect(x, y, side, side);
    }
  }
}

/** An answer by key or touch, and how long it took. */
function choose() {
  const begun = performance.now();
  return new Promise((resolve) => {
    const done = new AbortController();
    const answer = (choice) => {
      done.abort();
      resolve({ choice, response_ms: performance.now() - begun });
    };
    addEventListener("keydown", (event) => {
      if (!KEYS[event.key] || event.repeat) return;
      event.preventDefault();
      answer(KEYS[event.key]);
    }, { signal: done.signal });
    for (const button of stage.querySelectorAll("[data-choice]")) {
      button.addEventListener("click", () => answer(button.dataset.choice), { signal: done.signal });
    }
  });
}

/** Waits for somebody to go on. */
function pause(text, button = "Go on") {
  get("pause-text").textContent = text;
  get("go").textContent = button;
  phase("pause");
  get("go").focus();
  return new Promise((resolve) => get("go").addEventListener("click", resolve, { once: true }));
}

/** Again and again until it is done: nothing that was answered may be lost. */
async function insist(work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      await pause(error.message, "Try again");
    }
  }
}

const pictures = (id, trial) =>
  Promise.all(["original", "left", "right"].map(async (which) => createImageBitmap(await api.studyPicture(id, trial, which))));

async function run(study, { participant, trials, answered }) {
  const done = new Set(answered);
  const open = trials.map((trial, number) => ({ ...trial, number }))
    .filter(({ practice, number }) => (practice ? done.size === 0 : !done.has(number)));
  get("intro").hidden = true;
  stage.hidden = false;
  stage.dataset.original = study.original;
  await document.documentElement.requestFullscreen?.().catch(() => {});
  get("progress").textContent = "One moment …";
  phase("none");
  const frameMs = await frameTime();
  // The pictures of the next trial come while this one is shown.
  let next = open.length ? pictures(participant, open[0].number) : undefined;
  let wasPractice = open[0]?.practice;
  for (const [at, trial] of open.entries()) {
    const { number, practice, reveal_ms } = trial;
    if (wasPractice && !practice) await pause("That was practice. From now on your answers count.");
    wasPractice = practice;
    get("progress").textContent = practice ? "Practice" : `${done.size + 1} of ${study.trials}`;
    next.catch(() => {});
    const [original, left, right] = await next.catch(() => insist(() => pictures(participant, number)));
    draw(get("original"), original);
    draw(get("left"), left);
    draw(get("right"), right);
    const following = open[at + 1];
    if (study.original === "before") await show("original", study.original_ms, frameMs);
    await show("cross", CROSS_MS, frameMs);
    const seen = await show("reveal", reveal_ms, frameMs);
    mask(get("left"));
    mask(get("right"));
    await show("mask", MASK_MS, frameMs);
    phase("question");
    // Not earlier: to fetch and to decode takes frames.
    next = following && pictures(participant, following.number);
    next?.catch(() => {});
    const { choice, response_ms } = await choose();
    phase("none");
    if (practice) continue;
    const answer = { trial: number, choice, frame_ms: frameMs, response_ms, ...seen };
    await insist(() => api.studyAnswer(participant, answer));
    done.add(number);
  }
  if (document.fullscreenElement) await document.exitFullscreen().catch(() => {});
  stage.hidden = true;
  get("end").hidden = false;
  get("main").focus();
}

function introduce(study) {
  document.title = `${study.title} · Semanticist`;
  get("title").textContent = study.title;
  get("order").textContent = study.original === "before"
    ? `A photo for a moment, a cross to look at, and then two other pictures, very briefly.`
    : "A cross to look at, two pictures, very briefly, and then a photo.";
  const times = (count) => (count === 1 ? "once" : `${count} times`);
  const practice = study.practice ? `${times(study.practice)} for practice, then ` : "";
  get("length").textContent = `This comes ${practice}${times(study.trials)} in earnest. You can stop at any time; what you answered is kept.`;
  get("consent").append(...study.consent.split(/\n\s*\n/).map((text) => make("p", {}, text.trim())));
  get("intro").hidden = false;
}

/** A link may bring the token behind its #, which no server sees. */
function takeToken() {
  const token = location.hash.slice(1);
  if (!token) return;
  api.setToken(decodeURIComponent(token));
  history.replaceState(null, "", location.pathname);
}

try {
  takeToken();
  const study = await api.study();
  introduce(study);
  const key = `study-${study.study}`;
  const before = localStorage.getItem(key);
  const known = before && await api.studyParticipant(before).catch(() => undefined);
  if (known) get("before").textContent = "You were here before, and go on where you stopped.";
  get("agree").addEventListener("change", () => (get("begin").disabled = !get("agree").checked));
  get("begin").addEventListener("click", async () => {
    get("begin").disabled = true;
    notice();
    try {
      const participant = known || await api.studyJoin();
      localStorage.setItem(key, participant.participant);
      await run(study, participant);
    } catch (error) {
      stage.hidden = true;
      notice(error.message);
      get("begin").disabled = false;
    }
  });
} catch (error) {
  notice(error.message);
}
