// The first page: an image, what it shows, what it should show, and the result beside the source.

import * as api from "./api.js";
import { h, put, segments, showText, toast } from "./dom.js";
import { settingsFold, usualControls } from "./form.js";
import { keep } from "./history.js";
import { alone, beforeAfter, chooseButton, dropOn, examples, give } from "./images.js";
import { maskFold } from "./mask.js";
import { runOn } from "./running.js";
import { app, changed, dice, edit, form, load, model, onchange } from "./state.js";

export function page() {
  const stage = h("div.stage");
  const below = h("div.below");
  const controls = usualControls();
  const settings = settingsFold();
  const mask = maskFold(() => stage.querySelector(".board") || showSource(), () => showSource());
  const ideas = h("div.row.tight", { role: "group", "aria-label": "Ideas", hidden: true });
  const go = h("button.main", { type: "submit" }, "Edit");
  const panel = h("form.panel", { onsubmit: start }, ...controls.nodes.slice(0, 2), ideas, controls.nodes[2],
    h("div.row", {}, go, h("button", { type: "button", title: "Run again with another seed", onclick: again }, "Another version")),
    h("div", {}, mask, ...settings.nodes));
  let view = "slider";
  let chosen = 0;

  function showSource() {
    put(stage, edit.image ? alone(api.shown(edit.image), "The source image") : empty());
    return stage.querySelector(".board");
  }

  function empty() {
    return h("div.empty", {}, h("div.mark"), h("h2.big", {}, "Give an image"),
      h("p.dim", {}, "Drop it here, paste it, or choose a file. Without one, the model draws what you describe."),
      h("div.row", {}, chooseButton("Choose a file", useImage, { kind: "button.main" })),
      examples(useExample, "Or start with one of these"));
  }

  function showBelow() {
    const { run } = edit;
    put(below, run ? resultRows(run) : null,
      h("div.row.spread", {}, edit.image ? h("div.row", {}, chooseButton("Another image", useImage),
        h("button.quiet", { type: "button", onclick: () => { useImage(null); } }, "Start anew")) : null));
  }

  function showRun() {
    const { run } = edit;
    const result = api.fileOf(run, `image-${chosen}.png`), source = api.fileOf(run, "source.png");
    const shown = { slider: () => beforeAfter(source, result, `The result: ${run.result.recipe.target_prompts[chosen]}`),
      result: () => alone(result, "The result"), source: () => alone(source, "The source"),
      difference: () => alone(api.fileOf(run, "difference.png"), "What changed, bright where it changed most"),
      reconstruction: () => alone(api.fileOf(run, "reconstruction.png"), "The source as the model brings it back") };
    put(stage, shown[view]());
  }

  function resultRows(run) {
    const { result } = run;
    const name = `image-${chosen}.png`;
    const views = [["slider", "Before and after"], ["result", "Result"], ["difference", "Difference"], ["reconstruction", "Reconstruction"]];
    return h("div.below", {},
      result.images > 1 ? h("div.strip", {}, ...result.recipe.target_prompts.map((target, k) =>
        h("button", { type: "button", "aria-pressed": String(k === chosen), "aria-label": target, title: target, onclick: () => { chosen = k; showRun(); showBelow(); } },
          h("img", { src: api.fileOf(run, `image-${k}.png`), alt: "" })))) : null,
      h("div.row.spread", {}, segments("What is shown", views, view, (next) => { view = next; showRun(); }),
        h("span.dim.small", {}, `${result.cost.seconds.toFixed(1)} s`)),
      h("p", {}, result.reconstruction),
      ...result.notes.map((note) => h("p.note", {}, note)),
      h("div.row.actions", {},
        h("button", { type: "button", onclick: useResult }, "Use as input"),
        h("a.button", { href: api.fileOf(run, name), download: fileName(result) }, "Download"),
        h("button", { type: "button", onclick: () => showText("The command that makes this image", result.command) }, "As command"),
        h("button", { type: "button", onclick: () => showText("The Python that makes this image", result.python) }, "As Python")));
  }

  async function start(event) {
    event?.preventDefault();
    if (!edit.source.trim()) return complain(controls.nodes[0], "Say what the image shows.");
    if (!edit.target.trim()) return complain(controls.nodes[1], "Say what it should show.");
    go.disabled = true;
    try {
      await mask.ready();
      const asked = form();
      const before = edit.image ? api.shown(edit.image) : null;
      const news = await runOn(stage, asked, { background: before });
      if (news) {
        edit.run = news;
        chosen = 0;
        showRun();
        keep(news, edit.image);
        changed("run");
      } else if (edit.run) showRun();
      else showSource();
    } catch (error) {
      toast(error.message);
      showSource();
    } finally {
      go.disabled = false;
      showBelow();
    }
  }

  function complain(box, text) {
    toast(text);
    box.querySelector("textarea").focus();
  }

  function again() {
    if (go.disabled) return;
    if (!edit.locked) edit.seed = dice();
    settings.draw();
    start();
  }

  async function useResult() {
    const file = await (await fetch(api.fileOf(edit.run, `image-${chosen}.png`))).blob();
    const target = edit.run.result.recipe.target_prompts[chosen];
    await give(new File([file], "result.png"), (upload) => {
      useImage({ ...upload, recipe: null });
      edit.source = target;
      update();
      controls.target.focus();
    });
  }

  function useExample(example) {
    Object.assign(edit, { source: example.prompt, target: example.targets[0] || example.prompt });
    useImage(example);
    suggest(example.targets);
  }

  function suggest(targets = []) {
    put(ideas, ...targets.map((target) => h("button.chip", { type: "button", "aria-label": target, title: target, onclick: () => { edit.target = target; update(); } }, news(target, edit.source))));
    ideas.hidden = !targets.length;
  }

  function useImage(image) {
    Object.assign(edit, { image, run: null, size: "" });
    Object.assign(edit.mask, { kind: "none", upload: null, words: [] });
    suggest();
    showSource();
    showBelow();
    update();
    if (image?.recipe) offer(image.recipe);
  }

  function offer(recipe) {
    below.prepend(h("div.note.row.spread", {}, "This image was made by sfumato.",
      h("button", { type: "button", onclick: () => { load(recipe).forEach(toast); changed("recipe"); } }, "Load its settings")));
  }

  function update() {
    controls.update();
    settings.draw();
    mask.draw();
  }

  onchange((what) => {
    if (what === "method") settings.draw();
    if (what === "recipe") update();
    if (what === "image") { useImage(edit.image); update(); }
    if (what === "shown") { showRun(); showBelow(); update(); }
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (file && root.isConnected) give(file, useImage);
  });
  dropOn(stage, useImage);
  if (edit.run) showRun();
  else showSource();
  showBelow();
  const root = h("div.two", {}, h("h1.hidden", {}, "Edit"), h("section", { "aria-label": "Image" }, stage, below), panel);
  return root;
}

/** The words of a target prompt that the source prompt does not have. */
function news(target, source) {
  const known = source.split(" ");
  return target.split(" ").filter((word) => !known.includes(word)).join(" ") || target;
}

function fileName(result) {
  const name = (result.recipe.target_prompts[0].toLowerCase().match(/[\p{L}\p{N}]+/gu) || ["result"]).join("-");
  return `${name.slice(0, 60)}.png`;
}
