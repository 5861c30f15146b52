// A photo from its first tokens.

import * as api from "./api.js";
import { entrance, useSample } from "./photo.js";
import { copies, fields, get, load, make, notice, pixels, powers, source, tokens, word } from "./parts.js";

// How much stronger than it is a change is shown.
const STRENGTH = 3;
// Photos and settings whose pictures are kept.
const KEPT_RUNS = 6;

let models, tokenizer, all, read, photo, run, running;
const runs = new Map();

export async function start(loaded) {
  models = loaded;
  tokenizer = models.tokenizers[0];
  all = tokenizer.tokens;
  settings();
  const slider = get("tokens");
  slider.max = all;
  slider.value = Math.min(8, all);
  slider.addEventListener("input", show);
  for (const count of [0, ...powers(all)]) {
    const mark = make("button", { type: "button", textContent: count, ariaLabel: tokens(count) });
    mark.addEventListener("click", () => { slider.value = count; show(); });
    get("marks").append(mark);
  }
  copies(get("copy"), get("command"));
  entrance(get("entrance"), get("view-reconstruct"), take);
  await useSample(0, take);
}

function settings() {
  const { seed, steps, guidance, fit } = models.defaults.reconstruct;
  const samplers = [["", "The usual one"], ...tokenizer.samplers.map((name) => [name, name])];
  read = fields(get("settings"), [
    { name: "steps", label: "Steps", value: steps, min: Math.min(2, steps), max: models.limits.steps, step: 1, hint: "More is slower and sharper" },
    { name: "guidance", label: "Emphasis on the tokens", value: guidance, min: 0, max: 20, step: "any", hint: "1 is none" },
    { name: "seed", label: "Seed", value: seed, min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, hint: "Another number, other details" },
    { name: "sampler", label: "Method", value: "", choices: samplers },
    { name: "fit", label: "If it is not square", value: fit, choices: [["crop", "Take the middle"], ["pad", "Keep all of it"]] },
  ], () => begin());
  get("settings").addEventListener("submit", (event) => event.preventDefault());
}

function take(chosen) {
  photo = chosen;
  begin();
}

/** Asks for the pictures of the photo under the settings, unless they are there. */
async function begin() {
  notice();
  running?.abort();
  get("status").textContent = "";
  const chosen = read();
  const key = `${photo.key} ${JSON.stringify(chosen)}`;
  run = runs.get(key) ?? { pictures: new Map(), unfinished: new Map(), chosen, photo };
  runs.delete(key);
  runs.set(key, run);
  if (runs.size > KEPT_RUNS) runs.delete(runs.keys().next().value);
  command();
  show();
  const mine = run;
  const stop = (running = new AbortController());
  try {
    const first = powers(all);
    if (!mine.sheet) await ask(mine, first, stop.signal);
    // The numbers between, while somebody looks at the first ones.
    const most = models.limits.pictures;
    const rest = [...Array(all + 1).keys()].filter((count) => !mine.pictures.has(count));
    const stride = Math.ceil(rest.length / most);
    const between = rest.filter((_, at) => at % stride === 0);
    if (between.length) await ask(mine, between, stop.signal);
    if (mine === run) get("status").textContent = "";
  } catch (error) {
    if (error.name === "AbortError") return;
    get("busy").hidden = true;
    get("status").textContent = "";
    notice(error.message);
  }
}

async function ask(mine, counts, signal) {
  const isFirst = !mine.sheet;
  const begun = performance.now();
  const { steps, guidance, seed, sampler, fit } = mine.chosen;
  const query = new URLSearchParams({ tokens: counts, steps, guidance, seed, fit, previews: isFirst ? 6 : 0 });
  if (sampler) query.set("sampler", sampler);
  if (isFirst) get("status").textContent = "Working …";
  await api.events(`api/reconstruct?${query}`, { body: mine.photo.bytes, signal }, {
    begun: async ({ png, tokens }) => {
      // The list with the most tokens has them all.
      if ((mine.tokens?.length ?? 0) < tokens.length) mine.tokens = tokens;
      mine.original = await load(png);
      if (mine === run) show();
    },
    preview: async ({ pictures, done, total }) => {
      for (const { tokens, png } of pictures) mine.unfinished.set(tokens, await load(png));
      if (mine !== run) return;
      get("status").textContent = `Working … ${Math.round((100 * done) / total)} %`;
      show();
    },
    pictures: async ({ pictures }) => {
      for (const one of pictures) mine.pictures.set(one.tokens, { ...one, image: await load(one.png) });
      if (isFirst) mine.seconds = (performance.now() - begun) / 1000;
      if (mine === run) show();
    },
    done: ({ sheet }) => {
      if (isFirst) mine.sheet = sheet;
      if (mine !== run) return;
      get("status").textContent = "The numbers between are on their way.";
      show();
    },
  });
}

