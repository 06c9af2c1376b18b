// Time and bytes of every op.
const COLOURS = {
  qkv: 0, output: 1, "gate | up": 2, down: 3, attention: 4, rope: 5, glu: 6, norm: 7, "add, norm": 8, "add, next norm": 9,
  "attention post-norm": 10, "MLP post-norm": 11,
};
const swatch = (name) => `o${COLOURS[name]}`;
const rate = (amount, op) => (amount && op.milliseconds ? number(amount / op.milliseconds / 1e6) : "–");

const totals = () => {
  const byName = new Map();
  for (const op of trace.ops) {
    const total = byName.get(op.name) ?? { name: op.name, count: 0, milliseconds: 0, bytes: 0, flops: 0 };
    for (const key of ["milliseconds", "bytes", "flops"]) total[key] += op[key];
    total.count += 1;
    byName.set(op.name, total);
  }
  return [...byName.values()];
};
const opTable = () => {
  const ops = totals();
  const all = ops.reduce((sum, op) => sum + op.milliseconds, 0);
  const row = (tag, cells) => make("tr", {}, ...cells.map((cell) => make(tag, {}, cell)));
  const named = (op) => {
    // What is outside the blocks is not in the bars.
    const name = op.name in COLOURS ? make("span", {}, make("i", { class: `swatch ${swatch(op.name)}` }), op.name) : op.name;
    return row("td", [name, String(op.count), number(op.milliseconds), percent(op.milliseconds / all), number(op.bytes / 1e6),
      rate(op.bytes, op), op.flops ? number(op.flops / 1e9) : "–", rate(op.flops, op)]);
  };
  const head = row("th", ["op", "times", "ms", "share", "MB", "GB/s", "GFLOP", "GFLOP/s"]);
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...ops.map(named),
    row("td", ["together", "", number(all), "", "", "", "", ""])));
};

const opBars = (host) => {
  const byLayer = Array.from({ length: L }, (_, layer) => trace.ops.filter((op) => op.layer === layer));
  const sums = byLayer.map((ops) => ops.reduce((sum, op) => sum + op.milliseconds, 0));
  const most = Math.max(...sums) * 1.05;
  const [width, height, left, below] = [Math.max(host.clientWidth, 240), 220, 46, 34];
  const atY = (y) => height - below - (y / most) * (height - below - 8);
  const pitch = (width - left) / L;
  const root = svg("svg", { width, height, role: "img", "aria-label": "Milliseconds of each op, by layer" });
  root.append(svg("rect", { class: "now", x: left + state.layer * pitch, y: 8, width: pitch, height: height - below - 8 }));
  for (const y of ticks(0, most, false)) {
    root.append(svg("line", { class: "grid", x1: left, x2: width, y1: atY(y), y2: atY(y) }),
      svg("text", { x: left - 6, y: atY(y) + 4, "text-anchor": "end" }, number(y)));
  }
  const thick = Math.min(pitch * 0.8, 60);
  byLayer.forEach((ops, layer) => {
    let sum = 0;
    for (const op of ops) {
      const block = svg("rect", { class: swatch(op.name), x: left + (layer + 0.5) * pitch - thick / 2, y: atY(sum + op.milliseconds),
        width: thick, height: Math.max(atY(sum) - atY(sum + op.milliseconds), 0) });
      block.addEventListener("pointermove", (event) => showTip(event, `layer ${layer}: ${op.name}`,
        `${number(op.milliseconds)} ms · ${rate(op.bytes, op)} GB/s · ${rate(op.flops, op)} GFLOP/s`));
      root.append(block);
      sum += op.milliseconds;
    }
    if (layer % Math.ceil(34 / pitch) === 0) {
      root.append(svg("text", { x: left + (layer + 0.5) * pitch, y: height - 18, "text-anchor": "middle" }, String(layer)));
    }
  });
  root.append(svg("text", { x: left + (width - left) / 2, y: height - 2, "text-anchor": "middle" }, "layer"));
  root.addEventListener("pointerleave", hideTip);
  root.addEventListener("click", (event) => select({
    layer: Math.floor((event.clientX - root.getBoundingClientRect().left - left) / pitch) }));
  host.replaceChildren(root);
};

if (trace.ops.length === 0) {
  byId("ops").remove();
} else {
  byId("by-op").append(opTable());
  panel("ops", () => opBars(byId("by-layer")));
}
