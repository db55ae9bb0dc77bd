// Runs the script of a report without a browser, on as much of a document as it needs, and prints what it wrote.
"use strict";
const page = require("fs").readFileSync(process.argv[2], "utf8");
const data = page.match(/<script id="data" type="application\/json">([\s\S]*?)<\/script>/)[1];
const script = page.slice(page.lastIndexOf("<script>") + 8, page.lastIndexOf("</script>"));

class Element {
  constructor(tag, text = "") { Object.assign(this, { tag, text, children: [], attributes: {}, dataset: {}, style: { setProperty() {} } }); }
  get textContent() { return this.text + this.children.map(child => child.textContent).join(""); }
  set textContent(text) { this.text = String(text); this.children = []; }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) {
    Object.assign(this, { children, text: "" });
    const chosen = children.find(child => "selected" in child.attributes) || children[0];
    if (chosen && chosen.tag === "option") this.value = chosen.attributes.value;
  }
  all(tag) { return this.children.flatMap(child => [...(child.tag === tag ? [child] : []), ...child.all(tag)]); }
}

const known = { data: new Element("script", data), order: Object.assign(new Element("select"), { value: "worst" }) };
globalThis.document = {
  body: new Element("body"),
  getElementById: id => known[id] ??= new Element("div"),
  createElement: tag => new Element(tag),
  createElementNS: (space, tag) => new Element(tag),
  createTextNode: text => new Element("#text", text),
};
eval(script);
console.log(JSON.stringify({
  ready: document.body.dataset.ready,
  plot: known.plot.all("text").map(text => text.textContent),
  board: known.board.all("td").map(cell => cell.textContent),
  problems: known.problems.all("td").map(cell => cell.textContent),
  code: known.problems.all("code").map(part => part.textContent),
  changes: known.changes.all("td").map(cell => cell.textContent),
}));
