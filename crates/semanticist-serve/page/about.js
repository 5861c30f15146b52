// What the models are, what they were trained on, and how good they are.

import { get, make } from "./parts.js";

export function start(models) {
  const { tokenizers, generator } = models;
  const shape = (model) => `${model.tokens} of ${model.token_dim} numbers each`;
  const cards = tokenizers.map((tokenizer) => card("From photos to tokens and back", tokenizer, [
    ["Pictures", `${tokenizer.image_size} × ${tokenizer.image_size} pixels`],
    ["Tokens", shape(tokenizer)],
  ]));
  if (generator) {
    cards.push(card("From words to tokens", generator, [["Tokens", shape(generator)], ["Words", `${generator.classes.length}`]]));
  }
  get("models").replaceChildren(...cards);
}

function card(title, model, facts) {
  const { notes, training } = model;
  const all = [["Model", notes.name], ["Size", `${(model.parameters / 1e6).toFixed(1)} million numbers`], ...facts, ...history(training)];
  const list = make("dl", { className: "facts" }, ...all.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const parts = [make("h2", {}, title), list];
  if (notes.card) {
    parts.push(make("details", {}, make("summary", {}, "What it was trained on, and how good it is"), markdown(notes.card)));
  }
  return make("section", { className: "card" }, ...parts);
}

/** What a model's file says of its training. */
function history(training) {
  if (!training) return [["Training", "the file does not say"]];
  const whole = (number) => Number(number).toLocaleString("en");
  const facts = [];
  if (training.imported_from) facts.push(["From", String(training.imported_from)]);
  if (training.steps) facts.push(["Training", `${whole(training.steps)} steps`]);
  if (training.training_images) facts.push(["Photos", `${whole(training.training_images)}, ${whole(training.images ?? 0)} looks at them in all`]);
  return facts;
}

/** The part of Markdown that cards use, as elements: paragraphs, headings, tables, code, bold, links as text. */
function markdown(text) {
  const place = make("div", { className: "text" });
  for (const block of text.split(/\n{2,}(?=(?:[^`]|`(?!``)|```[\s\S]*?```)*$)/)) {
    const lines = block.trim().split("\n");
    if (lines[0].startsWith("```")) {
      const end = lines.at(-1).startsWith("```") ? -1 : undefined;
      place.append(make("pre", { tabIndex: 0 }, make("code", {}, lines.slice(1, end).join("\n"))));
    } else if (lines[0].startsWith("#")) {
      place.append(make("h3", {}, ...inline(lines[0].replace(/^#+ /, ""))));
    } else if (lines[0].startsWith("|")) {
      place.append(table(lines));
    } else {
      place.append(make("p", {}, ...inline(lines.join(" "))));
    }
  }
  return place;
}

function table(lines) {
  const cells = (line) => line.split("|").slice(1, -1).map((cell) => cell.trim());
  const [head, , ...rows] = lines.map(cells);
  const body = make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, ...inline(cell))))));
  const parts = head.some(Boolean) ? [make("thead", {}, make("tr", {}, ...head.map((cell) => make("th", { scope: "col" }, ...inline(cell)))))] : [];
  return make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, ...parts, body));
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)]+\))/).map((part) => {
    if (part.startsWith("`")) return make("code", {}, part.slice(1, -1));
    if (part.startsWith("**")) return make("strong", {}, part.slice(2, -2));
    if (part.startsWith("[")) return part.slice(1, part.indexOf("]"));
    return part;
  });
}
