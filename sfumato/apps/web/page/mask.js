// The part of the image that may change: painted, or found by words of the prompt.

import * as api from "./api.js";
import { field, h, put, segments, toast } from "./dom.js";
import { slider } from "./controls.js";
import { chooseButton, heatCanvas } from "./images.js";
import { app, edit, form } from "./state.js";

const SIDE = 768;

/** The fold with everything about masks. `stage()` gives the board that shows the source, `redraw` draws it anew. */
export function maskFold(stage, redraw) {
  const body = h("div.folded");
  const summary = h("span.dim");
  const mask = edit.mask;
  let painter = null;

  function draw() {
    const kinds = [["none", "Everything"], ["paint", "What I paint"], ["words", "What words name"]];
    put(summary, { none: "", paint: "painted", words: mask.words.join(", ") }[mask.kind]);
    put(body, segments("What may change", kinds, mask.kind, (kind) => {
      mask.kind = kind;
      redraw();
      draw();
    }), mask.kind === "none" ? null : !edit.image ? h("p.note", {}, "Give an image first.") : mask.kind === "paint" ? paintTools() : wordTools(),
    mask.kind === "none" || !edit.image ? null : shared());
    if (mask.kind === "paint" && edit.image) painter = painter?.of === edit.image.id ? painter : newPainter();
    if (mask.kind !== "none" && edit.image) show();
  }

  function newPainter() {
    mask.upload = null;
    return new Painter(edit.image, () => { mask.upload = null; });
  }

  async function show() {
    const board = stage();
    board.querySelectorAll(".paint, .heat").forEach((old) => old.remove());
    if (mask.kind === "paint") board.append(painter.canvas);
    else await showWords();
  }

  let heat = null;
  async function showWords() {
    if (!mask.words.length) return;
    const asked = { ...form({ command: "words", words: mask.words }), mask: undefined };
    for (const name of ["target_prompts", "mask", "options", "method", "inversion", "inversion_options", "encode_steps"]) delete asked.request[name];
    const key = JSON.stringify(asked);
    try {
      if (heat?.key !== key) heat = { key, canvas: await heatCanvas(api.fileOf(await api.run(asked, () => {}), "heat.png"), Number(mask.threshold)) };
      heat.canvas.paint(Number(mask.threshold));
      const board = stage();
      board.querySelectorAll(".heat").forEach((old) => old.remove());
      board.append(heat.canvas);
    } catch (error) {
      toast(error.message);
    }
  }

  function paintTools() {
    const tool = (name, text) => h("button.chip", { type: "button", "aria-pressed": String(painter?.tool === name), onclick: () => { painter.tool = name; draw(); } }, text);
    painter = painter?.of === edit.image.id ? painter : newPainter();
    const size = slider(4, 200, painter.width, (value) => { painter.width = value; }, "Size of the brush");
    return h("div.field", {},
      h("div.row.tight", {}, tool("brush", "Brush"), tool("eraser", "Eraser"),
        act("Undo", () => painter.undo()), act("Redo", () => painter.redo()),
        act("Invert", () => painter.invert()), act("Fill", () => painter.fill()), act("Clear", () => painter.clear()),
        chooseButton("Load", (upload) => painter.load(upload)), act("Save", () => painter.save())),
      field("Size of the brush", size), h("p.why", {}, "Paint on the image. By keyboard, use words instead."));
  }

  const act = (text, call) => h("button", { type: "button", onclick: call }, text);

  function wordTools() {
    const said = [...new Set(edit.source.toLowerCase().match(/[\p{L}\p{N}'-]+/gu) || [])];
    const chips = said.map((word) => h("button.chip", { type: "button", "aria-pressed": String(mask.words.includes(word)), onclick: () => {
      mask.words = mask.words.includes(word) ? mask.words.filter((other) => other !== word) : [...mask.words, word];
      draw();
    } }, word));
    const threshold = slider(0.05, 0.95, mask.threshold, (value) => { mask.threshold = value; heat?.canvas.paint(value); }, "Threshold");
    return h("div.field", {}, chips.length ? h("div.row.tight", { role: "group", "aria-label": "Words" }, ...chips) : h("p.note", {}, "Say first what the image shows."),
      field("Threshold", threshold, app.library.help.mask_threshold));
  }

  function shared() {
    const check = (name, text) => {
      const box = h("input", { type: "checkbox", checked: mask[name], onchange: () => { mask[name] = box.checked; } });
      return h("div.field", {}, h("label.check", {}, box, text), h("p.why", {}, app.library.help[`mask_${name}`]));
    };
    const feather = h("input", { type: "number", min: "0", step: "1", value: String(mask.feather), onchange: () => { mask.feather = feather.value || 0; } });
    return h("div.folded", {}, field("Soft edge", feather, app.library.help.mask_feather), check("invert", "Invert"), check("pixels", "Leave every pixel outside as it is"));
  }

  draw();
  // drawn by the click, not by the event "toggle", which comes later and would take a button away that is being pressed
  const box = h("details", {}, h("summary", { onclick: () => draw() }, "Change only a part", summary), body);
  return Object.assign(box, { draw, ready: async () => { if (mask.kind === "paint" && painter && !mask.upload) mask.upload = await painter.upload(); } });
}

/** A canvas over the image: what is painted may change. */
class Painter {
  constructor(image, onpaint) {
    const scale = SIDE / Math.max(...image.size);
    [this.of, this.size, this.onpaint] = [image.id, image.size, onpaint];
    [this.tool, this.width, this.past, this.future] = ["brush", 60, [], []];
    this.canvas = h("canvas.paint", { width: Math.round(image.size[0] * scale), height: Math.round(image.size[1] * scale), "aria-label": "Mask: painted parts may change" });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.go(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => { this.last = null; });
  }

  keep() {
    this.past.push(this.context.getImageData(0, 0, this.canvas.width, this.canvas.height));
    if (this.past.length > 20) this.past.shift();
    this.future = [];
    this.onpaint();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * (this.canvas.width / box.width), (event.clientY - box.top) * (this.canvas.height / box.height)];
  }

  begin(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.keep();
    this.last = this.at(event);
    this.line(this.last, this.last);
  }

  go(event) {
    if (!this.last) return;
    for (const part of event.getCoalescedEvents?.() || [event]) {
      const next = this.at(part);
      this.line(this.last, next);
      this.last = next;
    }
  }

  line(from, to) {
    const pen = this.context;
    pen.globalCompositeOperation = this.tool === "eraser" ? "destination-out" : "source-over";
    Object.assign(pen, { lineWidth: this.width, lineCap: "round", strokeStyle: "#7c4dff" });
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(to[0] + 0.01, to[1]);
    pen.stroke();
    pen.globalCompositeOperation = "source-over";
  }

  step(from, to) {
    if (!from.length) return;
    to.push(this.context.getImageData(0, 0, this.canvas.width, this.canvas.height));
    this.context.putImageData(from.pop(), 0, 0);
    this.onpaint();
  }

  undo() { this.step(this.past, this.future); }
  redo() { this.step(this.future, this.past); }

  clear() {
    this.keep();
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  fill() {
    this.keep();
    this.context.fillStyle = "#7c4dff";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  invert() {
    this.keep();
    this.context.globalCompositeOperation = "xor";
    this.context.fillStyle = "#7c4dff";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.context.globalCompositeOperation = "source-over";
  }

  async load(upload) {
    const image = new Image();
    image.src = api.shown(upload);
    await image.decode();
    this.clear();
    this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    const pixels = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    for (let k = 0; k < pixels.data.length; k += 4) pixels.data.set([124, 77, 255, (pixels.data[k] * pixels.data[k + 3]) / 255], k);
    this.context.putImageData(pixels, 0, 0);
  }

  /** The mask at the size of the image: white on black. */
  blob() {
    const canvas = h("canvas", { width: this.size[0], height: this.size[1] });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.canvas, 0, 0, ...this.size);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, ...this.size);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, ...this.size);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  async upload() {
    return api.upload(await this.blob(), "mask.png");
  }

  async save() {
    const link = h("a", { href: URL.createObjectURL(await this.blob()), download: "mask.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}
