// The page: which models there are, which view is shown, the theme, the key, and files that are dropped anywhere.

import { apiKey, listModels } from "./api.js";
import { byId, complain, icon, tabs } from "./dom.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { Search } from "./search.js";

const THEMES = ["", "light", "dark"]; // "" follows the device
let views = {};
let shown = "chat";

async function start() {
  let models;
  try {
    models = await listModels();
  } catch (error) {
    if (error.status !== 401) complain(error.message);
    return;
  }
  for (const name of ["chat", "compare", "search"]) byId(`view-${name}`).replaceChildren();
  const talkers = models.filter((model) => model.methods.includes("generateContent"));
  const embedders = models.filter((model) => model.methods.some((name) => /embedContents?$/i.test(name)));
  views = {};
  if (talkers.length) {
    views.chat = new Chat(byId("view-chat"), talkers);
    views.compare = new Compare(byId("view-compare"), talkers);
  }
  if (embedders.length) views.search = new Search(byId("view-search"), embedders);
  for (const name of ["chat", "compare", "search"]) byId(`tab-${name}`).hidden = !views[name];
  if (!views[shown]) shown = Object.keys(views)[0] ?? "chat";
  select(byId(`tab-${shown}`), false);
  views.chat?.composer.field.focus({ preventScroll: true });
}

const select = tabs(document.querySelector(".bar .tabs"), (tab) => {
  shown = tab.id.replace("tab-", "");
  for (const name of ["chat", "compare", "search"]) byId(`view-${name}`).hidden = name !== shown;
});

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "";
  const [name, label] = { "": ["auto", "Theme: as the device"], light: ["sun", "Theme: light"], dark: ["moon", "Theme: dark"] }[theme];
  const button = byId("theme-button");
  button.replaceChildren(icon(name));
  button.title = label;
  button.setAttribute("aria-label", label);
}

function nextTheme() {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  if (next) localStorage.setItem("castor-theme", next);
  else localStorage.removeItem("castor-theme");
  showTheme();
}

function askForKey() {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  byId("key-field").value = apiKey.get();
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "save") return;
    apiKey.set(byId("key-field").value.trim());
    start();
  };
  dialog.showModal();
}

function acceptDrops() {
  const hint = byId("drop-hint");
  let depth = 0; // of elements that the pointer is inside of
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (change) => {
    depth = Math.max(0, depth + change);
    hint.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && (event.preventDefault(), show(1)));
  addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(-depth);
    const view = views[shown];
    if (view?.composer) view.composer.tray.add(event.dataTransfer.files);
    else view?.add([...event.dataTransfer.files]);
    view?.composer?.field.focus();
  });
}

byId("key-button").append(icon("key"));
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("code-close").append(icon("close"));
byId("key-button").addEventListener("click", askForKey);
byId("theme-button").addEventListener("click", nextTheme);
addEventListener("castor:key-wanted", askForKey);
addEventListener("unhandledrejection", (event) => complain(String(event.reason?.message ?? event.reason)));
showTheme();
acceptDrops();
start();
