// Every method: what it does, when to use it, what it costs.

import { h } from "./dom.js";
import { app, changed, edit, model } from "./state.js";

/** Who described a method, with the way to it. */
function paper(said) {
  const [, authors, address, part] = said.match(/^(.+?), (https:[^\s,]+)(.*)$/) || [];
  if (!address) return h("p.dim.small", {}, said.replace(/^none: ./, (start) => start.slice(-1).toUpperCase()));
  return h("p.dim.small", {}, h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, authors + part));
}

export function page() {
  const card = (entry, use, lacks) => h("article.card", {}, h("div.body", {}, h("h3", {}, entry.title), h("p", {}, entry.summary),
    h("p.dim.small", {}, entry.when), paper(entry.paper), lacks ? h("p.note", {}, `Not with this model: it needs ${lacks}.`) : use ? h("div.row", {}, h("button", { type: "button", onclick: use }, "Use it")) : null));
  const group = (title, text, kind, use) => h("section.below", {}, h("div.intro", {}, h("h2", {}, title), h("p", {}, text)),
    h("div.cards.wide", {}, ...app.library[kind].map((entry) => card(entry, use && (() => use(entry)), model().lacks[kind][entry.name]))));
  return h("div", {}, h("div.intro", {}, h("h1", {}, "Methods"), h("p", {}, "Each is the algorithm of its paper, and agrees with its authors' code.")),
    group("Edits", "From a source prompt to a target prompt.", "methods", (entry) => {
      edit.method = entry.name;
      edit.inversion = "";
      changed("recipe");
      location.hash = "#/edit";
    }),
    group("Inversions", "How an image is turned into the noise that an edit starts from.", "inversions"),
    group("Morphs", "From image to image.", "morphs"));
}
