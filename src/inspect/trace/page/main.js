// Head, controls, keys.
byId("model").textContent = trace.about.model ?? "a model";
document.body.dataset.family = trace.about.family ?? "";
const facts = [
  ["family", trace.about.family], ["adapter", trace.about.adapter ?? "none"], ["device", trace.about.device],
  ["precision", trace.about.precision], ["tokens N", N.toLocaleString("en")], ["mean loss", `${mean(losses).toFixed(4)} nats`],
  ["layers L", L], ["channels C", sizes.channels], ["heads H", H], ["key heads KV", sizes.kv_heads], ["head dim D", sizes.head_dim],
  ["MLP width F", sizes.mlp_width], ["vocabulary V", sizes.vocab],
];
for (const [name, value] of facts) {
  if (value === undefined) continue;
  const text = typeof value === "number" ? value.toLocaleString("en") : value;
  byId("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, text)));
}

byId("layer").max = L - 1;
byId("token").max = N - 1;
const step = { layer: (by) => select({ layer: state.layer + by }), token: (by) => select({ token: state.token + by }) };
for (const name of ["layer", "token"]) {
  byId(name).addEventListener("input", (event) => select({ [name]: Number(event.target.value) }));
  byId(`${name}-back`).addEventListener("click", () => step[name](-1));
  byId(`${name}-on`).addEventListener("click", () => step[name](1));
}
const KEYS = { ArrowLeft: ["token", -1], ArrowRight: ["token", 1], ArrowUp: ["layer", -1], ArrowDown: ["layer", 1] };
addEventListener("keydown", (event) => {
  // A slider, a source file and a table move by themselves.
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, pre, #scroller")) return;
  const key = KEYS[event.key];
  if (!key) return;
  event.preventDefault();
  step[key[0]](key[1] * (event.shiftKey ? 10 : 1));
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  mixRamp();
  drawn = "";
  delete mapCanvas.dataset.drawn;
  redraw();
});
let width = innerWidth;
addEventListener("resize", () => {
  // A keyboard that opens on a phone changes the height alone.
  if (innerWidth === width) refresh();
  else redraw();
  width = innerWidth;
});
addEventListener("scroll", refresh, { passive: true });
refresh();
