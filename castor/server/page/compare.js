// Two models, or two ways to ask one, side by side. Votes stay in this browser, and give each side its Elo rating.

import { el } from "./dom.js";
import { Composer } from "./composer.js";
import { Settings } from "./settings.js";
import { Answer, question } from "./turn.js";
import { showCode } from "./code.js";

const VOTES = "castor-votes";
const STEP = 32; // of Elo's rating, after one vote
const START = 1000;

/** Ratings from votes in the order in which they were given: [{name, rating, votes}], the best first. */
export function ratings(votes) {
  const table = new Map();
  const of = (name) => table.get(name) ?? { name, rating: START, votes: 0 };
  for (const { left, right, score } of votes) {
    if (left === right) continue;
    const [a, b] = [of(left), of(right)];
    const expected = 1 / (1 + 10 ** ((b.rating - a.rating) / 400));
    const change = STEP * (score - expected);
    table.set(left, { name: left, rating: a.rating + change, votes: a.votes + 1 });
    table.set(right, { name: right, rating: b.rating - change, votes: b.votes + 1 });
  }
  return [...table.values()].sort((a, b) => b.rating - a.rating);
}

export class Compare {
  constructor(view, models) {
    this.lanes = [this.lane("a", models, models[0]), this.lane("b", models, models[1] ?? models[0])];
    this.outs = ["Left answer", "Right answer"].map((label) => el("ol", { class: "turns card", "aria-label": label }));
    this.asked = el("ol", { class: "turns" });
    this.isBlind = el("input", { type: "checkbox", id: "blind" });
    this.composer = new Composer({ id: "compare", label: "Ask both",
      check: () => this.lanes.every(({ settings, details }) => settings.check() || ((details.open = true), false)),
      onsend: (parts, text, files) => this.send(parts, text, files), onstop: () => this.lanes.forEach((lane) => lane.answer?.stop()) });
    this.ballot = el("div", { class: "ballot", role: "group", "aria-label": "Which answer is better?", hidden: true },
      ...[["Left is better", 1], ["As good", 0.5], ["Right is better", 0]].map(([label, score]) =>
        el("button", { type: "button", class: "quiet", onclick: () => this.vote(score) }, label)));
    this.table = el("div", { class: "elo" });
    this.start = el("div", { class: "welcome" }, el("h2", {}, "One question, two answers."),
      el("p", {}, "Choose two models, or two ways to ask one, and vote for the better answer. The votes stay in this browser."));
    view.append(el("div", { class: "compare" },
      el("div", { class: "scroller" },
        el("div", { class: "lanes contenders" }, ...this.lanes.map((lane) => lane.details)), this.start, this.asked,
        el("div", { class: "lanes" }, ...this.outs), this.ballot, this.table),
      el("p", { class: "check blind" }, this.isBlind, el("label", { for: "blind" }, "Hide which is which until I have voted")),
      this.composer.element));
    this.showRatings();
  }

  /** One of the two that are compared: its settings, under a line that sums them up. */
  lane(id, models, unasked) {
    const summed = el("span", { class: "summary" });
    const tell = (settings) => (summed.textContent = settings.summary);
    const settings = new Settings(`lane-${id}`, models, tell, unasked);
    const details = el("details", { class: "contender card" },
      el("summary", {}, el("b", { class: "letter" }, id.toUpperCase()), summed), settings.element);
    return { settings, details };
  }

  async send(parts, text, files) {
    this.ballot.hidden = this.start.hidden = true;
    this.asked.replaceChildren(question(text, files));
    const contents = [{ role: "user", parts }];
    const shown = this.isBlind.checked && Math.random() < 0.5 ? this.lanes.toReversed() : this.lanes;
    const [left, right] = shown.map((lane) => lane.settings.summary);
    const ended = await Promise.all(shown.map((lane, at) => this.ask(lane, this.outs[at], contents)));
    this.pair = { left, right };
    this.ballot.hidden = left === right || !ended.every(Boolean);
    if (this.ballot.hidden) for (const lane of this.lanes) lane.reveal();
    else this.ballot.scrollIntoView({ block: "nearest" });
  }

  /** The answer of one side, shown in `out`. */
  async ask(lane, out, contents) {
    const [isBlind, summary] = [this.isBlind.checked, lane.settings.summary];
    const request = { model: lane.settings.model, contents, ...lane.settings.request() };
    const { model, ...body } = request;
    const answer = (lane.answer = new Answer(isBlind ? "Which one?" : summary));
    lane.reveal = () => {
      answer.element.querySelector(".label").textContent = summary;
      answer.tools.hidden = answer.meter.hidden = false;
    };
    out.replaceChildren(answer.element);
    const isWhole = await answer.follow(model, body);
    answer.offer(el("button", { type: "button", class: "quiet small", onclick: () => showCode(request) }, "Code"));
    if (isBlind) answer.tools.hidden = answer.meter.hidden = true; // they could tell which one it is
    return isWhole;
  }

  vote(score) {
    const votes = [...this.votes, { ...this.pair, score, at: new Date().toISOString() }];
    localStorage.setItem(VOTES, JSON.stringify(votes));
    this.ballot.hidden = true;
    for (const lane of this.lanes) lane.reveal();
    this.showRatings();
    this.table.scrollIntoView({ block: "nearest" });
  }

  get votes() {
    return JSON.parse(localStorage.getItem(VOTES) || "[]");
  }

  showRatings() {
    const rows = ratings(this.votes).map(({ name, rating, votes }) => el("tr", {},
      el("th", { scope: "row" }, name), el("td", {}, String(Math.round(rating))), el("td", {}, String(votes))));
    if (!rows.length) {
      this.table.replaceChildren(el("p", { class: "note" }, "Vote after each pair of answers: the ratings appear here."));
      return;
    }
    const forget = el("button", { type: "button", class: "quiet small", onclick: () => this.forget() }, "Forget all votes");
    this.table.replaceChildren(el("table", {}, el("caption", {}, "Elo rating from your votes"),
      el("thead", {}, el("tr", {}, ...["Who", "Elo", "Votes"].map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, ...rows)), forget);
  }

  forget() {
    localStorage.removeItem(VOTES);
    this.showRatings();
  }
}
