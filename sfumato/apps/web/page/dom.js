// Small helpers around the DOM. All text goes in as text: nothing here reads HTML.

/** An element: h("button.main", {onclick}, "Edit"); false and null children are left out. */
export function h(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value);
  }
  put(element, ...children);
  return element;
}

/** Replaces what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Says something that goes away by itself. */
export function toast(text) {
  const line = h("div.toast", {}, text);
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), 5000);
}

/** Says something to screen readers alone. */
export function announce(text) {
  document.getElementById("said").textContent = text;
}

/** "cross_replace_steps" as people read it. */
export function words(name) {
  const text = name.replaceAll("_", " ").replaceAll("-", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

let count = 0;
/** A label, its control and why it is there, tied together for screen readers. */
export function field(label, control, why = "") {
  const target = control.matches("input, select, textarea") ? control : control.querySelector("input, select, textarea");
  const id = target.id || (target.id = `f${++count}`);
  const help = why ? h("p.why", { id: `${id}-why` }, why) : null;
  if (help) target.setAttribute("aria-describedby", help.id);
  return h("div.field", {}, h("label", { for: id }, label), control, help);
}

/** A row of buttons of which one is pressed. */
export function segments(label, choices, value, onchange) {
  const buttons = choices.map(([name, text]) =>
    h("button", { type: "button", "aria-pressed": String(name === value), onclick: () => choose(name) }, text));
  function choose(name) {
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(choices[k][0] === name)));
    onchange(name);
  }
  return h("div.segments", { role: "group", "aria-label": label }, ...buttons);
}

/** A dialog with a text to copy. */
export function showText(title, text) {
  const pre = h("pre", { tabindex: "0", "aria-label": title }, text);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      toast("Copied.");
      dialog.close();
    } catch {
      getSelection().selectAllChildren(pre);
      toast("Press Ctrl+C to copy.");
    }
  };
  const dialog = h("dialog", { "aria-label": title, onclose: () => dialog.remove() },
    h("h2", {}, title), pre,
    h("div.row", {}, h("button.main", { type: "button", onclick: copy }, "Copy"),
      h("button", { type: "button", onclick: () => dialog.close() }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}
