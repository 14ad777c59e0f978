// One message on the page: what a person said, and an answer as it comes, with what it cost.

import { Failure, stream } from "./api.js";
import { announce, complain, el, icon, iconButton } from "./dom.js";
import { picture, preview } from "./files.js";
import { prose } from "./prose.js";

const MODALITIES = { TEXT: "text", IMAGE: "picture", AUDIO: "sound", VIDEO: "film", DOCUMENT: "page" };
const ENDS = { MAX_TOKENS: "cut off at the most tokens allowed", SAFETY: "blocked", PROHIBITED_CONTENT: "blocked" };

/** What a person said. */
export function question(text, files) {
  const given = el("ul", { class: "given" }, ...files.map((file) => el("li", {}, preview(file))));
  return el("li", { class: "turn user" }, el("h3", { class: "unseen" }, "You"),
    files.length ? given : null, text ? el("p", { class: "said" }, text) : null);
}

/** An answer that is under way or has ended. */
export class Answer {
  constructor(label) {
    this.parts = []; // as they go back into the next request
    this.body = el("div", { class: "said", "aria-busy": "true" }, el("span", { class: "waiting", "aria-label": "Waiting" }));
    this.meter = el("div", { class: "meter" });
    this.tools = el("div", { class: "tools" });
    this.element = el("li", { class: "turn model" }, el("h3", { class: "label" }, label), this.body,
      el("div", { class: "under" }, this.meter, this.tools));
    this.abort = new AbortController();
  }

  get text() {
    return this.parts.filter((part) => part.text && !part.thought).map((part) => part.text).join("");
  }

  stop() {
    this.abort.abort();
  }

  /** Ask, and show what comes until it ends. True where it ended by itself. */
  async follow(model, body) {
    const begun = performance.now();
    let [first, last, used, end] = [0, 0, null, ""];
    try {
      for await (const piece of stream(model, body, this.abort.signal)) {
        last = performance.now();
        first ||= last;
        const candidate = piece.candidates?.[0];
        for (const part of candidate?.content?.parts ?? []) this.take(part);
        end = candidate?.finishReason ?? piece.promptFeedback?.blockReason ?? end;
        used = piece.usageMetadata ?? used;
      }
    } catch (error) {
      if (error.name === "AbortError") end = "stopped";
      else if (error instanceof Failure) this.fail(error);
      else throw error;
    }
    this.ended(end);
    if (first) this.measure({ waited: first - begun, spoke: last - first, used, end });
    return Boolean(end) && end !== "stopped";
  }

  take(part) {
    const before = this.parts.at(-1);
    if (part.text === "") return;
    if (part.text !== undefined && before?.text !== undefined && Boolean(before.thought) === Boolean(part.thought)) {
      before.text += part.text;
      this.renew();
      return;
    }
    this.finishBlock();
    this.parts.push({ ...part });
    this.block = el("div", { class: "block" });
    this.body.querySelector(".waiting")?.remove();
    this.body.append(this.block);
    if (part.text !== undefined) this.renew();
    else this.block.append(part.inlineData ? drawn(part.inlineData) : call(part));
  }

  /** Show the text so far, at most once for each picture of the screen. */
  renew() {
    this.frame ??= requestAnimationFrame(() => this.finishBlock());
  }

  finishBlock() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const part = this.parts.at(-1);
    if (part?.text === undefined) return;
    const shown = prose(part.text);
    if (part.thought) this.block.replaceChildren(el("details", { class: "thought" }, el("summary", {}, "Thoughts"), shown));
    else this.block.replaceChildren(shown);
  }

  ended(end) {
    this.finishBlock();
    this.body.removeAttribute("aria-busy");
    this.body.querySelector(".waiting")?.remove();
    if (!this.parts.length && !this.failure) this.body.append(el("p", { class: "empty" }, end === "stopped" ? "Stopped before anything was said" : "Nothing was said"));
    announce(this.failure ? `Failed: ${this.failure}` : `Answer: ${this.text || "a picture"}`);
  }

  fail(error) {
    this.failure = error.message;
    const later = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    this.body.append(el("p", { class: "failure" }, error.message + later));
  }

  measure({ waited, spoke, used, end }) {
    const count = used?.candidatesTokenCount ?? 0;
    const isDrawnFirst = Boolean(this.parts[0]?.inlineData); // a picture comes when all of its tokens are there
    const facts = [fact(isDrawnFirst ? "first picture" : "first token", seconds(waited))];
    const [said, over] = isDrawnFirst ? [count, waited + spoke] : [count - 1, spoke];
    if (said > 0 && over > 0) facts.push(fact("tokens/s", ((1000 * said) / over).toFixed(1)));
    if (used) facts.push(tokens("in", used.promptTokensDetails, used.promptTokenCount));
    if (count) facts.push(tokens("out", used.candidatesTokensDetails, count));
    if (end === "stopped") facts.push(el("span", { class: "fact" }, "stopped"));
    if (ENDS[end]) facts.push(el("span", { class: "fact warn" }, ENDS[end]));
    this.meter.replaceChildren(...facts);
  }

  /** Buttons under the answer. */
  offer(...buttons) {
    const copy = iconButton("copy", "Copy the answer", async () => {
      await copyText(this.text);
    });
    this.tools.replaceChildren(...(this.text ? [copy] : []), ...buttons);
  }
}

/** Put a text on the clipboard, and say so. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
    return true;
  } catch {
    complain("The browser does not let this page copy; select the text instead");
    return false;
  }
}

function seconds(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

function fact(label, value) {
  return el("span", { class: "fact" }, el("b", {}, value), ` ${label}`);
}

/** Tokens by modality: "26 in" with a bar of what they were. */
function tokens(direction, details, total) {
  const shares = (details ?? []).filter((one) => one.tokenCount);
  const words = shares.map((one) => `${one.tokenCount} ${MODALITIES[one.modality] ?? one.modality.toLowerCase()}`);
  const bar = el("span", { class: "bar-of-tokens", "aria-hidden": "true" });
  for (const one of shares) {
    const piece = el("i", { class: one.modality.toLowerCase() });
    piece.style.flexGrow = String(one.tokenCount);
    bar.append(piece);
  }
  return el("span", { class: "fact", title: words.join(", ") }, el("b", {}, String(total)), ` ${direction} `, bar,
    el("small", {}, words.join(" + ")));
}

/** A picture that the model drew, and a way to keep it. */
function drawn({ mimeType, data }) {
  const url = `data:${mimeType};base64,${data}`;
  const name = `drawing.${mimeType.split("/")[1]}`;
  const save = el("a", { href: url, download: name, class: "icon-button", "aria-label": "Save the picture", title: "Save the picture" }, icon("save"));
  return el("figure", { class: "drawn" }, picture(url, "A picture that the model drew"), save);
}

function call(part) {
  return el("pre", { tabindex: "0" }, el("code", {}, JSON.stringify(part.functionCall ?? part, null, 2)));
}
