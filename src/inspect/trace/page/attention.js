// Attention: a byte a weight in the page, unpacked when a layer is first looked at.
const levels = read("levels");
const unpacked = new Map();
const PAIRS = (N * (N + 1)) / 2;
const pairAt = (query, key) => (query * (query + 1)) / 2 + key;
const reachOf = (layer) => (sizes.windows[layer] ? `sliding window ${sizes.windows[layer].toLocaleString("en")}` : "all before");

const unpack = async (layer) => {
  const bytes = Uint8Array.from(atob(read(`attention-${layer}`)), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const steps = new Uint8Array(await new Response(stream).arrayBuffer());
  const means = new Float32Array(PAIRS);
  const top = levels - 1;
  steps.forEach((step, i) => { means[i % PAIRS] += (step / top) ** 2 / H; });
  unpacked.set(layer, { steps, means });
  if (state.layer === layer) redraw();
};
const pending = new Set();
const ready = (layer) => {
  if (levels === null) return null;
  if (!unpacked.has(layer) && !pending.has(layer)) {
    pending.add(layer);
    unpack(layer);
  }
  return unpacked.get(layer) ?? null;
};
const weightOf = ({ steps, means }, head, query, key) =>
  head < 0 ? means[pairAt(query, key)] : (steps[head * PAIRS + pairAt(query, key)] / (levels - 1)) ** 2;
const rowOf = (layer, query) => {
  const layerWeights = ready(layer);
  return layerWeights && Array.from({ length: query + 1 }, (_, key) => weightOf(layerWeights, state.head, query, key));
};
const headName = (head) => (head < 0 ? "mean of heads" : `head ${head}`);
const readLine = (query, key) => {
  const layerWeights = ready(state.layer);
  if (!layerWeights) return "unpacking";
  return `layer ${state.layer}, ${headName(state.head)}: ${query} ${quoted(tokens[query])} → ${key} ${quoted(tokens[key])}: ` +
    `weight ${weightOf(layerWeights, state.head, query, key).toFixed(4)}`;
};

// 256 colours from no weight to all of it.
const rgb = (name) => {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
};
let ramp;
const mixRamp = () => {
  const [low, middle, high] = ["--low", "--attention", "--high"].map(rgb);
  ramp = new Uint32Array(256);
  const bytes = new Uint8Array(ramp.buffer);
  for (let i = 0; i < 256; i += 1) {
    const t = i / 255;
    const [from, to, share] = t < 0.6 ? [low, middle, t / 0.6] : [middle, high, (t - 0.6) / 0.4];
    for (let c = 0; c < 3; c += 1) bytes[4 * i + c] = from[c] + share * (to[c] - from[c]);
    bytes[4 * i + 3] = 255;
  }
};
mixRamp();

// A map of `size`² pixels; where a pixel holds several pairs, it shows their largest weight. What cannot be looked at stays clear.
const paint = (canvas, layerWeights, head, size) => {
  canvas.width = size;
  canvas.height = size;
  const most = new Int16Array(size * size).fill(-1);
  const window = sizes.windows[state.layer] ?? N;
  const column = Array.from({ length: N }, (_, i) => Math.floor((i * size) / N));
  const first = head * PAIRS;
  const factor = 255 / (levels - 1);
  for (let query = 0; query < N; query += 1) {
    const row = column[query] * size;
    const pairs = pairAt(query, 0);
    for (let key = Math.max(0, query + 1 - window); key <= query; key += 1) {
      const step = head < 0 ? 255 * Math.sqrt(layerWeights.means[pairs + key]) : layerWeights.steps[first + pairs + key] * factor;
      if (step > most[row + column[key]]) most[row + column[key]] = step;
    }
  }
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const pixels = new Uint32Array(image.data.buffer);
  most.forEach((step, i) => { if (step >= 0) pixels[i] = ramp[step]; });
  context.putImageData(image, 0, 0);
};

const heads = Array.from({ length: H + 1 }, (_, i) => {
  const button = make("button", { type: "button", "aria-pressed": "false" }, make("canvas"), headName(i - 1));
  button.addEventListener("click", () => select({ head: i - 1 }));
  return button;
});
byId("heads").append(...heads);
const map = byId("map");
const mapCanvas = map.querySelector("canvas");
const place = (element, query, key, width) => {
  const unit = 100 / N;
  element.style.top = `${query * unit}%`;
  element.style.left = `${key * unit}%`;
  element.style.height = `${unit}%`;
  element.style.width = `${width * unit}%`;
};

let drawn = "";
panel("attention", () => {
  const { layer, head, token } = state;
  const window = sizes.windows[layer];
  document.querySelector("#attention .where").textContent = `layer ${layer}`;
  byId("reach").textContent = (window
    ? `A layer with a sliding window: a query sees ${window.toLocaleString("en")} positions, itself and those just before.`
    : "A layer without a window: a query sees itself and all before it.") +
    (levels === null ? "" : ` Rows are queries, columns are keys; weights to 1 of ${levels - 1} steps.`);
  byId("no-attention").hidden = levels !== null;
  document.querySelector("#attention .maps").hidden = levels === null;
  const layerWeights = ready(layer);
  if (!layerWeights) return;
  // Moving to another token changes no map.
  if (drawn !== `${layer}`) heads.forEach((button, i) => paint(button.firstChild, layerWeights, i - 1, Math.min(N, 128)));
  drawn = `${layer}`;
  heads.forEach((button, i) => button.setAttribute("aria-pressed", i - 1 === head));
  const now = `${layer} ${head}`;
  if (mapCanvas.dataset.drawn !== now) paint(mapCanvas, layerWeights, head, N);
  mapCanvas.dataset.drawn = now;
  byId("head-name").textContent = `Layer ${layer}, ${headName(head)}; the framed row is token ${token}, which reads most from`;
  place(map.querySelector(".query"), token, 0, token + 1);
  const row = rowOf(layer, token);
  const order = row.map((_, key) => key).sort((a, b) => row[b] - row[a]).slice(0, 5);
  byId("reads").replaceChildren(...order.filter((key) => row[key] > 0).map((key) => bar(`${key} ${textOf(tokens[key])}`, row[key], row[key].toFixed(3))));
});

// A name, a bar and a value.
const bar = (name, share, value) => {
  const stripe = make("i");
  stripe.style.width = `${100 * share}%`;
  return make("li", { class: "bar" }, make("span", { class: "text" }, name), stripe, make("span", {}, value));
};

const cellAt = (event) => {
  const box = mapCanvas.getBoundingClientRect();
  const at = (x, from, size) => within(Math.floor(((x - from) / size) * N), N - 1);
  return [at(event.clientY, box.top, box.height), at(event.clientX, box.left, box.width)];
};
let pointed = [];
const point = (...at) => {
  for (const i of pointed) chips[i].classList.remove("pointed");
  pointed = at;
  for (const i of pointed) chips[i].classList.add("pointed");
};
map.addEventListener("pointermove", (event) => {
  const [query, key] = cellAt(event);
  const seen = key <= query && query - key < (sizes.windows[state.layer] ?? N);
  const cell = map.querySelector(".cell");
  cell.hidden = !seen;
  place(cell, query, key, 1);
  point(query, key);
  showTip(event, seen ? readLine(query, key) : `${query} ${quoted(tokens[query])} cannot look at ${key} ${quoted(tokens[key])}`);
});
map.addEventListener("pointerleave", () => {
  map.querySelector(".cell").hidden = true;
  point();
  hideTip();
});
map.addEventListener("click", (event) => select({ token: cellAt(event)[0] }));
