// The page of `evaluate report`: it fits the screen, and its tables can be sorted.

import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

export async function readReport(page, { report, look, step, isAccessible, shot }) {
  await page.send("Page.navigate", { url: pathToFileURL(report).href });
  await page.until(`document.title.startsWith("What was measured") && document.readyState === "complete"`);
  assert.equal(await page.run(`document.querySelectorAll("section").length`), 4);
  assert(await page.run(`[...document.images].every((image) => image.complete && image.naturalWidth > 0)`));
  const wide = await page.run(`document.documentElement.scrollWidth`);
  assert(wide <= look.width, `the report is ${wide} pixels wide`);
  await isAccessible(page, "the report");
  await shot("report");
  const sorted = await page.run(`(() => {
    const table = document.querySelector("table");
    const button = table.querySelector("th:nth-child(2) button");
    const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[1].dataset.value));
    button.click();
    const up = values();
    button.click();
    return { up, down: values(), how: button.parentElement.ariaSort };
  })()`);
  assert.deepEqual(sorted.up, [...sorted.up].sort((a, b) => a - b));
  assert.deepEqual(sorted.down, [...sorted.up].reverse());
  assert.equal(sorted.how, "descending");
  step("the report is whole, fits, and its tables are sorted by size");
}
