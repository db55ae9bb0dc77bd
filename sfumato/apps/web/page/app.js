// The start of the page: what the server offers, the parts of the page, and the way between them.

import * as api from "./api.js";
import { h, put } from "./dom.js";
import { app, edit, forget, model, served } from "./state.js";

const main = document.getElementById("main");
const PAGES = {
  edit: () => import("./edit.js"),
  compare: () => import("./compare.js"),
  morph: () => import("./morph.js"),
  slider: () => import("./slider.js"),
  attention: () => import("./attention.js"),
  methods: () => import("./methods.js"),
  history: () => import("./history.js"),
};
const made = {};

const wanted = () => (Object.hasOwn(PAGES, location.hash.slice(2)) ? location.hash.slice(2) : "edit");

async function show(first = false) {
  const name = wanted();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const module = await PAGES[name]();
  if (name !== wanted()) return; // another page was asked for meanwhile
  made[name] ||= module.page();
  put(main, made[name]);
  made[name].refresh?.();
  document.title = name === "edit" ? "sfumato" : `${name.charAt(0).toUpperCase()}${name.slice(1)} – sfumato`;
  if (!first) { scrollTo(0, 0); main.focus({ preventScroll: true }); }
}

/** All pages are made anew for a model, which has its own methods, sizes and usual settings. */
function useModel(name) {
  edit.model = name;
  forget();
  for (const page of Object.keys(made)) delete made[page];
  const methods = served("methods").map((entry) => entry.name);
  if (!methods.includes(edit.method)) Object.assign(edit, { method: model().method, inversion: "" });
}

function models() {
  const all = app.library.models;
  if (all.length === 1) return put(document.getElementById("model"), all[0].name);
  const select = h("select", { "aria-label": "Model", onchange: () => { useModel(select.value); show(true); } },
    ...all.map((one) => h("option", { value: one.name }, one.name)));
  put(document.getElementById("model"), select);
}

async function start() {
  try {
    app.library = await api.library();
  } catch (error) {
    return error.status === 401 ? askToken() : put(main, h("p.loading", {}, error.message));
  }
  models();
  useModel(app.library.models[0].name);
  addEventListener("hashchange", () => show());
  await show(true);
}

function askToken() {
  const said = h("p.bad", { role: "alert" });
  const input = h("input", { type: "password", id: "token", autocomplete: "current-password" });
  put(main, h("form.panel.intro", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      await api.login(input.value);
      start();
    } catch (error) {
      put(said, error.message);
    }
  } }, h("h1", {}, "This page needs a token"), h("label", { for: "token" }, "Token"), input, said, h("button.main", {}, "Open")));
  input.focus();
}

start();
