// An edit from nothing to full: the frames are made once, and then a slider goes through them.

import * as api from "./api.js";
import { field, h, put, toast } from "./dom.js";
import { settingsFold, usualControls } from "./form.js";
import { showFrames } from "./frames.js";
import { alone, chooseButton, dropOn, examples } from "./images.js";
import { runOn } from "./running.js";
import { app, changed, edit, form, onchange } from "./state.js";

export function page() {
  const stage = h("div.stage");
  const below = h("div.below");
  const controls = usualControls({ many: false, without: ["auto"] });
  const settings = settingsFold();
  const go = h("button.main", { type: "submit" }, "Make the slider");
  const frames = h("input", { type: "number", min: "3", max: String(app.library.limits.frames), value: "8" });

  function showSource() {
    put(stage, edit.image ? alone(api.shown(edit.image), "The source image") : h("div.empty", {}, h("div.mark"), h("h2.big", {}, "How much of an edit?"),
      h("p.dim", {}, "Give an image, and what it should become. The slider goes from none of it to all of it."), h("div.row", {}, chooseButton("Choose a file", use))));
    put(below, examples((one) => { Object.assign(edit, { source: one.prompt, target: one.targets[0] || one.prompt }); use(one); }));
  }

  function use(image) {
    Object.assign(edit, { image, run: null, size: "" });
    changed("image");
  }

  async function start(event) {
    event.preventDefault();
    const targets = edit.target.split("\n").map((line) => line.trim()).filter(Boolean);
    if (!edit.source.trim() || !targets.length) return toast("Say what the image shows, and what it should show.");
    if (edit.method === "auto") return toast("Automatic choice would choose anew for every frame: take another method.");
    go.disabled = true;
    const asked = form({ command: "slider", num_frames: Number(frames.value) || 8, target_prompts: targets.slice(0, 1) });
    const run = await runOn(stage, asked, { background: edit.image ? api.shown(edit.image) : null });
    go.disabled = false;
    if (run) showFrames(stage, below, run, { play: false });
    else showSource();
  }

  onchange((what) => {
    if (what === "image") showSource();
    if (what !== "run" && what !== "kept") { controls.update(); settings.draw(); }
  });
  dropOn(stage, use);
  showSource();
  const root = h("div.two", {}, h("h1.hidden", {}, "Slider"), h("section", { "aria-label": "Frames" }, stage, below),
    h("form.panel", { onsubmit: start }, ...controls.nodes, field("Frames", frames), h("div.row", {}, go), h("div", {}, ...settings.nodes)));
  return Object.assign(root, { refresh: () => { controls.update(); settings.draw(); } });
}
