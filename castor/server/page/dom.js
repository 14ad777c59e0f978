// Elements, icons and short messages. Text enters the page as text only, never as HTML.

const PATHS = {
  attach: "M21 11.5 12.5 20a5.5 5.5 0 0 1-8-8L13 3.5a3.7 3.7 0 0 1 5.3 5.300L10 17a1.8 1.8 0 0 1-2.6-2.600L15 7",
  mic: "M12 3a3 3 0 0 1 3 3v6a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3zM5 11a7 7 0 0 0 14 0M12 18v3",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 17a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z",
  send: "M12 20V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  close: "M6 6l12 12M18 6 6 18",
  key: "M15 9.5a4.5 4.5 0 1 1-2.2-3.900A4.5 4.5 0 0 1 15 9.5zM14 12l7 7M18 16l2-2",
  sun: "M12 17a5 5 0 1 0 0-10 5 5 0 0 0 0 10zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.400M17.6 17.6 19 19M5 19l1.4-1.400M17.6 6.4 19 5",
  moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
  auto: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  code: "M8 7l-5 5 5 5M16 7l5 5-5 5",
  again: "M4 12a8 8 0 0 1 14-5.300L20 9M20 4v5h-5M20 12a8 8 0 0 1-14 5.300L4 15M4 20v-5h5",
  sliders: "M4 7h10M18 7h2M4 17h2M10 17h10M16 9.200a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.400zM8 19.200a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.400z",
  plus: "M12 5v14M5 12h14",
  brush: "M20 4c-5 2-9 6-10.5 9.5L12 16c3.5-1.5 6.5-6 8-12zM9 14c-2.5 0-3.5 2-3.5 4 0 1-.8 1.8-2 2 3 1 7.5.5 8-3.5",
  sum: "M17 5H7l6 7-6 7h10",
  save: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  page: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  sound: "M4 10v4M8 6v12M12 3v18M16 8v8M20 10v4",
  film: "M4 5h16v14H4zM10 9l5 3-5 3z",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
};

/** An element with attributes (or listeners, for names that begin with "on") and children. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A drawing of 24 by 24 in the colour of the text around it; says nothing to screen readers. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

export function iconButton(name, label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name));
}

export function byId(id) {
  return document.getElementById(id);
}

/** Tell those who listen to the page. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** A message of something that went wrong; goes after a while, or when it is closed. */
export function complain(text) {
  const toast = el("div", { class: "toast" }, el("span", {}, text));
  toast.append(iconButton("close", "Dismiss", () => toast.remove()));
  byId("toasts").append(toast);
  setTimeout(() => toast.remove(), 12_000);
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB"];
  let at = 0;
  for (; count >= 1000 && at < 3; at++) count /= 1000;
  return `${at && count < 10 ? count.toFixed(1) : Math.round(count)} ${units[at]}`;
}

/** A row of tabs: arrows move between them, and `choose` is told which one is chosen. */
export function tabs(list, choose) {
  const all = () => [...list.querySelectorAll("[role=tab]:not([hidden])")];
  const select = (tab, focus) => {
    for (const other of list.querySelectorAll("[role=tab]")) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
    }
    if (focus) tab.focus();
    choose(tab);
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) select(tab, false);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const row = all();
    event.preventDefault();
    select(row[(row.indexOf(document.activeElement) + step + row.length) % row.length], true);
  });
  return select;
}
