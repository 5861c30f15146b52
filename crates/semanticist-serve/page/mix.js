// A picture whose tokens come from two photos.

import * as api from "./api.js";
import { entrance, useSample } from "./photo.js";
import { copies, get, make, notice } from "./parts.js";

/** Where a token comes from, how it is marked, and its numbers from those of A, of B, and of the token that stands for none. */
const PENS = [
  { name: "from A", mark: "A", mix: (a) => a },
  { name: "from B", mark: "B", mix: (_, b) => b },
  { name: "between both", mark: "½", mix: (a, b) => a.map((value, at) => (value + b[at]) / 2) },
  { name: "from nowhere", mark: "–", mix: (a, b, none) => none },
];

let model, all, pen = 2, sources, running;
const photos = { a: undefined, b: undefined };

export function start(models) {
  model = models.tokenizers[0];
  all = model.tokens;
  const split = get("split");
  split.max = all;
  split.value = Math.round(all / 8);
  split.addEventListener("input", () => { divide(); mix(); });
  for (const [at, { name, mark }] of PENS.entries()) {
    const button = make("button", { type: "button" }, `${mark} ${name}`);
    button.addEventListener("click", () => { pen = at; showPens(); });
    get("pens").append(button);
  }
  const mixer = get("mixer");
  for (let at = 0; at < all; at++) {
    const cell = make("button", { type: "button" });
    cell.addEventListener("click", () => set(at));
    // Drawn across, with a mouse.
    cell.addEventListener("pointerenter", ({ buttons, pointerType }) => { if (buttons === 1 && pointerType === "mouse") set(at); });
    mixer.append(cell);
  }
  divide();
  showPens();
  for (const side of ["a", "b"]) entrance(get(`entrance-${side}`), get(`slot-${side}`), (photo) => take(side, photo));
  copies(get("mix-copy"), get("mix-command"));
  get("mix-command").textContent = `curl --json @mixed.json "${location.origin}/api/decode" -o mixed.png`;
  // Nothing is computed before somebody looks.
  const look = () => {
    if (location.hash !== "#mix" || photos.a || photos.b) return;
    useSample(0, (photo) => take("a", photo));
    useSample(Math.min(1, models.samples.length - 1), (photo) => take("b", photo));
  };
  addEventListener("hashchange", look);
  look();
}

function divide() {
  const count = Number(get("split").value);
  sources = Array.from({ length: all }, (_, at) => (at < count ? 0 : 1));
  get("split-count").textContent = `${count} of ${all}`;
  showSources();
}

function set(at) {
  if (sources[at] === pen) return;
  sources[at] = pen;
  showSources();
  mix();
}

function showPens() {
  [...get("pens").querySelectorAll("button")].forEach((button, at) => (button.ariaPressed = String(at === pen)));
}

function showSources() {
  [...get("mixer").children].forEach((cell, at) => {
    const { name, mark } = PENS[sources[at]];
    cell.textContent = mark;
    cell.dataset.source = sources[at];
    cell.ariaLabel = `Token ${at + 1} ${name}`;
  });
}

async function take(side, photo) {
  notice();
  photos[side] = { photo };
  const mine = photos[side];
  try {
    mine.tokens = await api.encode(photo.bytes, {});
    const whole = await api.decode(mine.tokens, {});
    if (photos[side] !== mine) return;
    showPicture(get(`picture-${side}`), whole);
    await mix();
  } catch (error) {
    notice(error.message);
  }
}

function showPicture(image, bytes) {
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(bytes);
}

/** Asks for the picture of the tokens as they are set now. */
async function mix() {
  const [a, b] = [photos.a?.tokens, photos.b?.tokens];
  if (!a || !b) return;
  running?.abort();
  const { signal } = (running = new AbortController());
  const mixed = sources.map((source, at) => PENS[source].mix(a[at], b[at], model.null_tokens[at]));
  try {
    const bytes = await api.decode(mixed, {}, signal);
    showPicture(get("picture-mixed"), bytes);
    get("save-mixed").href = get("picture-mixed").src;
    const save = get("save-tokens");
    if (save.href) URL.revokeObjectURL(save.href);
    save.href = URL.createObjectURL(new Blob([JSON.stringify({ tokens: [mixed] })], { type: "application/json" }));
    const counts = PENS.map(({ name }, at) => [sources.filter((source) => source === at).length, name]).filter(([count]) => count);
    get("mix-status").textContent = counts.map(([count, name]) => `${count} ${name}`).join(", ");
  } catch (error) {
    if (error.name !== "AbortError") notice(error.message);
  }
}
