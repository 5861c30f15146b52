// The same photo by every model, and what its tokens hold in numbers.

import * as api from "./api.js";
import { draw } from "./chart.js";
import { entrance, useSample } from "./photo.js";
import { get, load, make, notice, powers, tokens } from "./parts.js";

let models, counts, photo, running;
// What is known of the photo, by model.
let found = [];

export function start(loaded) {
  models = loaded;
  const most = Math.max(...models.tokenizers.map((one) => one.tokens));
  counts = [0, ...powers(most)];
  const slider = get("compare-tokens");
  slider.max = counts.length - 1;
  slider.value = Math.min(4, counts.length - 1);
  slider.addEventListener("input", show);
  entrance(get("entrance-compare"), get("view-compare"), take);
  get("compare-hint").textContent = models.tokenizers.length > 1 ? "" : "To see other models here, name them when the server starts: --beside FILE.";
  // Nothing is computed before somebody looks.
  const look = () => {
    if (location.hash !== "#compare") return;
    if (photo) show();
    else useSample(0, take);
  };
  addEventListener("hashchange", look);
  look();
}

async function take(chosen) {
  photo = chosen;
  notice();
  running?.abort();
  const { signal } = (running = new AbortController());
  const mine = (found = models.tokenizers.map(() => ({ pictures: new Map() })));
  show();
  try {
    for (const [at, model] of models.tokenizers.entries()) await ask(mine[at], model, signal);
    for (const [at, model] of models.tokenizers.entries()) {
      mine[at].explained = await api.explain(photo.bytes, { model: model.notes.name }, signal);
      if (!signal.aborted) show();
    }
  } catch (error) {
    if (error.name !== "AbortError") notice(error.message);
  }
}

const most = (model) => counts.filter((count) => count <= model.tokens);
const countOf = (model) => Math.min(counts[get("compare-tokens").value], model.tokens);

async function ask(mine, model, signal) {
  const wanted = [...new Set([...most(model), model.tokens])];
  const query = new URLSearchParams({ tokens: wanted, model: model.notes.name });
  await api.events(`api/reconstruct?${query}`, { body: photo.bytes, signal }, {
    begun: async ({ png }) => { mine.original = await load(png); if (!signal.aborted) show(); },
    pictures: async ({ pictures }) => {
      for (const one of pictures) mine.pictures.set(one.tokens, { ...one, image: await load(one.png) });
      if (!signal.aborted) show();
    },
  });
}

function show() {
  const wanted = counts[get("compare-tokens").value];
  get("compare-count").textContent = wanted;
  get("compare-tokens").setAttribute("aria-valuetext", tokens(wanted));
  const figures = models.tokenizers.map((model, at) => {
    const count = countOf(model);
    const one = found[at]?.pictures.get(count);
    const numbers = `${tokens(count)}, ${(count * model.token_dim).toLocaleString("en")} numbers`;
    const quality = one ? `${one.psnr?.toFixed(2) ?? "–"} dB, likeness ${one.ssim?.toFixed(3) ?? "–"}` : "on its way";
    return figure(one?.image.src, `The photo by ${model.notes.name} from ${tokens(count)}`, model.notes.name, numbers, quality);
  });
  get("beside").replaceChildren(figure(found[0]?.original?.src, "The original photo", "Original"), ...figures);
  const known = models.tokenizers.map((model, at) => ({ model, ...found[at]?.explained })).filter((one) => one.variance);
  draw(get("variance"), known.map(({ model, variance }) => ({
    name: model.notes.name,
    points: variance.counts.map((count, at) => [count, 100 * variance.explained[at]]),
  })), { x: { name: "tokens" }, y: { name: "explained, %" } }, varianceInWords(known));
  const rings = (power) => power.map((value, ring) => [ring, value]);
  const series = known.map(({ model, spectrum }) => {
    const one = spectrum.series.find((it) => it.tokens === Math.max(1, countOf(model)));
    return { name: `${model.notes.name}, ${tokens(one.tokens)}`, power: one.power, distance: one.distance };
  });
  const original = known[0] && { name: "original", points: rings(known[0].spectrum.original) };
  draw(get("spectrum"), original ? [original, ...series.map(({ name, power }) => ({ name, points: rings(power) }))] : [],
    { x: { name: "cycles per image", isLog: true }, y: { name: "power", isLog: true } },
    `Power over frequency; ${series.map(({ name, distance }) => `${name}: ${distance?.toFixed(1) ?? "–"} decibels from the original`).join("; ")}`);
}

const varianceInWords = (known) => `Share explained over tokens; ${known.map(({ model, variance }) =>
  `${model.notes.name}: half with ${tokens(variance.counts[variance.explained.findIndex((share) => share >= 0.5)] ?? 0)}`).join("; ")}`;

function figure(source, alt, ...lines) {
  const image = make("img", { alt });
  if (source) image.src = source;
  return make("figure", {}, make("div", { className: "frame" }, image), make("figcaption", {}, ...lines.map((line) => make("div", {}, line))));
}
