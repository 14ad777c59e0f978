// Where a message is written: text, attached files, microphone, camera, and the button that sends or stops.

import { announce, complain, el, icon, iconButton } from "./dom.js";
import { ACCEPT, Tray, namedPart } from "./files.js";
import { Recorder, canRecord, takePicture } from "./record.js";

const GROWS = CSS.supports("field-sizing", "content"); // fields as high as their text, by the browser alone

export class Composer {
  /** `onsend(parts, text, files)` gets what was written if `check()` allows it; `onstop()` ends what it began. */
  constructor({ id, label, check, onsend, onstop }) {
    this.check = check;
    this.onsend = onsend;
    this.onstop = onstop;
    this.isBusy = false;
    this.tray = new Tray(() => this.refresh());
    this.field = el("textarea", {
      id: `${id}-field`, rows: 1, placeholder: label, "aria-label": label, enterkeyhint: "send",
      oninput: () => this.refresh(),
      onkeydown: (event) => this.onkey(event),
      onpaste: (event) => this.onpaste(event),
    });
    this.picker = el("input", { type: "file", multiple: true, accept: ACCEPT, class: "unseen", tabindex: "-1",
      "aria-label": "Choose files", onchange: () => this.onpicked() });
    this.main = el("button", { type: "submit", class: "send" });
    this.mic = iconButton("mic", "Record a voice note", () => this.record());
    this.camera = iconButton("camera", "Take a picture", () => this.photograph());
    this.mic.hidden = this.camera.hidden = !canRecord;
    this.element = el("form", { class: "composer", onsubmit: (event) => this.onsubmit(event) },
      this.tray.element,
      this.field,
      el("div", { class: "composer-row" },
        this.picker,
        iconButton("attach", "Attach files", () => this.picker.click()),
        this.mic, this.camera,
        el("span", { class: "hint" }, "Enter sends, Shift+Enter begins a line"),
        this.main));
    this.refresh();
  }

  set busy(isBusy) {
    this.isBusy = isBusy;
    this.refresh();
  }

  refresh() {
    const [name, label] = this.isBusy ? ["stop", "Stop"] : ["send", "Send"];
    this.main.replaceChildren(icon(name));
    this.main.setAttribute("aria-label", label);
    this.main.title = label;
    this.main.classList.toggle("stop", this.isBusy);
    this.main.disabled = !this.isBusy && !this.field.value.trim() && !this.tray.files.length;
    if (!GROWS && this.field.isConnected) {
      this.field.style.height = "auto";
      this.field.style.height = `${this.field.scrollHeight}px`;
    }
  }

  /** Put back what could not be sent. */
  restore(text, files) {
    this.field.value = text;
    this.tray.add(files);
    this.refresh();
    this.field.focus();
  }

  onkey(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!this.isBusy && !this.main.disabled) this.element.requestSubmit();
    } else if (event.key === "Escape" && this.isBusy) {
      this.onstop();
    }
  }

  onpaste(event) {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    this.tray.add(files);
  }

  onpicked() {
    this.tray.add(this.picker.files);
    this.picker.value = "";
    this.field.focus();
  }

  onsubmit(event) {
    event.preventDefault();
    if (this.isBusy) {
      this.onstop();
      return;
    }
    const text = this.field.value.trim();
    const files = this.tray.take();
    if (!text && !files.length) return;
    this.field.value = "";
    this.refresh();
    this.submit(text, files);
  }

  /** Hand over a message as parts of a request: files first, as models are used to it. Else it is put back. */
  async submit(text, files) {
    if (this.isBusy) return;
    if (!this.check()) {
      this.restore(text, files);
      return;
    }
    await this.during(async () => {
      let parts;
      try {
        parts = await Promise.all(files.map(namedPart));
      } catch (error) {
        complain(error.message);
        this.restore(text, files);
        return;
      }
      await this.onsend(text ? [...parts, { text }] : parts, text, files);
    });
  }

  /** Busy until `work` is done, unless it was released meanwhile. */
  async during(work) {
    const turn = (this.turn = {});
    this.busy = true;
    try {
      await work();
    } finally {
      if (this.turn === turn) this.busy = false;
    }
  }

  /** Ready for the next message, whatever is still under way. */
  release() {
    this.turn = null;
    this.busy = false;
  }

  async record() {
    if (this.recorder) {
      const recorder = this.recorder;
      this.recorder = null;
      this.showRecording(false);
      await this.guarded(async () => this.tray.add([await recorder.stop()]), "the recording cannot be read");
    } else {
      await this.guarded(async () => {
        this.recorder = await Recorder.start();
        this.showRecording(true);
      }, "there is no microphone, or it may not be used");
    }
  }

  showRecording(isOn) {
    const label = isOn ? "Stop recording" : "Record a voice note";
    this.mic.setAttribute("aria-label", label);
    this.mic.title = label;
    this.mic.setAttribute("aria-pressed", String(isOn));
    this.mic.classList.toggle("recording", isOn);
    announce(isOn ? "Recording" : "Recorded");
  }

  async photograph() {
    await this.guarded(async () => {
      const file = await takePicture();
      if (file) this.tray.add([file]);
    }, "there is no camera, or it may not be used");
  }

  async guarded(work, reason) {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      complain(`${reason} (${error.name})`);
    }
  }
}
