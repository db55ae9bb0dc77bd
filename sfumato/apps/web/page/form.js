// The panel that says what an edit is: three usual controls, the rest folded. The Slider page has it, too.

import { chooser, options } from "./controls.js";
import { field, h, put, words } from "./dom.js";
import { app, changed, dice, edit, inversionName, method, model, named, served, usualGuidance } from "./state.js";

/** The texts and the method; `extra` comes below them. */
export function usualControls({ many = true, without = [] } = {}) {
  const source = h("textarea", { rows: "2", value: edit.source, placeholder: "a cat on a sofa", oninput: () => { edit.source = source.value; } });
  const target = h("textarea", { rows: "2", value: edit.target, placeholder: "a dog on a sofa", oninput: () => { edit.target = target.value; } });
  const methods = served("methods").filter((entry) => !without.includes(entry.name));
  const choose = chooser("Method", methods, edit.method, (name) => { edit.method = name; changed("method"); });
  const update = () => {
    source.value = edit.source;
    target.value = edit.target;
    choose.choose(edit.method);
  };
  const nodes = [
    field("The image shows", source),
    field("It should show", target, many ? "Say the whole image again, with what is new. A second line makes a second result." : ""),
    choose,
  ];
  return { nodes, update, target };
}

/** The folds of all other settings, made from their declarations: the run, the method, the inversion. */
export function settingsFold() {
  const fold = () => {
    const [title, body] = [h("span"), h("div.folded")];
    return { title, body, box: h("details", {}, h("summary", {}, title), body) };
  };
  const [run, own, inversion] = [fold(), fold(), fold()];
  put(run.title, "Settings");
  put(inversion.title, "Inversion");

  function draw() {
    const chosen = method();
    const fill = (name, input) => field(words(name), input, app.library.help[key(name)] || "");
    put(run.body,
      quality(),
      h("div.halves", {},
        fill("steps", number("steps", model().num_inference_steps, { min: "1", max: String(app.library.limits.steps) })),
        fill("guidance", number("guidance", usualGuidance(chosen), { min: "1", step: "any" }))),
      seedField(),
      model().negative ? field("Not in the image", text("negative"), app.library.help.negative_prompt) : null,
      edit.image ? h("div.halves", {}, sizeField(), fitField()) : null,
      edit.image ? field("Closer encoding", number("encode", app.library.usual.edit.encode_steps, { min: "0" }), app.library.help.encode_steps) : null,
      h("button.quiet", { type: "button", onclick: reset }, "Back to the usual settings"));
    put(own.title, `Options of ${chosen.title}`);
    put(own.body, options("methods", chosen, (edit.options[chosen.name] ||= {})));
    own.box.hidden = !chosen.options.length;
    inversion.box.hidden = !chosen.inversions?.length;
    put(inversion.body, chooser("How the image is turned into noise", served("inversions").filter((entry) => chosen.inversions?.includes(entry.name)), edit.inversion,
      (name) => { edit.inversion = name; edit.inversionOptions = {}; draw(); }, { empty: "The method's first choice" }),
    ...(edit.inversion ? options("inversions", named("inversions", inversionName()), edit.inversionOptions) : []));
  }

  function reset() {
    Object.assign(edit, { options: {}, inversion: "", inversionOptions: {}, steps: "", guidance: "", negative: "", encode: "", size: "", fit: "crop" });
    draw();
  }

  const key = (name) => ({ steps: "num_inference_steps", guidance: "guidance_scale", negative: "negative_prompt", encode: "encode_steps" })[name] || name;

  function number(name, usual, props) {
    const input = h("input", { type: "number", value: String(edit[name]), placeholder: String(usual), ...props, onchange: () => { edit[name] = input.value; } });
    return input;
  }

  function text(name) {
    const input = h("input", { type: "text", value: edit[name], autocomplete: "off", oninput: () => { edit[name] = input.value; } });
    return input;
  }

  function seedField() {
    const input = h("input", { type: "number", value: String(edit.seed), step: "1", onchange: () => { edit.seed = Math.trunc(Number(input.value)) || 0; } });
    const lock = h("input", { type: "checkbox", checked: edit.locked, onchange: () => { edit.locked = lock.checked; } });
    const row = h("div.row", {}, h("label.check", {}, lock, "Keep it"),
      h("button", { type: "button", onclick: () => { edit.seed = dice(); input.value = edit.seed; } }, "Another"));
    return h("div.halves", {}, field("Seed", input, app.library.help.seed), row);
  }

  function sizeField() {
    const [width, height] = model().size;
    const select = h("select", { onchange: () => { edit.size = select.value; } });
    for (const [value, said] of [["", "As it suits the image"], ["trained", `${width} × ${height}, as the model was trained`], ["own", "The image's own"]])
      select.append(h("option", { value, selected: edit.size === value }, said));
    return field("Size", select);
  }

  function fitField() {
    const select = h("select", { onchange: () => { edit.fit = select.value; } });
    for (const name of app.library.fits) select.append(h("option", { value: name, selected: edit.fit === name }, words(name)));
    return field("Fit", select, app.library.help.fit);
  }

  function quality() {
    const usual = model().num_inference_steps;
    const set = (steps) => { edit.steps = steps; draw(); };
    const presets = [["Draft", Math.max(4, Math.round(usual / 5))], ["Usual", ""], ["Fine", Math.min(app.library.limits.steps, usual * 2)]];
    return h("div.segments", { role: "group", "aria-label": "Quality" }, ...presets.map(([name, steps]) =>
      h("button", { type: "button", "aria-pressed": String(String(edit.steps) === String(steps)), onclick: () => set(steps) }, name)));
  }

  draw();
  return { nodes: [run.box, own.box, inversion.box], draw };
}
