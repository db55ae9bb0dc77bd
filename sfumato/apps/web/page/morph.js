// From image to image: two or more, in order, with what each shows.

import * as api from "./api.js";
import { chooser, options } from "./controls.js";
import { field, h, put, toast } from "./dom.js";
import { showFrames } from "./frames.js";
import { chooseButton, dropOn, examples } from "./images.js";
import { runOn } from "./running.js";
import { app, model, named, served, setOptions, size } from "./state.js";

const morph = { images: [], method: "", options: {}, spacing: "", spacingOptions: {}, frames: "", pace: false, steps: "", guidance: "", seed: 0, encode: "" };

export function page() {
  const stage = h("div.stage");
  const below = h("div.below");
  const tiles = h("div.tiles");
  const folded = h("div.folded");
  morph.method ||= app.library.usual.morph.method;
  const most = app.library.limits.images;
  const go = h("button.main", { type: "submit" }, "Morph");
  const frames = h("input", { type: "number", min: "3", value: morph.frames, placeholder: String(app.library.usual.morph.num_frames), onchange: () => { morph.frames = frames.value; } });

  function drawTiles() {
    put(tiles, ...morph.images.map((one, k) => {
      const prompt = h("input", { type: "text", value: one.prompt, placeholder: "what it shows", "aria-label": `What image ${k + 1} shows`, oninput: () => { one.prompt = prompt.value; } });
      const move = (by) => { morph.images.splice(k + by, 0, ...morph.images.splice(k, 1)); drawTiles(); };
      return h("div.tile", {}, h("div.drop", {}, h("img", { src: api.shown(one.upload), alt: `Image ${k + 1}` })), prompt,
        h("div.row.tight", {}, k ? h("button.icon", { type: "button", "aria-label": `Image ${k + 1} earlier`, onclick: () => move(-1) }, "←") : null,
          k < morph.images.length - 1 ? h("button.icon", { type: "button", "aria-label": `Image ${k + 1} later`, onclick: () => move(1) }, "→") : null,
          h("button.icon", { type: "button", "aria-label": `Take image ${k + 1} out`, title: "Remove", onclick: () => { morph.images.splice(k, 1); drawTiles(); } }, "✕")));
    }), morph.images.length < most ? h("div.tile", {}, chooseButton(morph.images.length ? "Add an image" : "Choose images", add, { many: true, kind: "button.drop" })) : null);
    if (!stage.querySelector(".board")) put(stage, h("div.empty", {}, h("div.mark"), h("h2.big", {}, "From image to image"), h("p.dim", {}, `Give 2 to ${most} images. Each frame between them is drawn by the model.`)));
  }

  function add(upload, prompt = "") {
    if (morph.images.length >= most) return toast(`${most} images are the most.`);
    morph.images.push({ upload, prompt });
    drawTiles();
  }

  function drawFolded() {
    const entry = named("morphs", morph.method);
    const own = (morph.options[morph.method] ||= {});
    const spacing = named("spacings", morph.spacing || entry.spacing);
    const number = (name, label, usual, key, props) => {
      const input = h("input", { type: "number", value: String(morph[name]), placeholder: String(usual ?? ""), ...props, onchange: () => { morph[name] = input.value; } });
      return field(label, input, app.library.help[key]);
    };
    const pace = h("input", { type: "checkbox", checked: morph.pace, onchange: () => { morph.pace = pace.checked; } });
    put(folded, h("h3", {}, entry.title), ...options("morphs", entry, own),
      h("h3", {}, "Spacing"), chooser("How the places of the frames are chosen", app.library.spacings, morph.spacing, (name) => { morph.spacing = name; morph.spacingOptions = {}; drawFolded(); }, { empty: "The method's own" }),
      ...options("spacings", spacing, morph.spacingOptions),
      h("div.field", {}, h("label.check", {}, pace, "One pace"), h("p.why", {}, app.library.help.one_pace)),
      h("h3", {}, "Run"),
      h("div.halves", {}, number("steps", "Steps", "", "num_inference_steps", { min: "1" }), number("guidance", "Guidance", "", "guidance_scale", { min: "1", step: "any" })),
      h("div.halves", {}, number("seed", "Seed", 0, "seed", {}), number("encode", "Encode", app.library.usual.morph.encode_steps, "encode_steps", { min: "0" })));
  }

  async function start(event) {
    event.preventDefault();
    if (morph.images.length < 2) return toast("Give at least two images.");
    const entry = named("morphs", morph.method);
    const set = (value) => (value === "" ? undefined : Number(value));
    const request = { command: "morph", method: morph.method, prompts: morph.images.map((one) => one.prompt), num_frames: set(morph.frames), one_pace: morph.pace,
      options: setOptions("morphs", entry, morph.options[morph.method] || {}), spacing: morph.spacing || undefined,
      spacing_options: morph.spacing ? setOptions("spacings", named("spacings", morph.spacing), morph.spacingOptions) : undefined,
      num_inference_steps: set(morph.steps), guidance_scale: set(morph.guidance), seed: Number(morph.seed), encode_steps: set(morph.encode),
      ...size(morph.images[0].upload, "", "crop"), fit: "crop" };
    go.disabled = true;
    const run = await runOn(stage, { model: model().name, request, images: morph.images.map((one) => one.upload.id) }, { background: api.shown(morph.images[0].upload) });
    go.disabled = false;
    if (run) showFrames(stage, below, run);
    else { put(stage); drawTiles(); }
  }

  const choose = chooser("Method", served("morphs"), morph.method, (name) => { morph.method = name; drawFolded(); });
  dropOn(stage, add);
  dropOn(tiles, add);
  drawTiles();
  drawFolded();
  return h("div.two", {}, h("h1.hidden", {}, "Morph"), h("section", { "aria-label": "Frames" }, stage, below),
    h("form.panel", { onsubmit: start }, h("h2", {}, "Images, in order"), tiles, examples((one) => add(one, one.prompt)), choose,
      field("Frames", frames, app.library.help.num_frames), h("div.row", {}, go), h("div", {}, h("details", {}, h("summary", {}, "Settings"), folded))));
}
