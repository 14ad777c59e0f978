// The chat: turns, the settings beside them, and what to try first.

import { el, icon, iconButton } from "./dom.js";
import { Composer } from "./composer.js";
import { Settings } from "./settings.js";
import { Answer, question } from "./turn.js";
import { showCode } from "./code.js";

const SAMPLES = [
  { icon: "picture", label: "A picture", file: "scene.png", text: "How many red shapes are there?" },
  { icon: "sound", label: "A recording", file: "speech.wav", text: "What is said here?" },
  { icon: "film", label: "A film", file: "clip.mp4", text: "What moves, and where to?" },
  { icon: "page", label: "A page", file: "page.pdf", text: "What does the title say?" },
  { icon: "brush", label: "A drawing", text: "Draw a large red circle left of a small blue square." },
  { icon: "sum", label: "A sum", text: "What is 27 + 48?" },
];

export class Chat {
  constructor(view, models) {
    this.contents = [];
    this.turns = el("ol", { class: "turns" });
    this.composer = new Composer({ id: "chat", label: "Ask, or drop a file",
      check: () => this.settings.check() || (this.showSettings(true), false),
      onsend: (parts, text, files) => this.send(parts, text, files), onstop: () => this.answer?.stop() });
    this.title = el("span", { class: "summary" });
    this.settings = new Settings("settings", models, (settings) => (this.title.textContent = settings.summary));
    this.panel = el("aside", { class: "panel", id: "settings-panel", "aria-label": "Settings" },
      el("div", { class: "panel-head" }, el("h2", {}, "Settings"),
        iconButton("close", "Close the settings", () => this.showSettings(false), { class: "icon-button narrow-only" })),
      this.settings.element);
    this.opener = el("button", { type: "button", class: "pill", "aria-expanded": "false", "aria-controls": "settings-panel",
      onclick: () => this.showSettings(!this.panel.classList.contains("open")) }, icon("sliders"), this.title);
    this.scroller = el("div", { class: "scroller" }, this.welcome(), this.turns);
    view.append(el("div", { class: "talk" },
      el("div", { class: "talk-bar" }, this.opener,
        el("button", { type: "button", class: "pill", onclick: () => this.clear() }, icon("plus"), el("span", {}, "New chat"))),
      this.scroller, this.composer.element), this.panel);
    // An answer is followed to its end, unless the reader scrolls away from it.
    this.scroller.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.scroller;
      this.follows = scrollHeight - scrollTop - clientHeight < 60 || (this.follows && scrollTop >= this.lastTop);
      this.lastTop = scrollTop;
    });
    new ResizeObserver(() => this.follows && (this.scroller.scrollTop = this.scroller.scrollHeight)).observe(this.turns);
    this.panel.addEventListener("keydown", (event) => event.key === "Escape" && this.showSettings(false));
  }

  welcome() {
    const chips = SAMPLES.map((sample) => el("button", { type: "button", class: "sample", onclick: () => this.trySample(sample) },
      icon(sample.icon), el("b", {}, sample.label), el("span", {}, sample.text)));
    return (this.start = el("div", { class: "welcome" },
      el("h2", {}, "Show it, say it, or ask it."),
      el("p", {}, "Drop a picture, a film or a PDF, record a question, or write one. Everything stays on this server."),
      el("div", { class: "samples" }, ...chips)));
  }

  async trySample({ file, text }) {
    const files = [];
    if (file) {
      const blob = await (await fetch(`/playground/${file}`)).blob();
      files.push(new File([blob], file, { type: blob.type }));
    }
    await this.composer.submit(text, files);
  }

  showSettings(isOpen) {
    this.panel.classList.toggle("open", isOpen);
    this.opener.setAttribute("aria-expanded", String(isOpen));
    (isOpen ? this.settings.fields.model : this.opener).focus();
  }

  clear() {
    this.answer?.stop();
    this.contents = [];
    this.turns.replaceChildren();
    this.start.hidden = false;
    this.composer.release();
    this.composer.field.focus();
  }

  async send(parts, text, files) {
    this.start.hidden = true;
    this.turns.append(question(text, files));
    await this.ask([...this.contents, { role: "user", parts }]);
  }

  /** An answer to `contents`, whose last message is the user's. */
  async ask(contents) {
    const request = { model: this.settings.model, contents, ...this.settings.request() };
    const { model, ...body } = request;
    const answer = (this.answer = new Answer(model));
    this.turns.append(answer.element);
    this.follows = true;
    await answer.follow(model, body);
    if (this.answer !== answer || !answer.element.isConnected) return; // a new chat was begun meanwhile
    const said = answer.parts.filter((part) => !part.thought);
    this.contents = said.length ? [...contents, { role: "model", parts: said }] : contents.slice(0, -1);
    answer.offer(
      iconButton("again", "Ask again", () => this.again(answer, contents)),
      iconButton("code", "This request as code", () => showCode(request)));
  }

  again(answer, contents) {
    if (this.composer.isBusy) return;
    for (let next = answer.element; next; ) {
      const gone = next;
      next = next.nextElementSibling;
      gone.remove();
    }
    this.composer.during(() => this.ask(contents));
  }
}
