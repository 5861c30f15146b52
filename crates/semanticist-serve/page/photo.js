// The ways in for photos: pick, camera, drop, paste, samples.

import * as api from "./api.js";
import { get, make, notice } from "./parts.js";

let models;
// Elements that take photos, and what they do with them.
const takers = new Map();

export function start(loaded) {
  models = loaded;
  const drop = get("drop");
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => { if (isFile(event)) { event.preventDefault(); drop.hidden = false; } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.hidden = true; });
  addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    drop.hidden = true;
    taker(event.target)(event.dataTransfer.files[0]);
  });
  addEventListener("paste", ({ clipboardData }) => {
    const file = [...clipboardData.files][0];
    if (file) taker(document.activeElement)(file);
  });
}

/** What takes a photo that comes at this element: the part of the page that it is in, or the first one that is shown. */
function taker(element) {
  for (const [place, take] of takers) if (place.contains(element)) return take;
  for (const [place, take] of takers) if (place.checkVisibility()) return take;
  location.hash = "#reconstruct";
  return takers.values().next().value;
}

/**
 * Buttons in `bar` through which photos come; those dropped or pasted in `place` come too. `take` gets {bytes, name, key}: of the
 * first sample no name, since the command line knows it without.
 */
export function entrance(bar, place, take) {
  const give = (file) => {
    if (!file) return;
    const most = models.limits.body_bytes;
    if (file.size > most) {
      notice(`${file.name} has ${Math.ceil(file.size / 2 ** 20)} MB; at most ${most / 2 ** 20} MB can be used.`);
      return;
    }
    take({ bytes: file, name: file.name, key: `${file.name} ${file.size} ${file.lastModified}` });
  };
  takers.set(place, give);
  const file = make("input", { className: "unseen", type: "file", accept: "image/*" });
  file.addEventListener("change", () => { give(file.files[0]); file.value = ""; });
  const choose = make("label", { className: "button primary" }, "Choose a photo", file);
  const camera = make("button", { type: "button" }, "Take a photo");
  camera.addEventListener("click", () => takeWithCamera(give));
  const samples = make("div", { className: "samples", role: "group", ariaLabel: "Sample photos" });
  bar.append(choose, camera, samples);
  for (const [at, name] of models.samples.entries()) {
    const image = make("img", { alt: "", width: 44, height: 44 });
    const button = make("button", { type: "button", title: name, ariaLabel: `Sample photo ${name}` }, image);
    button.addEventListener("click", () => useSample(at, take));
    samples.append(button);
    sample(name).then((bytes) => (image.src = URL.createObjectURL(bytes)), () => button.remove());
  }
}

const sampled = new Map();
function sample(name) {
  if (!sampled.has(name)) sampled.set(name, api.sample(name));
  return sampled.get(name);
}

/** Takes the sample of this number, if there is one. */
export async function useSample(at, take) {
  const name = models.samples[at];
  if (name === undefined) return;
  try {
    take({ bytes: await sample(name), name: at === 0 ? null : name, key: `sample ${name}` });
  } catch (error) {
    notice(error.message);
  }
}

/** A picture of the camera, where the page may use it; elsewhere (a phone over HTTP) that of the system's own camera. */
async function takeWithCamera(give) {
  if (!navigator.mediaDevices?.getUserMedia) {
    const file = make("input", { type: "file", accept: "image/*" });
    file.setAttribute("capture", "environment");
    file.addEventListener("change", () => give(file.files[0]));
    file.click();
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    notice(error.name === "NotAllowedError" ? "The browser does not let this page use the camera." : "No camera was found.");
    return;
  }
  const video = make("video", { autoplay: true, muted: true, playsInline: true, srcObject: stream });
  const title = make("h2", { id: "title-camera" }, "Take a photo");
  const shoot = make("button", { type: "button", className: "primary" }, "Take it");
  const cancel = make("button", { type: "button" }, "Cancel");
  const dialog = make("dialog", { className: "camera" }, title, video, make("div", { className: "bar" }, shoot, cancel));
  dialog.setAttribute("aria-labelledby", title.id);
  dialog.addEventListener("close", () => {
    stream.getTracks().forEach((track) => track.stop());
    dialog.remove();
  });
  cancel.addEventListener("click", () => dialog.close());
  shoot.addEventListener("click", async () => {
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const bytes = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    dialog.close();
    if (bytes) give(new File([bytes], "camera.jpg", { type: "image/jpeg" }));
  });
  document.body.append(dialog);
  dialog.showModal();
}
