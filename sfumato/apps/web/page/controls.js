// Controls of options, made from what each option says of itself.

import { field, h, put, words } from "./dom.js";
import { usual } from "./state.js";

/** The controls of all options of a method, an inversion, a morph or a spacing; values go into `values`. */
export function options(kind, entry, values) {
  return (entry?.options || []).map((option) => control({ ...option, help: sentence(option.help) }, values[option.name] ?? usual(kind, entry, option), (value) => {
    values[option.name] = value;
  }));
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;

function control(option, value, set) {
  const optional = / or none$/.test(option.type) || option.type === "none";
  if (option.choices.length) return choice(option, value, set);
  if (option.type === "yes or no") {
    const box = h("input", { type: "checkbox", checked: Boolean(value), onchange: () => set(box.checked) });
    const help = h("p.why", {}, option.help);
    return h("div.field", {}, h("label.check", {}, box, words(option.name)), help);
  }
  if (option.type === "number" && option.low !== null && option.high !== null && option.high - option.low <= 100)
    return field(words(option.name), slider(option.low, option.high, value, set, words(option.name)), option.help);
  const whole = option.type.startsWith("whole number");
  if (whole || /^number( or none)?$/.test(option.type)) {
    const input = h("input", {
      type: "number", step: whole ? "1" : "any", min: option.low, max: option.high, value: value ?? "",
      placeholder: optional ? "none" : "", onchange: () => set(input.value === "" ? (optional ? null : option.default) : Number(input.value)),
    });
    return field(words(option.name), input, option.help);
  }
  const input = h("input", {
    type: "text", value: write(value), placeholder: optional ? "none" : example(option.type), autocomplete: "off",
    onchange: () => set(read(input.value, option.type, optional)),
  });
  return field(words(option.name), input, option.help);
}

function choice(option, value, set) {
  const select = h("select", { onchange: () => set(select.value) });
  put(select, option.choices.map((name) => h("option", { value: name, selected: name === value }, name)));
  return field(words(option.name), select, option.help);
}

/** A range with its number beside it. */
export function slider(low, high, value, set, label) {
  const step = high - low > 20 ? 1 : 0.01;
  const range = h("input", { type: "range", min: low, max: high, step, value: String(value ?? low) });
  const box = h("input", { type: "number", min: low, max: high, step: "any", value: String(value ?? low), "aria-label": `${label}, as a number` });
  range.oninput = () => { box.value = range.value; set(Number(range.value)); };
  box.onchange = () => { range.value = box.value; set(Number(box.value)); };
  return h("div.pair", {}, range, box);
}

const example = (type) => (type.includes("table") ? "word=2, other=0.5" : type.includes("list") ? "0.2, 0.8" : "");

function write(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Reads what people type: numbers, lists with commas, word=number, or JSON. */
function read(text, type, optional) {
  const said = text.trim();
  if (said === "" || said === "none") return optional ? null : "";
  try {
    return JSON.parse(said);
  } catch {
    if (type.includes("table") && said.includes("=")) {
      return Object.fromEntries(said.split(",").map((part) => {
        const [word, factor] = [part.slice(0, part.lastIndexOf("=")), part.slice(part.lastIndexOf("=") + 1)];
        return [word.trim(), Number(factor)];
      }));
    }
    if (type.includes("list") && said.includes(",")) {
      return said.split(",").map((part) => (isNaN(Number(part)) ? part.trim() : Number(part)));
    }
    return said;
  }
}

/** A select of methods, inversions or morphs, with what the chosen one is for below it. */
export function chooser(label, entries, value, onchange, { empty = "" } = {}) {
  const why = h("p.why");
  const select = h("select", {}, ...(empty ? [h("option", { value: "" }, empty)] : []),
    ...entries.map((entry) => h("option", { value: entry.name, selected: entry.name === value }, entry.title)));
  const tell = () => put(why, entries.find((entry) => entry.name === select.value)?.when || "");
  select.onchange = () => { tell(); onchange(select.value); };
  tell();
  const box = field(label, select);
  box.append(why);
  return Object.assign(box, { choose: (name) => { select.value = name; tell(); } });
}