/** The finished picture of so many tokens, or of the nearest number below. */
function nearest(count) {
  for (let k = count; k >= 0; k--) if (run.pictures.has(k)) return run.pictures.get(k);
  return run.pictures.size ? run.pictures.values().next().value : undefined;
}

/** Shows what there is of the run for the place of the slider. */
function show() {
  if (!run) return;
  const count = Number(get("tokens").value);
  get("count").textContent = `${count} of ${all}`;
  get("tokens").setAttribute("aria-valuetext", `${count} of ${all} tokens`);
  for (const mark of get("marks").children) mark.ariaPressed = String(Number(mark.textContent) === count);
  const shown = nearest(count);
  const unfinished = run.pictures.size === 0 ? run.unfinished.get(count) : undefined;
  const image = shown?.image ?? unfinished;
  get("busy").hidden = run.pictures.size > 0;
  if (run.original) get("original").src = run.original.src;
  if (image) get("picture").src = image.src;
  else if (run.original) get("picture").removeAttribute("src");
  const of = shown?.tokens ?? count;
  get("caption").textContent = of === count ? `From ${tokens(count)}` : `From ${tokens(of)}; ${count} on its way`;
  get("picture").alt = `The photo made from ${tokens(of)}`;
  get("psnr").textContent = shown?.psnr ? `${shown.psnr.toFixed(2)} dB` : "–";
  get("ssim").textContent = shown?.ssim ? shown.ssim.toFixed(3) : "–";
  get("bytes").textContent = shown ? `${shown.bytes.toLocaleString("en")} bytes` : "–";
  get("seconds").textContent = run.seconds ? `${run.seconds.toFixed(2)} s` : "–";
  link(get("save-picture"), shown && source(shown.png), `${stem()}.${of}-tokens.png`);
  link(get("save-strip"), run.sheet && source(run.sheet), `${stem()}.tokens.png`);
  link(get("save-prefix"), run.tokens && of > 0 && tokensFile(run.tokens.slice(0, of)), `${stem()}.${of}-tokens.json`);
  drawAdded(of);
  drawMap(count);
}

/** As /api/decode takes them. */
const tokensFile = (list) => `data:application/json,${encodeURIComponent(JSON.stringify({ tokens: [list] }))}`;

const stem = () => (run.photo.name ?? "sample.png").replace(/\.[^.]*$/, "");

function link(anchor, target, name) {
  anchor.download = name;
  if (target) anchor.href = target;
  else anchor.removeAttribute("href");
}

/** The difference between the picture and the one of the nearest fewer tokens. */
function drawAdded(count) {
  const canvas = get("added");
  const here = run.pictures.get(count);
  const fewer = Math.max(-1, ...[...run.pictures.keys()].filter((k) => k < count));
  const before = run.pictures.get(fewer);
  if (!here || !before) {
    get("added-name").textContent = count === 0 ? "no token" : "the last token";
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    canvas.ariaLabel = "Nothing to compare with yet";
    return;
  }
  const name = fewer === count - 1 ? `token ${count}` : `tokens ${fewer + 1} to ${count}`;
  get("added-name").textContent = name;
  const [now, then] = [pixels(here.image), pixels(before.image)];
  for (let i = 0; i < now.data.length; i++) {
    if (i % 4 < 3) now.data[i] = 128 + STRENGTH * (now.data[i] - then.data[i]);
  }
  Object.assign(canvas, { width: now.width, height: now.height, ariaLabel: `What changed with ${name}` });
  canvas.getContext("2d").putImageData(now, 0, 0);
}

/** A column per token, a row per number. */
function drawMap(count) {
  if (!run.tokens) return;
  const canvas = get("map");
  const dim = run.tokens[0].length;
  const [width, height] = [run.tokens.length, dim];
  Object.assign(canvas, { width, height, ariaLabel: `The ${dim} numbers of each of ${tokens(width)} as colours; the first ${count} are used` });
  const picture = canvas.getContext("2d").createImageData(width, height);
  run.tokens.forEach((token, x) => token.forEach((value, y) => {
    const strength = Math.min(Math.abs(value) / 2.5, 1);
    const colour = value < 0 ? [58, 75, 216] : [224, 112, 32];
    const neutral = 236;
    colour.forEach((part, channel) => {
      picture.data[4 * (y * width + x) + channel] = neutral + strength * (part - neutral);
    });
    picture.data[4 * (y * width + x) + 3] = x < count ? 255 : 70;
  }));
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function command() {
  const { chosen } = run;
  const usual = models.defaults.reconstruct;
  const argument = tokenizer.notes.argument;
  const parts = ["semanticist reconstruct"];
  if (run.photo.name) parts.push(word(run.photo.name));
  for (const name of ["steps", "guidance", "seed", "fit"]) {
    if (chosen[name] !== usual[name]) parts.push(`--${name} ${chosen[name]}`);
  }
  if (chosen.sampler) parts.push(`--sampler ${chosen.sampler}`);
  if (argument) parts.push(`--model ${word(argument)}`);
  get("command").textContent = parts.join(" ");
}
