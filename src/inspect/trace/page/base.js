"use strict";
const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);
const trace = read("trace");
const { sizes, tokens, lens, norms, mlp } = trace;
const N = tokens.length;
const L = sizes.layers;
const H = sizes.heads;

// Texts come into the page through text nodes and attributes alone: what a model wrote is never read as HTML.
const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// What would not be seen, or would turn the direction of what is near it, as a sign.
const SIGNS = { " ": "·", "\n": "↵", "\t": "⇥" };
const sign = (c) => SIGNS[c] ?? `⟨${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
const visible = (text) => text.replace(/[ \p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, sign) || "∅";
const textOf = (id) => visible(trace.texts[id]);

const number = (x) => {
  if (x === null) return "not finite";
  const size = Math.abs(x);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return x.toExponential(2);
  return size >= 1000 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3)));
};
const percent = (p) => (p > 0 && p < 0.0001 ? `${(100 * p).toExponential(1)} %` : `${Number((100 * p).toPrecision(3))} %`);
const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;
const MINUS = "−";
const signed = (x) => (x < 0 ? MINUS + number(-x) : `+${number(x)}`);

// What a token was expected with; the first is expected by nothing.
const expected = (token) => {
  if (token === 0) return null;
  const at = L * (N - 1) + token - 1;
  return { nll: trace.loss[token - 1], p: Math.exp(-trace.loss[token - 1]), rank: lens.next_rank[at] + 1 };
};
const quoted = (id) => `“${textOf(id)}”`;
const expectation = (token) => {
  const e = expected(token);
  return e === null ? "the first: nothing expects it"
    : `loss ${number(e.nll)} · probability ${percent(e.p)} · rank ${e.rank.toLocaleString("en")}`;
};

const tip = byId("tip");
const showTip = (event, ...lines) => {
  tip.replaceChildren(...lines.map((line) => make("div", { class: "line" }, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
};
const hideTip = () => { tip.hidden = true; };

// What is selected. `head` −1 is the mean of the heads; `depth` is a layer's output, or 0.
const state = { token: N - 1, layer: 0, depth: 1, head: -1, reads: false };
const panels = [];

// A panel is drawn when it can be seen, and again when something that it shows has changed.
const panel = (id, draw) => panels.push({ element: byId(id), draw, stale: true });
const AHEAD = 200;
const canBeSeen = ({ element }) => {
  const { top, bottom } = element.getBoundingClientRect();
  return bottom > -AHEAD && top < innerHeight + AHEAD;
};
const refresh = () => {
  for (const entry of panels.filter((entry) => entry.stale && canBeSeen(entry))) {
    entry.stale = false;
    entry.draw();
  }
};
const redraw = () => {
  for (const entry of panels) entry.stale = true;
  refresh();
};
const within = (x, most) => Math.min(Math.max(x, 0), most);
const select = (changes) => {
  Object.assign(state, changes);
  state.token = within(state.token, N - 1);
  state.layer = within(state.layer, L - 1);
  if (!("depth" in changes)) state.depth = state.layer + 1;
  redraw();
};
