// Files that a person gives: which kinds there are, how they look, and the tray that holds them until they are sent.

import { bytes, complain, el, icon, iconButton } from "./dom.js";
import { partOf } from "./api.js";

const BY_ENDING = {
  png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", webp: "image/webp", gif: "image/gif", bmp: "image/bmp",
  avif: "image/avif", heic: "image/heic", tif: "image/tiff", tiff: "image/tiff",
  wav: "audio/wav", mp3: "audio/mpeg", flac: "audio/flac", ogg: "audio/ogg", opus: "audio/ogg", m4a: "audio/mp4",
  aac: "audio/aac", aiff: "audio/aiff",
  mp4: "video/mp4", mov: "video/quicktime", webm: "video/webm", mkv: "video/x-matroska", avi: "video/x-msvideo",
  pdf: "application/pdf", txt: "text/plain", md: "text/plain", csv: "text/csv", json: "application/json",
};
const READ_BY_SERVER = /^image\/(png|jpeg|webp|gif|bmp|tiff|avif)$/;
export const ACCEPT = "image/*,audio/*,video/*,application/pdf,text/*,.md,.json,.flac,.mkv,.opus";
const names = new WeakMap(); // the file's name for each part that came from one

/** "image", "audio", "video", "page" or "text"; "" for what no model reads. */
export function kindOf(type) {
  if (type === "application/pdf") return "page";
  if (/^text\/|json$/.test(type)) return "text";
  return /^(image|audio|video)\//.exec(type)?.[1] ?? "";
}

export function nameOf(part) {
  return names.get(part) ?? "";
}

/** A part of a request from a file, which remembers the file's name. */
export async function namedPart(file) {
  const part = await partOf(await readable(typed(file)));
  names.set(part, file.name);
  return part;
}

/** The file with a type, where the browser knows none. */
export function typed(file) {
  const type = file.type || BY_ENDING[file.name.split(".").pop().toLowerCase()] || "";
  return type === file.type ? file : new File([file], file.name, { type });
}

/** Pictures of a kind that only this device reads (such as HEIC) as PNG. */
async function readable(file) {
  if (kindOf(file.type) !== "image" || READ_BY_SERVER.test(file.type)) return file;
  const picture = await createImageBitmap(file);
  const canvas = el("canvas", { width: picture.width, height: picture.height });
  canvas.getContext("2d").drawImage(picture, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], file.name, { type: "image/png" });
}

/** What a file looks or sounds like. */
export function preview(file) {
  const kind = kindOf(file.type);
  const url = URL.createObjectURL(file);
  if (kind === "image") return picture(url, file.name);
  if (kind === "audio") return el("audio", { src: url, controls: true, "aria-label": file.name });
  if (kind === "video") return el("video", { src: url, controls: true, muted: true, playsinline: true, "aria-label": file.name });
  return el("span", { class: "paper" }, icon("page"), el("span", {}, el("b", {}, file.name), bytes(file.size)));
}

/** A picture; small ones are shown larger, with their pixels as they are. */
export function picture(url, name) {
  const image = el("img", { src: url, alt: name });
  image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth < 200));
  return image;
}

/** The files that go with the next message. */
export class Tray {
  constructor(onchange = () => {}) {
    this.element = el("ul", { class: "tray", "aria-label": "Attached files" });
    this.files = [];
    this.onchange = onchange;
  }

  add(files) {
    for (const file of [...files].map(typed)) {
      if (!kindOf(file.type)) {
        complain(`${file.name} is no picture, sound, film, PDF or text`);
        continue;
      }
      const item = el("li", { class: `thumb ${kindOf(file.type)}` }, preview(file));
      item.append(iconButton("close", `Remove ${file.name}`, () => this.remove(file, item)));
      this.files.push(file);
      this.element.append(item);
    }
    this.onchange();
  }

  remove(file, item) {
    this.files = this.files.filter((other) => other !== file);
    item.remove();
    this.onchange();
  }

  /** All of them, and the tray is empty. */
  take() {
    const files = this.files;
    this.files = [];
    this.element.replaceChildren();
    this.onchange();
    return files;
  }
}
