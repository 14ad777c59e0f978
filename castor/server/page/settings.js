// How a model shall answer: a form, kept in the browser, and the fields of a request that it stands for.

import { el } from "./dom.js";

const NUMBERS = [
  { key: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, unset: "0",
    hint: "0 takes the likeliest token; higher is more varied" },
  { key: "topP", label: "Top-p", min: 0, max: 1, step: 0.01, unset: "1", hint: "of the likeliest tokens, as many as make up this share" },
  { key: "topK", label: "Top-k", min: 1, max: 1000, step: 1, unset: "all" },
  { key: "maxOutputTokens", label: "Max tokens", min: 1, max: 1_000_000, step: 1, unset: "server's" },
  { key: "seed", label: "Seed", min: 0, max: 2 ** 31 - 1, step: 1, unset: "random" },
];
const FORMS = { "": "Text and pictures", TEXT: "Text only", IMAGE: "Pictures only" };

export class Settings {
  /** `id` makes the labels' names unique and is where the choices are kept. */
  constructor(id, models, onchange = () => {}, unasked = models[0]) {
    this.id = id;
    this.models = models;
    this.onchange = onchange;
    this.unasked = unasked.name; // the model, until one is chosen
    this.fields = {};
    const kept = JSON.parse(localStorage.getItem(`castor-${id}`) || "{}");
    this.element = el("form", { class: "settings", onsubmit: (event) => event.preventDefault() },
      this.modelField(),
      this.labelled("system", "System instruction", el("textarea", { rows: 3, placeholder: "none" })),
      el("div", { class: "pair" }, ...NUMBERS.map((number) => this.numberField(number))),
      this.labelled("form", "Answer", el("select", {},
        ...Object.entries(FORMS).map(([value, label]) => el("option", { value }, label)))),
      this.labelled("schema", "JSON schema", el("textarea", { rows: 4, spellcheck: "false", class: "mono",
        placeholder: '{"type": "object", "properties": …}' })),
      this.thinkingField(),
      el("button", { type: "button", class: "quiet", onclick: () => this.reset() }, "Reset"));
    this.problem = el("p", { class: "problem", role: "alert", hidden: true });
    this.fields.schema.after(this.problem);
    this.fill(kept);
    this.element.addEventListener("input", () => this.changed());
    this.changed();
  }

  labelled(key, label, field, hint) {
    field.id = `${this.id}-${key}`;
    this.fields[key] = field;
    return el("div", { class: "field", title: hint }, el("label", { for: field.id }, label), field);
  }

  modelField() {
    const options = this.models.map((model) => el("option", { value: model.name }, model.name));
    return this.labelled("model", "Model", el("select", {}, ...options));
  }

  numberField({ key, label, min, max, step, unset, hint }) {
    return this.labelled(key, label,
      el("input", { type: "number", min, max, step, placeholder: unset, inputmode: "decimal" }), hint);
  }

  thinkingField() {
    this.fields.thinks = el("input", { type: "checkbox", id: `${this.id}-thinks` });
    this.thinking = el("div", { class: "check" }, this.fields.thinks, el("label", { for: `${this.id}-thinks` }, "Think first, and show it"));
    return this.thinking;
  }

  fill(kept) {
    for (const [key, field] of Object.entries(this.fields)) {
      if (field.type === "checkbox") field.checked = Boolean(kept[key]);
      else if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === kept[key])) field.value = kept[key] ?? "";
    }
    if (!this.models.some((model) => model.name === kept.model)) this.fields.model.value = this.unasked;
  }

  reset() {
    this.fill({ model: this.model });
    this.changed();
  }

  changed() {
    const kept = Object.fromEntries(Object.entries(this.fields).map(([key, field]) => [key, field.type === "checkbox" ? field.checked : field.value]));
    localStorage.setItem(`castor-${this.id}`, JSON.stringify(kept));
    this.thinking.hidden = !this.models.find((model) => model.name === this.model)?.thinks;
    const wrong = this.schemaProblem();
    this.problem.hidden = !wrong;
    this.problem.textContent = wrong;
    this.onchange(this);
  }

  get model() {
    return this.fields.model.value;
  }

  schemaProblem() {
    const text = this.fields.schema.value.trim();
    if (!text) return "";
    try {
      const value = JSON.parse(text);
      return value && typeof value === "object" && !Array.isArray(value) ? "" : "a schema is a JSON object";
    } catch (error) {
      return `not JSON: ${error.message}`;
    }
  }

  /** Whether everything that is written here can be sent; else the first wrong field is shown. */
  check() {
    if (this.schemaProblem()) this.fields.schema.focus();
    return !this.schemaProblem() && this.element.reportValidity();
  }

  /** generationConfig and systemInstruction of a request, without what is left open. */
  request() {
    const config = {};
    for (const { key } of NUMBERS) if (this.fields[key].value !== "") config[key] = Number(this.fields[key].value);
    if (this.fields.form.value) config.responseModalities = [this.fields.form.value];
    const schema = this.fields.schema.value.trim();
    if (schema && !this.schemaProblem()) Object.assign(config, { responseMimeType: "application/json", responseJsonSchema: JSON.parse(schema) });
    if (!this.thinking.hidden) config.thinkingConfig = this.fields.thinks.checked ? { includeThoughts: true } : { thinkingBudget: 0 };
    const system = this.fields.system.value.trim();
    return { ...(system && { systemInstruction: { parts: [{ text: system }] } }), generationConfig: config };
  }

  /** The model and whatever differs from how it answers unasked, in a few words. */
  get summary() {
    const { generationConfig: config, systemInstruction } = this.request();
    const said = NUMBERS.filter(({ key }) => config[key] !== undefined).map(({ key, label }) => `${label.toLowerCase()} ${config[key]}`);
    if (config.responseModalities) said.push(FORMS[config.responseModalities[0]].toLowerCase());
    if (config.responseJsonSchema) said.push("JSON schema");
    if (config.thinkingConfig?.includeThoughts) said.push("thinking");
    if (systemInstruction) said.push(`“${systemInstruction.parts[0].text.slice(0, 40)}”`);
    return [this.model, ...said].join(" · ");
  }
}
