// What a model writes, as elements. A small part of Markdown; everything else stays as it was written.

import { el } from "./dom.js";

/** Paragraphs, lists, headings and code of a text. */
export function prose(text) {
  const out = document.createDocumentFragment();
  const fences = text.split(/^```([\w+-]*)[^\n]*\n?/m); // text, language, code, language, text, ...
  for (let at = 0; at < fences.length; at += 2) {
    const isCode = (at / 2) % 2 === 1;
    if (isCode) out.append(el("pre", { tabindex: "0" }, el("code", {}, fences[at].replace(/\n$/, ""))));
    else blocks(fences[at], out);
  }
  return out;
}

function blocks(text, out) {
  for (const block of text.split(/\n{2,}/)) {
    if (!block.trim()) continue;
    const lines = block.split("\n");
    const heading = /^(#{1,4}) +(.*)$/.exec(lines[0]);
    if (heading && lines.length === 1) {
      out.append(el(`h${heading[1].length + 2}`, {}, inline(heading[2])));
    } else if (lines.every((line) => /^\s*([-*]|\d+[.)]) +/.test(line))) {
      const isNumbered = /^\s*\d/.test(lines[0]);
      const items = lines.map((line) => el("li", {}, inline(line.replace(/^\s*([-*]|\d+[.)]) +/, ""))));
      out.append(el(isNumbered ? "ol" : "ul", isNumbered ? { start: parseInt(lines[0], 10) } : {}, ...items));
    } else {
      out.append(el("p", {}, inline(block)));
    }
  }
}

function inline(text) {
  const out = document.createDocumentFragment();
  for (const piece of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    if (/^`[^`]+`$/.test(piece)) out.append(el("code", {}, piece.slice(1, -1)));
    else if (/^\*\*[^*]+\*\*$/.test(piece)) out.append(el("strong", {}, piece.slice(2, -2)));
    else out.append(piece);
  }
  return out;
}
