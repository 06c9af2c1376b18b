// What flows: lengths of the residual stream and of what is added to it; the MLPs' neurons.
const atToken = (values, token, rows) => Array.from({ length: rows }, (_, row) => values[row * N + token]);
const means = (values, rows) => Array.from({ length: rows }, (_, row) => mean(values.slice(row * N, (row + 1) * N)));
const LINES = [
  { name: "stream", kind: "stream", of: norms.stream, rows: L + 1, from: 0 },
  // A layer's attention comes first, its MLP ends it.
  { name: "attention adds", kind: "attention", of: norms.attention_delta, rows: L, from: 0.5 },
  { name: "MLP adds", kind: "mlp", of: norms.mlp_delta, rows: L, from: 1 },
].map((line) => ({ ...line, means: means(line.of, line.rows) }));
const log = byId("log");
const sizesSeen = LINES.flatMap((line) => line.of).filter((x) => x > 0);
// A few lengths far above the rest would press them flat.
log.checked = sizesSeen.reduce((a, b) => Math.max(a, b), 0) > 50 * sizesSeen.sort((a, b) => a - b)[Math.floor(sizesSeen.length / 2)];
log.addEventListener("change", redraw);

panel("streams", () => {
  const { token, layer } = state;
  const lines = LINES.map((line) => ({ ...line, values: atToken(line.of, token, line.rows) }));
  const host = document.querySelector("#streams .plot");
  host.dataset.label = `Lengths by depth at token ${token}`;
  plot(host, {
    lines, x: L, unit: "depth", log: log.checked, now: [layer, layer + 1],
    tell: (depth) => [`depth ${depth}: stream ${number(norms.stream[depth * N + token])}`,
      ...(depth > 0 ? [`layer ${depth - 1}: attention adds ${number(norms.attention_delta[(depth - 1) * N + token])}, ` +
        `MLP ${number(norms.mlp_delta[(depth - 1) * N + token])}`] : [])],
    choose: (depth) => select({ layer: depth - 1, depth }),
  });
});

const NEURONS = trace.shapes.mlp.largest[2];
const GATES = [["open", mlp.open, "share of open gates", percent], ["rms", mlp.rms, "root mean square", number]]
  .map(([name, of, text, format]) => ({ name, of, text, format, means: means(of, L) }));
panel("mlp", () => {
  const { token, layer } = state;
  document.querySelector("#mlp .where").textContent = `layer ${layer}`;
  document.querySelectorAll("#mlp .plot").forEach((host, i) => {
    const { name, of, text, format, means: faint } = GATES[i];
    host.dataset.label = `${text} by layer at token ${token}`;
    plot(host, {
      lines: [{ kind: "mlp", values: atToken(of, token, L), means: faint, from: 0 }],
      x: L - 1, unit: "layer", now: [layer, layer], top: name === "open" ? 1 : undefined,
      tell: (at) => [`layer ${at}: ${text} ${format(of[at * N + token])}`, `mean over tokens ${format(faint[at])}`],
      choose: (at) => select({ layer: at }),
    });
  });
  const first = (layer * N + token) * NEURONS;
  const values = mlp.values.slice(first, first + NEURONS);
  const largest = Math.max(...values.map(Math.abs)) || 1;
  byId("neurons").replaceChildren(...values.map((value, i) => {
    const stripe = make("i", value < 0 ? { class: "minus" } : {});
    const share = (50 * Math.abs(value)) / largest;
    stripe.style.left = `${value < 0 ? 50 - share : 50}%`;
    stripe.style.width = `${share}%`;
    return make("div", { class: "bar" }, make("span", {}, `neuron ${mlp.largest[first + i].toLocaleString("en")}`),
      make("span", { class: "axis" }, stripe), make("span", {}, value === null ? "not finite" : signed(value)));
  }));
});
