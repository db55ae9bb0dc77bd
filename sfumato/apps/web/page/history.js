// What was made in this browser: kept in it, and nowhere else.

import * as api from "./api.js";
import { h, put, toast } from "./dom.js";
import { chooseButton, dropOn, give } from "./images.js";
import { app, changed, edit, load, onchange } from "./state.js";

const MOST = 300;

function database() {
  return new Promise((done, fail) => {
    const opening = indexedDB.open("sfumato", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("runs", { keyPath: "id" });
    opening.onsuccess = () => done(opening.result);
    opening.onerror = () => fail(opening.error);
  });
}

async function store(mode, use) {
  const runs = (await database()).transaction("runs", mode).objectStore("runs");
  return new Promise((done, fail) => {
    const asked = use(runs);
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => fail(asked.error);
  });
}

const blob = async (address) => (await fetch(address)).blob();

/** Keeps a run with its result and its source. */
export async function keep(run, image) {
  if (!app.library.history) return;
  try {
    const [result, source] = await Promise.all([blob(api.fileOf(run, "image-0.png")), image ? blob(api.shown(image)) : null]);
    const entry = { id: run.id, time: Date.now(), recipe: run.result.recipe, said: run.result.reconstruction, result, source, name: image?.name };
    await store("readwrite", (runs) => runs.put(entry));
    const all = await store("readonly", (runs) => runs.getAll());
    for (const old of all.sort((a, b) => b.time - a.time).slice(MOST)) await store("readwrite", (runs) => runs.delete(old.id));
    changed("kept");
  } catch {
    // a private window, or no room: the page works without
  }
}

export function page() {
  const cards = h("div.cards");
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the history", oninput: () => draw() });
  let all = [];

  async function refresh() {
    all = await store("readonly", (runs) => runs.getAll()).catch(() => []);
    all.sort((a, b) => b.time - a.time);
    draw();
  }

  function draw() {
    cards.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    const wanted = search.value.toLowerCase();
    const found = all.filter((one) => JSON.stringify([one.recipe.source_prompt, one.recipe.target_prompts, one.recipe.method]).toLowerCase().includes(wanted));
    put(cards, found.length ? found.map(card) : h("p.dim", {}, all.length ? "Nothing fits." : "Nothing yet. What you make appears here."));
  }

  function card(one) {
    const { recipe } = one;
    return h("article.card", {}, h("img.pic", { src: URL.createObjectURL(one.result), alt: recipe.target_prompts[0], loading: "lazy" }),
      h("div.body", {}, h("h2", {}, recipe.target_prompts[0]), h("p.dim.small", {}, `${recipe.method} · ${new Date(one.time).toLocaleString()}`),
        h("div.row.tight", {}, h("button", { type: "button", onclick: () => open(one) }, "Load"),
          h("button.quiet", { type: "button", "aria-label": `Delete ${recipe.target_prompts[0]}`, onclick: async () => { await store("readwrite", (runs) => runs.delete(one.id)); refresh(); } }, "Delete"))));
  }

  async function open(one) {
    const use = (upload) => {
      if (upload) edit.image = { ...upload, recipe: null };
      else edit.image = null;
      changed("image");
      load(upload ? { ...one.recipe, image: null } : one.recipe).forEach(toast);
      changed("recipe");
      location.hash = "#/edit";
    };
    if (one.source) await give(new File([one.source], one.name || "image.png"), use);
    else use(null);
  }

  /** An image of sfumato: its settings, and where this browser knows it, its source. */
  async function useRecipe(upload) {
    if (!upload.recipe) return toast("This image carries no recipe.");
    const known = all.find((one) => one.source && one.recipe.image?.sha256 === upload.recipe.image?.sha256);
    if (known) return open({ ...known, recipe: upload.recipe });
    load(upload.recipe).forEach(toast);
    changed("recipe");
    location.hash = "#/edit";
  }

  async function exportAll() {
    const data = JSON.stringify(all.map(({ time, recipe }) => ({ time: new Date(time).toISOString(), recipe })), null, 1);
    const link = h("a", { href: URL.createObjectURL(new Blob([data], { type: "application/json" })), download: "sfumato-history.json" });
    link.click();
  }

  const drop = h("div.row", {}, chooseButton("Load the recipe of an image", useRecipe));
  const root = h("section", {}, h("div.intro", {}, h("h1", {}, "History"),
    h("p", {}, app.library.history ? "Kept in this browser alone. Drop an image that sfumato made to load its settings." : "This server keeps no history. Drop an image that sfumato made to load its settings.")),
    h("div.row", {}, h("div", {}, search), drop, h("button", { type: "button", onclick: exportAll }, "Export"),
      h("button", { type: "button", onclick: async () => { if (confirm("Delete all of the history?")) { await store("readwrite", (runs) => runs.clear()); refresh(); } } }, "Delete all")),
    h("div.below", {}, cards));
  dropOn(root, useRecipe);
  onchange((what) => { if (what === "kept" && root.isConnected) refresh(); });
  return Object.assign(root, { refresh });
}
