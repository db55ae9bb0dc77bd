// What the page asks of the server.

/** An error in the server's own words. */
export class Refused extends Error {
  constructor(status, text, retryAfter = 0) {
    super(text);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  const value = await reply.json().catch(() => ({}));
  if (reply.ok) return value;
  throw new Refused(reply.status, value.error || `The server said ${reply.status}.`, value.retry_after || 0);
}

const send = (path, value) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });

export const library = () => ask("api/library");
export const login = (token) => send("login", { token });
export const cancel = (id) => ask(`api/runs/${id}`, { method: "DELETE" }).catch(() => null);
export const shown = (upload) => `api/images/${upload.id}.png`;
export const fileOf = (run, name) => `api/runs/${run.id}/${name}`;

/** Uploads a file; the server's facts of it. */
export function upload(file, name = file.name || "image.png") {
  const headers = { "content-type": "application/octet-stream" };
  return ask(`api/images?name=${encodeURIComponent(name)}`, { method: "POST", headers, body: file });
}

/** Starts a run and follows it; gives its last news. Waits by itself while the queue is full. */
export async function run(form, onnews, signal) {
  for (;;) {
    try {
      const started = await send("api/runs", form);
      return await follow(started.id, onnews, signal);
    } catch (error) {
      if (!(error instanceof Refused) || !error.retryAfter || signal?.aborted) throw error;
      onnews({ state: "waiting", full: true, retry: error.retryAfter, text: error.message });
      await pause(error.retryAfter * 1000, signal);
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((done, fail) => {
    setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => fail(new Refused(0, "")));
  });
}

function follow(id, onnews, signal) {
  return new Promise((done, fail) => {
    const events = new EventSource(`api/runs/${id}/events`);
    if (signal?.aborted) cancel(id);
    signal?.addEventListener("abort", () => cancel(id));
    events.onmessage = (event) => {
      const news = JSON.parse(event.data);
      if (news.state === "waiting" || news.state === "running") return onnews(news);
      events.close();
      if (news.state === "done") done(news);
      else fail(new Refused(news.state === "cancelled" ? 0 : 422, news.state === "cancelled" ? "" : news.error));
    };
    events.onerror = () => {
      if (events.readyState === EventSource.CLOSED) fail(new Refused(404, "The server does not know this run any more."));
    };
  });
}
