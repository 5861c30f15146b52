// The page in a real browser: a photo is dropped and taken, the slider moved, tokens mixed, models compared, pictures drawn, a
// perception test taken, the page of `evaluate report` read, at the size of a desktop and of a phone; nothing may be
// complained about, by the browser or by axe-core.
//
//     node check.mjs PROFILE http://127.0.0.1:7860/ PHOTO REPORT.html LOCKED [FOLDER FOR SCREENSHOTS]
//
// PROFILE is a folder that does not exist yet, for the browser's own files. LOCKED is the address of a server that asks for the
// token "open-sesame" and holds the same perception test.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { launch, open, sleep } from "./browser.mjs";
import { readReport } from "./report.mjs";
import { takePart } from "./study.mjs";

const [profile, url, photo, report, locked, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await launch(process.env.CHROMIUM ?? "chromium", profile);

const steps = [];
const step = (name) => { steps.push(name); console.log(`  ${name}`); };

/** What axe-core finds that matters to people. */
async function isAccessible(page, place) {
  await page.run(`${axe}; 0`);
  const found = await page.run(`axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
    violations.map(({ id, impact, nodes }) => impact + " " + id + ": " + nodes.map((node) => node.target.join(" ") + " " + node.any.map((one) => one.message).join("; ")).join(", ")))`);
  assert.deepEqual(found, [], `axe-core finds in ${place}`);
  step(`axe-core finds nothing in ${place}`);
}

async function shot(page, name, top = 0) {
  if (!folder) return;
  await page.run(`scrollTo(0, ${top})`);
  await sleep(150);
  writeFileSync(join(folder, name), await page.picture());
}

/** Drops a file on the page, as a hand would. */
async function drop(page) {
  const bytes = readFileSync(photo).toString("base64");
  await page.run(`(async () => {
    const bytes = await (await new Response(Uint8Array.from(atob("${bytes}"), (c) => c.charCodeAt(0)))).blob();
    const data = new DataTransfer();
    data.items.add(new File([bytes], "holiday photo.png", { type: "image/png" }));
    for (const type of ["dragover", "drop"]) {
      document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
  })()`);
}

const ready = `document.getElementById("save-strip")?.hasAttribute("href")`;
const complete = `document.getElementById("status").textContent === "" && ${ready}`;

async function reconstruct(page) {
  await page.until(ready);
  const begun = Date.now();
  await drop(page);
  await page.until(`!${ready} || document.getElementById("command").textContent.includes("holiday photo")`);
  await page.until(ready);
  step(`a dropped photo has its pictures after ${((Date.now() - begun) / 1000).toFixed(2)} s`);
  assert.match(await page.run(`document.getElementById("command").textContent`), /'holiday photo.png'/);
  await page.until(complete);
  const moved = await page.run(`(async () => {
    const slider = document.getElementById("tokens");
    let slowest = 0;
    const seen = new Set();
    for (let count = 0; count <= slider.max; count++) {
      const begun = performance.now();
      slider.value = count;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
      const picture = document.getElementById("picture");
      await picture.decode();
      slowest = Math.max(slowest, performance.now() - begun);
      seen.add(picture.src);
    }
    return { slowest, seen: seen.size, all: Number(slider.max) + 1 };
  })()`);
  assert.equal(moved.seen, moved.all, "every number of tokens has its own picture");
  assert(moved.slowest < 50, `the slowest move took ${moved.slowest} ms`);
  step(`the slider moves in at most ${moved.slowest.toFixed(1)} ms`);
  // By keyboard.
  await page.run(`document.getElementById("tokens").focus(); document.getElementById("tokens").value = 8; 0`);
  await page.send("Input.dispatchKeyEvent", { type: "keyDown", key: "ArrowLeft", code: "ArrowLeft", windowsVirtualKeyCode: 37 });
  await page.send("Input.dispatchKeyEvent", { type: "keyUp", key: "ArrowLeft", code: "ArrowLeft", windowsVirtualKeyCode: 37 });
  assert.match(await page.run(`document.getElementById("count").textContent`), /^7 of/);
  await page.run(`document.querySelector("#marks button:nth-child(5)").click()`);
  assert.match(await page.run(`document.getElementById("caption").textContent`), /^From 8 tokens$/);
  assert.match(await page.run(`document.getElementById("psnr").textContent`), /^\d+\.\d\d dB$/);
  const saved = await page.run(`JSON.parse(decodeURIComponent(document.getElementById("save-prefix").href.split(",").slice(1).join()))`);
  assert.equal(saved.tokens[0].length, 8);
  step("keys and marks move it too, and the tokens can be had");
}

/** A picture of the (pretended) camera is one like any other. */
async function camera(page) {
  await page.run(`[...document.querySelectorAll("#entrance button")].find((one) => one.textContent === "Take a photo").click()`);
  await page.until(`document.querySelector("dialog video")?.videoWidth > 0`);
  await isAccessible(page, "the camera");
  await page.run(`document.querySelector("dialog .primary").click()`);
  await page.until(`!document.querySelector("dialog")`);
  await page.until(`document.getElementById("command").textContent.includes("camera.jpg") && ${ready}`);
  step("the camera takes a photo");
}

/** The source of a picture once it is there and is another than before. */
const changed = async (page, id, before) => {
  await page.until(`(() => { const image = document.getElementById("${id}"); return image.complete && image.naturalWidth > 0 && image.src !== "${before}"; })()`);
  return page.run(`document.getElementById("${id}").src`);
};

async function mix(page) {
  await page.run(`location.hash = "#mix"`);
  for (const id of ["picture-a", "picture-b"]) await changed(page, id, "");
  let mixed = await changed(page, "picture-mixed", "");
  await isAccessible(page, "Mix");
  const pixels = (id) => page.run(`(async () => {
    const { pixels } = await import("./parts.js");
    return pixels(document.getElementById("${id}")).data.join();
  })()`);
  const divide = (count) => page.run(`(() => { const split = document.getElementById("split"); split.value = ${count}; split.dispatchEvent(new Event("input", { bubbles: true })); })()`);
  for (const [count, whole] of [["split.max", "picture-a"], [0, "picture-b"]]) {
    await divide(count);
    mixed = await changed(page, "picture-mixed", mixed);
    assert.equal(await pixels("picture-mixed"), await pixels(whole), "all tokens of one photo are that photo");
  }
  await page.run(`document.querySelectorAll("#pens button")[3].click(); document.querySelector("#mixer button").click()`);
  mixed = await changed(page, "picture-mixed", mixed);
  assert.notEqual(await pixels("picture-mixed"), await pixels("picture-b"), "the first token matters");
  assert.match(await page.run(`document.getElementById("mix-status").textContent`), /1 from nowhere$/);
  step("tokens of two photos are mixed, and taken away");
  await divide(4);
  await changed(page, "picture-mixed", mixed);
}

async function compare(page) {
  await page.run(`location.hash = "#compare"`);
  await page.until(`document.querySelectorAll("#spectrum polyline").length === 3`);
  const texts = await page.run(`[...document.querySelectorAll("#beside figcaption")].map((one) => one.innerText)`);
  assert.equal(texts.length, 3);
  for (const text of texts.slice(1)) assert.match(text, /tokens?, \d+ numbers\n\d+\.\d\d dB/);
  assert.equal(await page.run(`document.querySelectorAll("#variance polyline").length`), 2);
  await isAccessible(page, "Compare");
  step("two models side by side, with curve and spectrum");
}

async function generate(page) {
  await page.run(`location.hash = "#generate"`);
  await page.until(`!document.getElementById("view-generate").hidden`);
  await page.run(`(() => {
    const search = document.getElementById("class");
    search.value = "goldfihs";
    search.dispatchEvent(new Event("input", { bubbles: true }));
  })()`);
  assert.equal(await page.run(`document.querySelector("#classes [aria-pressed=true]").textContent`), "goldfish");
  step("the nearest name is found");
  const schedule = (name) => page.run(`(() => {
    const field = document.getElementById("draw-fields-schedule");
    field.value = "${name}";
    field.dispatchEvent(new Event("change", { bubbles: true }));
    return document.getElementById("draw-command").textContent;
  })()`);
  assert.match(await schedule("linear"), /--schedule linear$/);
  assert.doesNotMatch(await schedule("constant"), /schedule/);
  step("the command follows the settings");
  await page.run(`document.getElementById("draw-button").click()`);
  await page.until(`/^After/.test(document.getElementById("draw-status").textContent)`);
  step("pictures grow");
  await page.until(`/drawn in/.test(document.getElementById("draw-status").textContent)`);
  const first = await page.run(`[...document.querySelectorAll("#grid img")].map((image) => image.src)`);
  assert.equal(new Set(first).size, 4);
  await page.run(`document.querySelector("#grid button").click(); document.getElementById("vary").click()`);
  await page.until(`/kept, drawn in/.test(document.getElementById("draw-status").textContent)`);
  const second = await page.run(`[...document.querySelectorAll("#grid img")].map((image) => image.src)`);
  assert(second.every((picture) => !first.includes(picture)));
  step("four pictures, and four variations of the first");
}

/** A server that wants a token gets it from the dialog, and from the link to a perception test. */
async function unlock(look) {
  const page = await open(browser, locked, look);
  await page.until(`document.querySelector("dialog[open] #token")`);
  await isAccessible(page, "the question for a token");
  const give = (token) => page.run(`(() => {
    document.getElementById("token").value = "${token}";
    document.querySelector("dialog[open] button").click();
  })()`);
  await give("wrong");
  await page.until(`document.querySelector("dialog[open] #token")?.value === ""`);
  await give("open-sesame");
  await page.until(ready);
  step("a token is asked for until it is right");
  await page.run(`sessionStorage.clear()`);
  await page.send("Page.navigate", { url: `${locked}study#open-sesame` });
  await page.until(`document.getElementById("intro")?.hidden === false`);
  assert.equal(await page.run(`document.querySelector("dialog") ?? location.hash`), "");
  step("a link to a perception test brings its token");
  assert.deepEqual(page.complaints.filter((one) => !one.includes("401")), []);
}

try {
  for (const look of [
    { name: "desktop", width: 1280, height: 900 },
    { name: "phone", width: 360, height: 740, phone: true, dark: true },
  ]) {
    console.log(`${look.name}, ${look.width} pixels wide`);
    const page = await open(browser, url, look);
    await reconstruct(page);
    await isAccessible(page, "Reconstruct");
    await page.run(`document.activeElement.blur(); document.querySelector("#entrance .samples button").click()`);
    await sleep(300);
    await page.until(complete);
    await shot(page, `studio-${look.name}.png`);
    if (!look.phone) await shot(page, `studio-tokens.png`, 700);
    await camera(page);
    await mix(page);
    await shot(page, `studio-${look.name}-mix.png`, look.phone ? 620 : 0);
    await compare(page);
    await shot(page, `studio-${look.name}-compare.png`, look.phone ? 620 : 0);
    await generate(page);
    await isAccessible(page, "Generate");
    await shot(page, `studio-${look.name}-generate.png`, look.phone ? 1020 : 0);
    await page.run(`location.hash = "#about"`);
    await page.until(`document.querySelectorAll("#models section").length === 3`);
    await page.run(`document.querySelectorAll("#models details").forEach((one) => (one.open = true))`);
    await isAccessible(page, "About");
    await shot(page, `studio-${look.name}-about.png`);
    const wide = await page.run(`["reconstruct", "mix", "compare", "generate", "about"].map((view) => {
      for (const one of document.querySelectorAll("main > section")) one.hidden = one.id !== "view-" + view;
      return document.documentElement.scrollWidth;
    })`);
    assert(wide.every((width) => width <= look.width), `the page is ${wide} pixels wide`);
    step("nothing is wider than the screen");
    const part = { step, isAccessible, shot: (name) => shot(page, `studio-${look.name}-${name}.png`) };
    await takePart(page, { url, ...part });
    await readReport(page, { report, look, ...part });
    assert.deepEqual(page.complaints, []);
    step("the browser has no complaints");
    await unlock(look);
  }
} finally {
  await browser.close();
}
console.log(`${steps.length} checks passed`);
