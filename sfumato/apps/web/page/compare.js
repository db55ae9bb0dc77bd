// One edit by several methods, side by side; or all that `auto` tried, and its trade-off.

import * as api from "./api.js";
import { h, put, svg, toast } from "./dom.js";
import { tell } from "./running.js";
import { app, changed, edit, form, named, served, setOptions } from "./state.js";

export function page() {
  const cards = h("div.cards");
  const plot = h("div");
  const said = h("p.dim", { role: "status" });
  const intro = h("p");
  let chosen = null;
  const picks = h("div.row.tight", { role: "group", "aria-label": "Methods to compare" });
  const go = h("button.main.narrow", { type: "button", onclick: () => (stop ? stop.abort() : compare()) }, "Compare");
  const leave = h("button", { type: "button", onclick: () => auto() }, "Let sfumato choose");
  let stop = null;
  let ready = false;

  function refresh() {
    const plain = served("methods").filter((entry) => entry.name !== "auto");
    const first = app.library.compare.filter((name) => plain.some((entry) => entry.name === name)).slice(0, 4);
    chosen ||= new Set(edit.method === "auto" ? first : [edit.method, ...first]);
    put(picks, ...plain.map((entry) => {
      const chip = h("button.chip", { type: "button", title: entry.when, "aria-pressed": String(chosen.has(entry.name)), onclick: () => {
        chosen[chosen.has(entry.name) ? "delete" : "add"](entry.name);
        chip.setAttribute("aria-pressed", String(chosen.has(entry.name)));
      } }, entry.title);
      return chip;
    }));
    ready = Boolean(edit.source.trim() && edit.target.trim());
    put(intro, ready ? `“${edit.source.trim()}” becomes “${edit.target.trim().split("\n")[0]}”.` : "Say on the page Edit what the image shows and what it should show; here you see it done by several methods.");
    allow();
    thumb.hidden = !edit.image;
    if (edit.image) thumb.src = api.shown(edit.image);
  }

  /** One comparison at a time: while one runs, it can be stopped and no other begun. */
  function allow() {
    go.textContent = stop ? "Stop" : "Compare";
    go.disabled = !stop && !ready;
    leave.disabled = Boolean(stop) || !ready;
  }

  async function work(body) {
    stop = new AbortController();
    allow();
    put(plot);
    put(cards);
    try {
      await body();
    } catch (error) {
      if (error.message) toast(error.message);
    }
    stop = null;
    allow();
    put(said);
  }

  /** The edit by another method: with the options that the user set for it, and its own inversion. */
  const ask = (name) => form({ target_prompts: [edit.target.trim().split("\n")[0]], method: name, inversion: null, inversion_options: null,
    options: setOptions("methods", named("methods", name), edit.options[name] || {}) });

  const compare = () => work(async () => {
    const names = [...chosen];
    for (const [k, name] of names.entries()) {
      const asked = ask(name);
      const box = card(named("methods", name).title, null, "Waiting", null);
      cards.append(box);
      try {
        const run = await api.run(asked, (news) => put(said, `${k + 1} of ${names.length}: ${tell(news)}`), stop.signal);
        const { result } = run;
        const psnr = result.reconstruction_psnr === null ? "" : `source ${result.reconstruction_psnr.toFixed(1)} dB · `;
        box.replaceWith(card(named("methods", name).title, api.fileOf(run, "image-0.png"), `${psnr}${result.cost.seconds.toFixed(1)} s`, () => open(run, name, edit.options[name] || {})));
      } catch (error) {
        if (stop.signal.aborted) { box.remove(); return; }
        box.replaceWith(card(named("methods", name).title, null, error.message, null));
      }
    }
  });

  const auto = () => work(async () => {
    const run = await api.run(ask("auto"), (news) => put(said, tell(news)), stop.signal);
    const { tried } = run.result;
    put(plot, h("h2", {}, "How well each took, and how much it changed"), tradeoff(tried));
    put(cards, tried.map((one, k) => {
      const settings = Object.entries(one.options).map(([name, value]) => `${name}=${value}`).join(", ");
      const box = card(`${k + 1}. ${named("methods", one.method).title}${one.chosen ? ", chosen" : ""}`, api.fileOf(run, `tried-${k}.png`), settings || "usual settings",
        () => open(null, one.method, one.options));
      box.classList.toggle("best", one.chosen);
      return box;
    }));
  });

  function card(title, image, text, use) {
    return h("article.card", {}, image ? h("img.pic", { src: image, alt: title }) : h("div.pic", {}, text),
      h("div.body", {}, h("h2", {}, title), h("p.dim.small", {}, text), use ? h("div.row", {}, h("button", { type: "button", onclick: use }, "Open"),
        h("a.button", { href: image, download: "result.png" }, "Download")) : null));
  }

  function open(run, name, options) {
    edit.method = name;
    edit.options[name] = { ...options };
    edit.inversion = "";
    if (run) edit.run = run;
    changed("recipe");
    if (run) changed("shown");
    location.hash = "#/edit";
  }

  const thumb = h("img.thumb", { alt: "The source image", hidden: true });
  const root = h("section", {}, h("div.row.head", {}, thumb, h("div.intro", {}, h("h1", {}, "Compare"), intro)), picks,
    h("div.below", {}, h("div.row", {}, go, leave), said, plot, cards));
  return Object.assign(root, { refresh });
}

/** The trade-off as a plot: right is more change, up is closer to the target prompt. */
function tradeoff(tried) {
  const [width, height, pad] = [640, 300, 44];
  const high = (values) => Math.max(...values, 1e-9) * 1.15;
  const low = Math.min(0, ...tried.map((one) => one.agreement)) * 1.15;
  const far = high(tried.map((one) => one.change)), top = high(tried.map((one) => one.agreement));
  const x = (value) => pad + ((width - 2 * pad) * value) / far;
  const y = (value) => height - pad - ((height - 2 * pad) * (value - low)) / (top - low);
  const label = (text, at) => { const node = svg("text", at); node.textContent = text; return node; };
  return svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Agreement with the target prompt against change of the image" },
    svg("path", { class: "axis", d: `M${pad} ${pad / 2}V${height - pad}H${width - pad}`, fill: "none" }),
    label("change", { x: width - pad, y: height - 14, "text-anchor": "end" }), label("agreement", { x: pad, y: 14 }),
    ...tried.flatMap((one, k) => [svg("circle", { class: one.chosen ? "" : "plain", cx: x(one.change), cy: y(one.agreement), r: one.chosen ? 8 : 6 }),
      label(String(k + 1), { x: x(one.change) + 12, y: y(one.agreement) + 4 })]));
}
