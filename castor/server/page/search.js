// Search in a handful of files: each becomes a vector, and so does the query; the nearest come first.

import { embed } from "./api.js";
import { announce, complain, el, icon, iconButton } from "./dom.js";
import { ACCEPT, kindOf, namedPart, preview, typed } from "./files.js";

const TOGETHER = 8; // files in one request

export function similarity(a, b) {
  let [dot, aa, bb] = [0, 0, 0];
  for (let at = 0; at < a.length; at++) {
    dot += a[at] * b[at];
    aa += a[at] ** 2;
    bb += b[at] ** 2;
  }
  return dot / Math.sqrt(aa * bb || 1);
}

export class Search {
  constructor(view, models) {
    this.items = []; // {name, vector, element, score}
    this.model = el("select", { id: "search-model", onchange: () => this.again() },
      ...models.map((model) => el("option", { value: model.name }, model.name)));
    this.query = el("input", { type: "search", id: "search-query", placeholder: "Words, in any language", autocomplete: "off" });
    this.note = el("input", { type: "text", id: "search-note", placeholder: "or a line of text to find" });
    this.picker = el("input", { type: "file", multiple: true, accept: ACCEPT, class: "unseen", tabindex: "-1",
      "aria-label": "Choose files to search", onchange: () => this.onpicked() });
    this.results = el("ol", { class: "results", "aria-label": "Files, the best match first" });
    this.state = el("p", { class: "note" }, "Nothing to search yet.");
    view.append(el("div", { class: "search" },
      el("div", { class: "search-head" },
        el("form", { class: "query", role: "search", onsubmit: (event) => this.onquery(event) },
          el("label", { for: "search-query", class: "unseen" }, "Query"), this.query,
          el("button", { class: "strong" }, "Search")),
        el("div", { class: "search-row" },
          el("label", { for: "search-model" }, "Model"), this.model, this.picker,
          el("button", { type: "button", class: "quiet", onclick: () => this.picker.click() }, icon("attach"), "Add files"),
          el("form", { class: "note-form", onsubmit: (event) => this.onnote(event) },
            el("label", { for: "search-note", class: "unseen" }, "A line of text"), this.note,
            iconButton("plus", "Add this line", null, { type: "submit" })),
          el("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "Clear"))),
      this.state, this.results));
  }

  onpicked() {
    this.add([...this.picker.files]);
    this.picker.value = "";
  }

  onnote(event) {
    event.preventDefault();
    const text = this.note.value.trim();
    if (!text) return;
    this.note.value = "";
    this.add([new File([text], text.slice(0, 60), { type: "text/plain" })]);
  }

  async add(files) {
    const known = files.map(typed).filter((file) => kindOf(file.type) || complain(`${file.name} is no picture, sound, film, PDF or text`));
    for (let at = 0; at < known.length; at += TOGETHER) {
      const some = known.slice(at, at + TOGETHER);
      const items = await Promise.all(some.map(async (file) => ({ name: file.name, file, parts: [await namedPart(file)] })));
      await this.embed(items);
    }
  }

  /** Vectors for these, and a card for each. */
  async embed(items) {
    this.state.textContent = `Reading ${items.length} ${items.length === 1 ? "file" : "files"} …`;
    let vectors;
    try {
      vectors = await embed(this.model.value, items.map((item) => item.parts), "RETRIEVAL_DOCUMENT");
    } catch (error) {
      complain(error.message);
      this.tell();
      return;
    }
    items.forEach((item, at) => {
      item.vector = vectors[at];
      item.element ??= this.card(item);
      if (!this.items.includes(item)) this.items.push(item);
    });
    this.results.replaceChildren(...this.items.map((item) => item.element));
    this.tell();
  }

  card(item) {
    item.meter = el("meter", { min: 0, max: 1, value: 0, "aria-hidden": "true" });
    item.number = el("span", { class: "score" });
    const shown = kindOf(item.file.type) === "text" ? el("blockquote", {}, item.parts[0].text.slice(0, 300)) : preview(item.file);
    const like = el("button", { type: "button", class: "quiet small", onclick: () => this.rank(item.vector, `like ${item.name}`) }, "More like this");
    return el("li", { class: "result" }, el("div", { class: "seen" }, shown),
      el("div", { class: "result-foot" }, el("b", {}, item.name), el("div", { class: "result-score" }, item.meter, item.number), like));
  }

  async onquery(event) {
    event.preventDefault();
    const text = this.query.value.trim();
    if (!text || !this.items.length) {
      this.state.textContent = this.items.length ? "Write what you look for." : "Add some files first.";
      return;
    }
    try {
      const [vector] = await embed(this.model.value, [[{ text }]], "RETRIEVAL_QUERY");
      this.rank(vector, `for “${text}”`);
    } catch (error) {
      complain(error.message);
    }
  }

  /** The nearest first. */
  rank(vector, what) {
    for (const item of this.items) item.score = similarity(vector, item.vector);
    this.items.sort((a, b) => b.score - a.score);
    for (const item of this.items) {
      item.number.textContent = item.score.toFixed(3);
      item.meter.value = Math.max(0, item.score);
    }
    this.results.replaceChildren(...this.items.map((item) => item.element));
    this.state.textContent = `Best match ${what}: ${this.items[0].name}`;
    announce(this.state.textContent);
  }

  /** The same files with another model. */
  async again() {
    const items = this.items;
    for (const item of items) {
      item.number.textContent = "";
      item.meter.value = 0;
    }
    for (let at = 0; at < items.length; at += TOGETHER) await this.embed(items.slice(at, at + TOGETHER));
  }

  clear() {
    this.items = [];
    this.results.replaceChildren();
    this.tell();
  }

  tell() {
    const [first] = this.items;
    this.state.textContent = first
      ? `${this.items.length} in the index, ${first.vector.length} numbers each.`
      : "Nothing to search yet.";
  }
}
