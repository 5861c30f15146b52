// The frame around the views: which one is shown, and the theme.

import * as api from "./api.js";
import { get, notice } from "./parts.js";
import { start as startPhotos } from "./photo.js";
import { start as startReconstruct } from "./reconstruct.js";
import { start as startMix } from "./mix.js";
import { start as startCompare } from "./compare.js";
import { start as startGenerate } from "./generate.js";
import { start as startAbout } from "./about.js";

const VIEWS = ["reconstruct", "mix", "compare", "generate", "about"];

function show() {
  const wanted = location.hash.slice(1);
  if (wanted && !VIEWS.includes(wanted)) return;
  const view = wanted || VIEWS[0];
  for (const name of VIEWS) get(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view[0].toUpperCase()}${view.slice(1)} · Semanticist`;
  notice();
}

function theme() {
  const themes = ["system", "light", "dark"];
  let theme = localStorage.getItem("theme") ?? "system";
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    get("theme").textContent = `Theme: ${theme}`;
  };
  get("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    localStorage.setItem("theme", theme);
    apply();
  });
  apply();
}

theme();
addEventListener("hashchange", show);
show();
try {
  const models = await api.models();
  startPhotos(models);
  startAbout(models);
  startGenerate(models);
  startMix(models);
  startCompare(models);
  await startReconstruct(models);
} catch (error) {
  notice(error.message);
}
