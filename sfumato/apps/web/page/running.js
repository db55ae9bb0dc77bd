// A run on a stage: its place, its progress, its previews, and a way to stop it.

import * as api from "./api.js";
import { announce, h, put, toast } from "./dom.js";
import { boardImage } from "./images.js";

/** Runs a form and shows it on the stage; gives its result, or null where it failed or was stopped. */
export async function runOn(stage, form, { background = null } = {}) {
  const stop = new AbortController();
  const said = h("span", {}, "Starting");
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress of the run" });
  const image = boardImage({ src: background || "data:,", alt: "What the run has so far", hidden: !background });
  const cancel = h("button", { type: "button", onclick: () => { stop.abort(); cancel.disabled = true; } }, "Cancel");
  stage.classList.add("working");
  put(stage, h("div.board", {}, image), h("div.veil", {}, h("div.row", {}, said, cancel), bar));
  announce("The run has started.");
  try {
    const news = await api.run(form, (news) => {
      said.textContent = tell(news);
      bar.max = news.total || 1;
      bar.value = news.done || 0;
      if (news.previews) {
        image.src = `${api.fileOf(news, "preview.jpg")}?${news.previews}`;
        image.hidden = false;
      }
    }, stop.signal);
    announce("The result is there.");
    return news;
  } catch (error) {
    toast(error.message || "Cancelled.");
    return null;
  } finally {
    stage.classList.remove("working");
  }
}

/** Where a run stands, in words. */
export function tell(news) {
  if (news.full) return `The queue is full; trying again in ${news.retry} s`;
  if (news.state === "waiting") return news.place > 1 ? `In the queue, ${news.place} before you` : "Next in the queue";
  if (!news.total) return "Starting";
  const stage = news.stage.charAt(0).toUpperCase() + news.stage.slice(1);
  return `${stage}, ${news.done} of ${news.total}`;
}
