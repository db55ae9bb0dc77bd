// A sequence of images: a player, all frames, the plot of its steps, and the movie.

import * as api from "./api.js";
import { h, put, showText, svg } from "./dom.js";
import { boardImage } from "./images.js";

/** Shows the frames of a run on a stage, and what belongs to them below; `play` starts it. */
export function showFrames(stage, below, run, { play = true } = {}) {
  const { result } = run;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const sources = Array.from({ length: result.frames }, (_, k) => api.fileOf(run, `frame-${k}.png`));
  const image = boardImage({ src: sources[0], alt: "Frame 1" });
  const range = h("input", { type: "range", min: "0", max: String(result.frames - 1), step: "1", value: "0", "aria-label": "Frame" });
  const button = h("button", { type: "button", onclick: () => (timer ? pause() : start()) }, "Play");
  let timer = null;
  sources.forEach((source) => { new Image().src = source; });

  function show(k) {
    image.src = sources[k];
    image.alt = `Frame ${k + 1} of ${result.frames}`;
    range.value = String(k);
    range.setAttribute("aria-valuetext", image.alt);
  }
  function start() {
    let [k, way] = [Number(range.value), 1];
    button.textContent = "Pause";
    timer = setInterval(() => {
      if (!image.isConnected) return pause();
      if (k + way < 0 || k + way >= result.frames) way = -way;
      show((k += way));
    }, 110);
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }
  range.oninput = () => { pause(); show(Number(range.value)); };
  put(stage, h("div.board", {}, image));
  const movie = (kind, text) => h("a.button", { href: api.fileOf(run, `movie.${kind}`), download: `sfumato.${kind}` }, text);
  put(below,
    h("div.pair.player", {}, range, play ? button : h("span.dim.small", {}, `${result.frames} frames`)),
    h("div.strip", {}, ...sources.map((source, k) => h("button", { type: "button", "aria-label": `Frame ${k + 1}`, onclick: () => { pause(); show(k); } }, h("img", { src: source, alt: "", loading: "lazy" })))),
    h("div.row", {}, movie("webp", "WebP"), movie("gif", "GIF"), movie("mp4", "MP4"),
      h("a.button", { href: api.fileOf(run, "strip.png"), download: "frames.png" }, "All frames"),
      h("button", { type: "button", onclick: () => showText("The command that makes these frames", result.command) }, "As command"),
      h("button", { type: "button", onclick: () => showText("The Python that makes these frames", result.python) }, "As Python")),
    h("figure", {}, h("figcaption.dim.small", {}, `Steps from frame to frame. The largest is ${(result.spread || 1).toFixed(2)} times the mean; 1 is perfectly even.`), steps(result)),
    ...result.notes.map((note) => h("p.note", {}, note)));
  if (play && !still) start();
}

function steps({ distances, even_distances: even, measure }) {
  const [width, height, pad] = [640, 170, 26];
  const top = Math.max(...distances, ...(even || []), 1e-9) * 1.1;
  const line = (values, name) => svg("path", { class: name, d: values.map((value, k) =>
    `${k ? "L" : "M"}${pad + ((width - 2 * pad) * k) / Math.max(1, values.length - 1)} ${height - pad - ((height - 2 * pad) * value) / top}`).join("") });
  return svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Distances between frames, measured by ${measure}` },
    svg("path", { class: "axis", d: `M${pad} ${pad / 2}V${height - pad}H${width - pad}`, fill: "none" }),
    ...(even ? [line(even, "other")] : []), line(distances, "main"));
}
