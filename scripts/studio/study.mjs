// The perception test in a browser: consent, practice, trials by key and by touch, a break in the middle.

import assert from "node:assert/strict";
import { sleep } from "./browser.mjs";

const phase = (name) => `document.getElementById("stage")?.dataset.phase === "${name}"`;
const shown = (id) => `document.getElementById("${id}")?.hidden === false`;

async function begin(page) {
  await page.until(shown("intro"));
  assert(await page.run(`document.getElementById("begin").disabled`), "nobody begins without consent");
  await page.run(`document.getElementById("agree").click(); document.getElementById("begin").click()`);
}

async function key(page, name, code) {
  for (const type of ["keyDown", "keyUp"]) {
    await page.send("Input.dispatchKeyEvent", { type, key: name, code: name, windowsVirtualKeyCode: code });
  }
}

export async function takePart(page, { url, step, isAccessible, shot }) {
  await page.send("Page.navigate", { url: `${url}study` });
  await page.until(shown("intro"));
  await isAccessible(page, "the perception test");
  await shot("study");
  await begin(page);
  await page.until(phase("original"));
  await page.until(phase("reveal"), 10);
  await page.until(phase("question"));
  assert.equal(await page.run(`document.getElementById("progress").textContent`), "Practice");
  await isAccessible(page, "its question");
  await shot("question");
  await key(page, "ArrowDown", 40);
  await page.until(phase("pause"));
  await page.run(`document.getElementById("go").click()`);
  await page.until(phase("question"));
  assert.equal(await page.run(`document.getElementById("progress").textContent`), "1 of 3");
  await key(page, "ArrowLeft", 37);
  step("a practice trial and one that counts, by key");

  await page.until(`!(${phase("question")})`);
  // The answer is kept before the next pictures are shown.
  await page.until(phase("original"));
  await page.send("Page.reload");
  await sleep(300);
  await page.until(`document.getElementById("before")?.textContent.startsWith("You were here before")`);
  await begin(page);
  await page.until(phase("question"));
  assert.equal(await page.run(`document.getElementById("progress").textContent`), "2 of 3");
  await page.run(`document.querySelector("[data-choice=right]").click()`);
  await page.until(`document.getElementById("progress").textContent === "3 of 3" && ${phase("question")}`);
  await page.run(`document.querySelector("[data-choice=same]").click()`);
  await page.until(shown("end"));
  step("after a break it goes on where it stopped, by touch, to its end");
  await page.run(`localStorage.clear()`);
}
