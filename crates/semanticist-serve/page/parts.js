// Small parts that several views are made of.

export const get = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const source = (png) => `data:image/png;base64,${png}`;

/** A picture of the server, ready to be shown at once. */
export async function load(png) {
  const image = new Image();
  image.src = source(png);
  await image.decode();
  return image;
}

export function pixels(image) {
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Says what went wrong, or takes back what was said. */
export function notice(text) {
  const place = get("notice");
  place.textContent = text ?? "";
  place.hidden = !text;
  if (text) place.scrollIntoView({ block: "nearest" });
}

/** Labelled fields; returns a function that reads them. A field is [name, label, value, hint, choices or limits]. */
export function fields(form, list, changed) {
  const inputs = {};
  for (const { name, label, value, hint, choices, min, max, step } of list) {
    const id = `${form.id}-${name}`;
    const input = choices
      ? make("select", { id }, ...choices.map(([value, text]) => make("option", { value }, text)))
      : make("input", { id, type: "number", min, max, step, required: true });
    input.value = value;
    input.addEventListener("change", () => input.checkValidity() && changed?.());
    const parts = [make("label", { htmlFor: id }, label), input];
    if (hint) {
      const help = make("p", { id: `${id}-hint`, className: "hint" }, hint);
      input.setAttribute("aria-describedby", help.id);
      parts.push(help);
    }
    form.append(make("div", {}, ...parts));
    inputs[name] = input;
  }
  return () => Object.fromEntries(
    Object.entries(inputs).map(([name, input]) => [name, input.type === "number" ? Number(input.value) : input.value]),
  );
}

/** 1, 2, 4 … and all. */
export function powers(all) {
  const counts = [];
  for (let count = 1; count < all; count *= 2) counts.push(count);
  return [...counts, all];
}

export const tokens = (count) => (count === 1 ? "1 token" : `${count} tokens`);

/** A word of a command line. */
export const word = (text) => (/^[\w./:+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

export function copies(button, code) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}
