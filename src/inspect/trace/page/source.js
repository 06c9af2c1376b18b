// Shapes with this trace's numbers, and the source files.
const LETTERS = { N, L, H, V: sizes.vocab, C: sizes.channels, KV: sizes.kv_heads, D: sizes.head_dim, F: sizes.mlp_width };
const inNumbers = (shape) => shape.slice(shape.indexOf("(")).replace(/KV|[NLHVCDF]/g, (letter) => LETTERS[letter].toLocaleString("en"));
for (const host of document.querySelectorAll("[data-shapes]")) {
  for (const shape of host.dataset.shapes.split("|")) {
    host.append(make("code", { class: "shape" }, shape, make("span", {}, inNumbers(shape))));
  }
}

const sources = read("sources");
const files = new Map();
for (const [path, text] of Object.entries(sources.files)) {
  const details = make("details", {}, make("summary", {}, path));
  // Lines exist once they are looked at.
  const lines = () => {
    if (!details.querySelector("pre")) {
      const rows = text.trimEnd().split("\n").map((line) => make("span", {}, line));
      details.append(make("pre", { tabindex: 0, "aria-label": path }, ...rows));
    }
    return details.querySelector("pre");
  };
  details.addEventListener("toggle", () => { if (details.open) lines(); });
  files.set(path, { details, lines });
  byId("source").append(details);
}
for (const host of document.querySelectorAll("[data-places]")) {
  for (const name of host.dataset.places.split(" ")) {
    const [path, line] = sources.places[name];
    const link = make("a", { href: "#source" }, `${path}:${line}`);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const { details, lines } = files.get(path);
      details.open = true;
      const pre = lines();
      pre.querySelector(".now")?.classList.remove("now");
      const row = pre.children[line - 1];
      row.classList.add("now");
      pre.scrollTop = row.offsetTop - 24;
      details.scrollIntoView();
      pre.focus({ preventScroll: true });
    });
    host.append(link);
  }
}
