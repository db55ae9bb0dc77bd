// What the user has set, shared by all pages, and the request that it makes.

export const app = { library: null };

export const edit = {
  model: "", image: null, source: "", target: "", method: "", options: {},
  inversion: "", inversionOptions: {}, steps: "", guidance: "", negative: "", seed: 0, locked: false, encode: "",
  size: "", fit: "crop",
  mask: { kind: "none", upload: null, words: [], threshold: 0.4, feather: 0, invert: false, pixels: true },
  run: null,
};

const listeners = new Set();
/** Calls back when something of `edit` was changed by another part of the page. */
export const onchange = (call) => listeners.add(call);
export const changed = (what = "") => listeners.forEach((call) => call(what));
/** Forgets all listeners, as the pages are made anew. */
export const forget = () => listeners.clear();

export const model = () => app.library.models.find((one) => one.name === edit.model) || app.library.models[0];
export const named = (kind, name) => app.library[kind].find((entry) => entry.name === name);
/** What the model can do of methods, inversions or morphs. */
export const served = (kind) => app.library[kind].filter((entry) => !(entry.name in model().lacks[kind]));
export const method = () => named("methods", edit.method);
export const inversionName = () => edit.inversion || (method().inversions || [])[0] || "";

/** The value of an option where the user sets none: what suits the model, else the method's own. */
export function usual(kind, entry, option) {
  const own = kind === "methods" || kind === "morphs" ? model().options[entry.name] || {} : {};
  return option.name in own ? own[option.name] : option.default;
}

/** The guidance scale where the user sets none. */
export const usualGuidance = (entry) => model().guidance[entry.name] ?? (model().few_steps ? null : entry.guidance) ?? model().guidance_scale;

/** Only what the user set otherwise than it is anyway. */
export function setOptions(kind, entry, values) {
  const found = {};
  for (const option of entry?.options || []) {
    const value = values[option.name];
    if (value !== undefined && JSON.stringify(value) !== JSON.stringify(usual(kind, entry, option))) found[option.name] = value;
  }
  return found;
}

/** "own" where the image suits the model as it is, else the size that the model was trained at. */
export function suggestedSize(image) {
  const { size: [width, height], multiple } = model();
  const area = image.size[0] * image.size[1];
  const fits = image.size.every((side) => side % multiple === 0);
  return fits && area <= 1.6 * width * height && area >= 0.2 * width * height ? "own" : "trained";
}

const number = (text) => (text === "" || text === null ? null : Number(text));

/** The form of one run, as the server reads it; `changes` replaces parts of the request. */
export function form(changes = {}) {
  const request = {
    command: "edit", source_prompt: edit.source.trim(), method: edit.method, seed: edit.seed,
    target_prompts: edit.target.split("\n").map((line) => line.trim()).filter(Boolean),
    options: setOptions("methods", method(), edit.options[edit.method] || {}),
    num_inference_steps: number(edit.steps), guidance_scale: number(edit.guidance),
    negative_prompt: edit.negative.trim() || null, encode_steps: number(edit.encode) || 0,
    inversion: edit.inversion || null, ...size(edit.image), ...changes,
  };
  if (edit.inversion) request.inversion_options = setOptions("inversions", named("inversions", edit.inversion), edit.inversionOptions);
  const found = { model: model().name, request };
  if (edit.image) found.image = edit.image.id;
  else delete request.encode_steps;
  const { kind, upload, words, threshold, feather, invert, pixels } = edit.mask;
  if (edit.image && ((kind === "paint" && upload) || (kind === "words" && words.length))) {
    request.mask = { feather: Number(feather), invert, pixels };
    if (kind === "words") Object.assign(request.mask, { words, threshold: Number(threshold) });
    else found.mask = upload.id;
  }
  return found;
}

/** What a request says of the size of its image. */
export function size(image, chosen = edit.size, fit = edit.fit) {
  const kind = image ? chosen || suggestedSize(image) : "trained";
  if (kind === "own") return {};
  return image ? { size: model().size, fit } : { size: model().size };
}

/** Takes over the settings of a recipe, as far as the page has them; the rest in words. */
export function load(recipe) {
  const notes = [];
  const has = (kind, name) => served(kind).some((entry) => entry.name === name);
  if (!["edit", "slider"].includes(recipe.command)) return [`It was made by “${recipe.command}”, which starts from other images.`];
  edit.source = recipe.source_prompt || "";
  edit.target = (recipe.target_prompts || []).join("\n");
  if (has("methods", recipe.method)) edit.method = recipe.method;
  else notes.push(`It was made by the method ${recipe.method}, which this model does not serve.`);
  if (edit.method === recipe.method) edit.options[edit.method] = { ...(recipe.options || {}) };
  edit.inversion = recipe.inversion && recipe.inversion !== method().inversions?.[0] ? recipe.inversion : "";
  edit.inversionOptions = { ...(recipe.inversion_options || {}) };
  edit.steps = recipe.num_inference_steps ?? "";
  edit.guidance = recipe.guidance_scale ?? "";
  edit.negative = recipe.negative_prompt || "";
  edit.seed = recipe.seed ?? 0;
  edit.locked = true;
  edit.encode = recipe.encode_steps || "";
  edit.size = recipe.size ? "trained" : recipe.image ? "own" : "";
  if (recipe.fit) edit.fit = recipe.fit;
  edit.mask = { ...edit.mask, kind: "none", upload: null, words: [] };
  if (recipe.mask?.words?.length) {
    const { words, threshold, feather, invert, pixels } = recipe.mask;
    Object.assign(edit.mask, { kind: "words", words, threshold, feather, invert, pixels });
  } else if (recipe.mask) {
    notes.push("It had a painted mask, which is not in the file: paint or load it again.");
  }
  if (recipe.image?.path) notes.push(`It started from ${recipe.image.path}: give that image.`);
  return notes;
}

/** A seed for another version. */
export const dice = () => Math.floor(Math.random() * 2 ** 31);
