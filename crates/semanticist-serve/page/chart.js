// Line charts as SVG.

import { make } from "./parts.js";

const HEIGHT = 300;
const EDGE = { left: 56, right: 14, top: 12, bottom: 42 };

function shape(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** From numbers to places: the smallest of `values` is at `from`, the largest at `to`. */
function scale(values, isLog, from, to) {
  const map = isLog ? Math.log10 : (value) => value;
  const [low, high] = [Math.min(...values), Math.max(...values)].map(map);
  const span = high - low || 1;
  return (value) => from + ((map(value) - low) / span) * (to - from);
}

/** Round numbers across a range: about five, or the powers of ten. */
function ticks(values, isLog) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (isLog) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => 10 ** (first + at));
  }
  const raw = (high - low || 1) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= raw);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, at) => (first + at) * step);
}

const text = (value) => (value !== 0 && (Math.abs(value) < 0.01 || Math.abs(value) >= 1e4) ? value.toExponential(0) : String(Number(value.toPrecision(3))));

/**
 * Draws lines into `place`. A line is {name, points: [[x, y], …]}; `axes` say {x, y: {name, isLog}}. On an axis with isLog, points
 * that are not positive are left out.
 */
export function draw(place, lines, axes, label) {
  const fits = ([x, y]) => Number.isFinite(x) && Number.isFinite(y) && (!axes.x.isLog || x > 0) && (!axes.y.isLog || y > 0);
  const shown = lines.map(({ name, points }) => ({ name, points: points.filter(fits) }));
  const all = shown.flatMap(({ points }) => points);
  if (!all.length) return place.replaceChildren();
  // As wide as its place, so that letters keep their size.
  const width = Math.max(300, place.clientWidth || 640);
  const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
  const x = scale(xs, axes.x.isLog, EDGE.left, width - EDGE.right);
  const y = scale(ys, axes.y.isLog, HEIGHT - EDGE.bottom, EDGE.top);
  const [bottom, right] = [HEIGHT - EDGE.bottom, width - EDGE.right];
  const grid = [
    ...ticks(xs, axes.x.isLog).flatMap((at) => [
      shape("line", { x1: x(at), x2: x(at), y1: EDGE.top, y2: bottom, class: "grid-line" }),
      shape("text", { x: x(at), y: bottom + 17, "text-anchor": "middle" }, text(at)),
    ]),
    ...ticks(ys, axes.y.isLog).flatMap((at) => [
      shape("line", { x1: EDGE.left, x2: right, y1: y(at), y2: y(at), class: "grid-line" }),
      shape("text", { x: EDGE.left - 7, y: y(at) + 4, "text-anchor": "end" }, text(at)),
    ]),
    shape("text", { x: (EDGE.left + right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, axes.x.name),
    shape("text", { x: 12, y: HEIGHT / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${HEIGHT / 2})` }, axes.y.name),
  ];
  const drawn = shown.map(({ points }, at) =>
    shape("polyline", { points: points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" "), class: `line line-${at % 6}` }));
  const picture = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, ...grid, ...drawn);
  const legend = make("ul", { className: "legend" }, ...shown.map(({ name }, at) => {
    const key = shape("svg", { viewBox: "0 0 24 8", width: 24, height: 8, "aria-hidden": "true" }, shape("line", { x1: 0, x2: 24, y1: 4, y2: 4, class: `line line-${at % 6}` }));
    return make("li", {}, key, name);
  }));
  place.replaceChildren(picture, legend);
}
