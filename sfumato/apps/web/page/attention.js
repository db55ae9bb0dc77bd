// Where each word of the prompts looks: a heat map over the image.

import * as api from "./api.js";
import { field, h, put } from "./dom.js";
import { alone, heatCanvas } from "./images.js";
import { runOn } from "./running.js";
import { edit, form, served } from "./state.js";

const METHOD = "prompt-to-prompt"; // keeps the maps

export function page() {
  const stage = h("div.stage");
  const panel = h("div.panel");
  const opacity = h("input", { type: "range", min: "0", max: "100", value: "85" });
  let [run, branch, word] = [null, 0, 0];
  let canvas = null;
  let latest = null; // what is to be shown

  function refresh() {
    if (edit.run?.result.words?.length && edit.run !== run) [run, branch, word] = [edit.run, 0, first(edit.run)];
    draw();
  }

  /** The word that the edit takes away, else the longest. */
  function first({ result: { words: [source, target] } }) {
    const gone = source.findIndex((each) => !target.includes(each));
    return gone >= 0 ? gone : source.reduce((best, each, k) => (each.length > source[best].length ? k : best), 0);
  }

  async function look() {
    const found = await runOn(stage, form({ method: METHOD, options: {}, inversion: null, inversion_options: null,
      ...(edit.target.trim() ? {} : { target_prompts: [edit.source.trim()] }) }), { background: edit.image ? api.shown(edit.image) : null });
    if (found) [run, branch, word] = [found, 0, first(found)];
    draw();
  }

  function draw() {
    if (!run) {
      put(stage, edit.image ? alone(api.shown(edit.image), "The source image") : h("div.empty", {}, h("div.mark"), h("h2.big", {}, "Where words look"),
        h("p.dim", {}, "While the model draws, each word of a prompt looks at a part of the image.")));
      if (!served("methods").some((entry) => entry.name === METHOD)) return put(panel, h("p", {}, "This model has no attention from image to words."));
      put(panel, h("p", {}, edit.source.trim() ? "" : "Say on the page Edit what the image shows."),
        h("div.row", {}, h("button.main", { type: "button", disabled: !edit.source.trim(), onclick: look }, "Look")));
      return;
    }
    const { words, recipe } = run.result;
    const prompts = [recipe.source_prompt, ...recipe.target_prompts];
    show();
    put(panel, ...words.map((each, b) => h("div.field", {}, h("span.label", {}, b ? "It should show" : "The image shows"), h("p.dim.small", {}, prompts[b]),
      h("div.row.tight", { role: "group", "aria-label": prompts[b] }, ...each.map((text, k) =>
        h("button.chip", { type: "button", "aria-pressed": String(b === branch && k === word), onclick: () => { [branch, word] = [b, k]; draw(); panel.querySelector("[aria-pressed=true]")?.focus(); } }, text))))),
    field("Opacity", opacity), h("div.row", {}, h("button", { type: "button", onclick: look }, "Look again")));
  }

  async function show() {
    const source = branch ? `image-${branch - 1}.png` : "reconstruction.png";
    const text = run.result.words[branch][word];
    const board = alone(api.fileOf(run, source), `Where “${text}” looks`);
    const mine = (latest = {});
    const map = await heatCanvas(api.fileOf(run, `heat-${branch}-${word}.png`));
    if (mine !== latest) return; // another word was asked for meanwhile
    canvas = map;
    canvas.style.opacity = opacity.value / 100;
    board.append(canvas, h("span.tag.left", {}, text));
    put(stage, board);
  }

  opacity.oninput = () => { if (canvas) canvas.style.opacity = opacity.value / 100; };
  const root = h("div.two", {}, h("h1.hidden", {}, "Attention"), h("section", { "aria-label": "Image" }, stage), panel);
  return Object.assign(root, { refresh });
}
