// Giving an image to the page: dropped, pasted, chosen, or an example.

import * as api from "./api.js";
import { announce, h, toast } from "./dom.js";
import { app } from "./state.js";

/** Uploads a file and hands on what the server says of it; errors are said. */
export async function give(file, use) {
  const { upload_bytes: most } = app.library.limits;
  if (file.size > most) return toast(`${file.name || "The file"} is larger than ${Math.round(most / 2 ** 20)} MB.`);
  try {
    const upload = await api.upload(file);
    upload.notes.forEach(toast);
    announce(`${upload.name}, ${upload.size.join(" by ")} pixels, is loaded.`);
    await use(upload);
  } catch (error) {
    toast(error.message);
  }
}

/** A button that opens the chooser of files. */
export function chooseButton(text, use, { many = false, kind = "button" } = {}) {
  const input = h("input", { type: "file", accept: "image/*", multiple: many, hidden: true, tabIndex: -1 });
  input.setAttribute("aria-hidden", "true");
  input.onchange = async () => {
    for (const file of input.files) await give(file, use);
    input.value = "";
  };
  return h("span", {}, h(kind, { type: "button", onclick: () => input.click() }, text), input);
}

/** Lets files be dropped on an element. */
export function dropOn(element, use) {
  const over = (is) => (event) => {
    if (![...(event.dataTransfer?.types || [])].includes("Files")) return;
    event.preventDefault();
    element.classList.toggle("over", is);
  };
  element.addEventListener("dragover", over(true));
  element.addEventListener("dragleave", over(false));
  element.addEventListener("drop", async (event) => {
    over(false)(event);
    for (const file of event.dataTransfer?.files || []) await give(file, use);
  });
}

/** The images that come with sfumato, as a row of small ones. */
export function examples(use, label = "Examples") {
  const all = app.library.examples;
  if (!all.length) return null;
  return h("div", {}, h("p.small.dim", {}, label), h("div.strip", {},
    ...all.map((one) => h("button", { type: "button", title: one.prompt, "aria-label": one.prompt, onclick: () => use(one) },
      h("img", { src: api.shown(one), alt: "", loading: "lazy" })))));
}

/** The image of a board, which has its shape. */
export function boardImage(props) {
  const image = h("img.after", props);
  image.addEventListener("load", () => image.parentElement?.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight));
  return image;
}

/** Two images on one another, and a line between them that is moved by mouse, finger or arrows. */
export function beforeAfter(before, after, alt) {
  const board = h("div.board");
  const range = h("input.across", { type: "range", min: "0", max: "100", step: "1", value: "50", "aria-label": "How much of the source is shown, in percent" });
  range.oninput = () => board.style.setProperty("--x", `${range.value}%`);
  board.append(boardImage({ src: after, alt }), h("img.before", { src: before, alt: "" }), h("div.line"),
    h("span.tag.left", {}, "before"), h("span.tag.right", {}, "after"), range);
  return board;
}

/** An image alone, in the size of the stage. */
export const alone = (source, alt) => h("div.board", {}, boardImage({ src: source, alt }));

/** A grey map as a light on an image, on a canvas over it; `level` makes it a mask with a hard edge. */
export async function heatCanvas(address, level = null) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const scale = Math.max(1, Math.ceil(256 / image.width));
  const canvas = h("canvas.heat", { width: image.width * scale, height: image.height * scale });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = level === null;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const grey = Uint8ClampedArray.from({ length: pixels.data.length / 4 }, (_, k) => pixels.data[4 * k]);
  const paint = (threshold) => {
    for (let k = 0; k < grey.length; k++) {
      const inside = threshold === null ? grey[k] : grey[k] > 255 * threshold ? 190 : 0;
      pixels.data.set(threshold === null ? ramp(grey[k] / 255) : [120, 80, 235, inside], 4 * k);
    }
    context.putImageData(pixels, 0, 0);
  };
  paint(level);
  return Object.assign(canvas, { paint });
}

/** A light on what is looked at: the less attention, the darker. */
const ramp = (x) => [12, 8, 22, 255 * (1 - x) ** 0.8];
