// New pictures of a class, and variations of them.

import * as api from "./api.js";
import { copies, fields, get, make, notice, source, tokens, word } from "./parts.js";

const SHOWN = 10;

let models, generator, read, chosenClass, running, chosen;

export function start(loaded) {
  models = loaded;
  generator = models.generator;
  if (!generator) {
    get("draw").replaceChildren(make("p", {}, "No generator is loaded. Start the server with --generator to draw pictures."));
    get("draw-command-row").hidden = true;
    return;
  }
  const usual = models.defaults.generate;
  read = fields(get("draw-fields"), [
    { name: "count", label: "Pictures", value: usual.count, min: 1, max: 16, step: 1 },
    { name: "guidance", label: "Emphasis on the word", value: usual.guidance, min: 0, max: 20, step: "any", hint: "1 is none" },
    { name: "schedule", label: "Over the tokens", value: usual.schedule, choices: [["constant", "The same for all"], ["linear", "Growing to the last"]] },
    { name: "temperature", label: "Variety", value: usual.temperature, min: 0, max: 2, step: "any", hint: "1 is usual, 0 none" },
    { name: "seed", label: "Seed", value: usual.seed, min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, hint: "Another number, other pictures" },
  ], command);
  const named = generator.classes.findIndex((names) => names.toLowerCase().includes("goldfish"));
  choose(named < 0 ? 0 : named);
  suggest();
  get("class").addEventListener("input", suggest);
  get("draw").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
  get("stop").addEventListener("click", () => running?.abort());
  const keep = get("keep");
  keep.max = generator.drawn_tokens - 1;
  keep.value = Math.max(1, Math.round(generator.drawn_tokens / 8));
  const kept = () => (get("kept").textContent = `${keep.value} of ${generator.drawn_tokens}`);
  keep.addEventListener("input", kept);
  kept();
  get("vary").addEventListener("click", vary);
  copies(get("draw-copy"), get("draw-command"));
}

const title = (label) => generator.classes[label].split(",")[0].trim();

/** The names nearest to what was typed: those that contain it, then those spelt most alike. */
function suggest() {
  const wanted = get("class").value.trim().toLowerCase();
  let labels = generator.classes.map((_, label) => label);
  if (wanted) {
    const distance = (label) => Math.min(...generator.classes[label].toLowerCase().split(",").map((name) => {
      const at = name.trim().indexOf(wanted);
      return at >= 0 ? at / 1000 : 1 + edits(name.trim(), wanted) / wanted.length;
    }));
    labels = labels.map((label) => [distance(label), label]).sort((a, b) => a[0] - b[0]).map(([, label]) => label);
    choose(labels[0]);
  } else {
    // Some from everywhere in the list, the chosen one among them.
    const stride = Math.max(1, Math.floor(labels.length / SHOWN));
    labels = [chosenClass, ...labels.filter((label) => label % stride === 0 && label !== chosenClass)];
  }
  get("classes").replaceChildren(...labels.slice(0, SHOWN).map((label) => {
    const chip = make("button", { type: "button", textContent: title(label), title: generator.classes[label] });
    chip.dataset.label = label;
    chip.addEventListener("click", () => choose(label));
    return chip;
  }));
  choose(chosenClass);
}

/** How many letters must change to make one word of the other. */
function edits(a, b) {
  let row = [...Array(b.length + 1).keys()];
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}

function choose(label) {
  chosenClass = label;
  for (const chip of get("classes").children) chip.ariaPressed = String(Number(chip.dataset.label) === label);
  command();
}

function draw(extra = {}) {
  get("variations").hidden = true;
  return ask({ class: String(chosenClass), ...read(), ...extra });
}

/** The same beginning, other ends: seeds that no picture here was drawn from. */
function vary() {
  const count = Number(get("keep").value);
  const { count: pictures } = read();
  chosen.varied = (chosen.varied ?? chosen.seed) + 1000;
  ask({ class: String(chosen.label), ...read(), count: pictures, seed: chosen.varied, given: chosen.tokens.slice(0, count) });
}

async function ask(request) {
  notice();
  running?.abort();
  const stop = (running = new AbortController());
  const label = Number(request.class);
  const grid = get("grid");
  const status = get("draw-status");
  const cells = Array.from({ length: request.count }, (_, at) => {
    const image = make("img", { alt: "" });
    const cell = make("button", { type: "button", disabled: true, ariaLabel: `Picture ${at + 1}: ${title(label)}` }, make("div", { className: "frame" }, image));
    return { cell, image };
  });
  grid.replaceChildren(...cells.map(({ cell }) => cell));
  get("stop").hidden = false;
  status.textContent = "Working …";
  const kept = request.given?.length ?? 0;
  const show = (pictures) => pictures.forEach(({ png }, at) => (cells[at].image.src = source(png)));
  try {
    await api.events("api/generate", {
      body: JSON.stringify({ ...request, previews: true }),
      headers: { "Content-Type": "application/json" },
      signal: stop.signal,
    }, {
      preview: ({ tokens: count, pictures }) => {
        status.textContent = `After ${tokens(count)} of ${generator.drawn_tokens} …`;
        show(pictures);
      },
      pictures: ({ pictures }) => {
        show(pictures);
        pictures.forEach((picture, at) => {
          const { cell } = cells[at];
          cell.disabled = false;
          cell.ariaPressed = "false";
          cell.addEventListener("click", () => select(cells.map(({ cell }) => cell), cell, { ...picture, label }));
        });
      },
      done: ({ seconds }) => {
        const begun = kept ? `the first ${tokens(kept)} kept, ` : "";
        status.textContent = `${title(label)}: ${begun}drawn in ${seconds.toFixed(1)} s. Choose one for variations.`;
      },
    });
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Stopped." : "";
    if (error.name !== "AbortError") notice(error.message);
  } finally {
    if (running === stop) get("stop").hidden = true;
  }
}

function select(cells, cell, picture) {
  chosen = picture;
  for (const other of cells) other.ariaPressed = String(other === cell);
  get("chosen").src = source(picture.png);
  get("chosen").alt = `The chosen picture: ${title(picture.label)}`;
  const save = get("save-chosen");
  save.href = source(picture.png);
  save.download = `${title(picture.label).replace(/\W+/g, "-")}-${picture.seed}.png`;
  get("variations").hidden = false;
  get("variations").scrollIntoView({ block: "nearest" });
}

function command() {
  if (!read) return;
  const chosen = read();
  const usual = models.defaults.generate;
  const parts = [`semanticist generate --class ${word(title(chosenClass))} -n ${chosen.count}`];
  for (const name of ["guidance", "schedule", "temperature", "seed"]) {
    if (chosen[name] !== usual[name]) parts.push(`--${name} ${chosen[name]}`);
  }
  if (generator.notes.argument) parts.push(`--generator ${word(generator.notes.argument)}`);
  if (models.tokenizers[0].notes.argument) parts.push(`--model ${word(models.tokenizers[0].notes.argument)}`);
  get("draw-command").textContent = parts.join(" ");
}
