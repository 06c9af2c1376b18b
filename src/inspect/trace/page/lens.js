// The logit lens: a table of which only the columns that can be seen exist.
const K = trace.shapes.lens.tokens[2];
const COLUMN = 84;
const scroller = byId("scroller");
const columns = byId("columns");
const depths = byId("depths");
columns.style.width = `${N * COLUMN}px`;
columns.style.height = `${(L + 3) * 20}px`;
depths.append(make("div", {}, "token"), ...Array.from({ length: L + 1 }, (_, depth) => make("div", {}, String(depth))),
  make("div", {}, "next"));

const saidAt = (depth, token) => {
  const first = (depth * N + token) * K;
  const next = token + 1 < N ? depth * (N - 1) + token : null;
  return {
    tokens: lens.tokens.slice(first, first + K), probabilities: lens.probabilities.slice(first, first + K),
    entropy: lens.entropy[depth * N + token],
    next: next === null ? null : { id: tokens[token + 1], p: Math.exp(-lens.next_nll[next]), rank: lens.next_rank[next] + 1 },
  };
};
const nextLine = ({ next }) => (next === null ? "the text ends here"
  : `really next: ${quoted(next.id)} ${percent(next.p)}, rank ${next.rank.toLocaleString("en")}`);

const column = (token) => {
  const cells = [make("div", { class: "top" }, textOf(tokens[token]))];
  for (let depth = 0; depth <= L; depth += 1) {
    const at = (depth * N + token) * K;
    const cell = make("div", { class: "said", "data-depth": depth, "data-token": token }, textOf(lens.tokens[at]));
    cell.style.setProperty("--t", `${(100 * lens.probabilities[at]).toFixed(1)}%`);
    if (lens.tokens[at] === tokens[token + 1]) cell.classList.add("hit");
    cells.push(cell);
  }
  cells.push(make("div", { class: "top" }, token + 1 < N ? textOf(tokens[token + 1]) : "–"));
  const element = make("div", { class: "column" }, ...cells);
  element.style.left = `${token * COLUMN}px`;
  return element;
};
const built = new Map();
const mark = () => {
  for (const [token, element] of built) {
    element.classList.toggle("now", token === state.token);
    element.querySelector(".said.now")?.classList.remove("now");
    if (token === state.token) element.children[state.depth + 1].classList.add("now");
  }
};
const build = () => {
  const first = within(Math.floor(scroller.scrollLeft / COLUMN) - 2, N - 1);
  const last = within(Math.ceil((scroller.scrollLeft + scroller.clientWidth) / COLUMN) + 2, N - 1);
  for (const [token, element] of built) {
    if (token < first || token > last) {
      element.remove();
      built.delete(token);
    }
  }
  for (let token = first; token <= last; token += 1) {
    if (!built.has(token)) {
      built.set(token, column(token));
      columns.append(built.get(token));
    }
  }
  mark();
};
scroller.addEventListener("scroll", build, { passive: true });

panel("lens", () => {
  const { token, depth } = state;
  const left = token * COLUMN;
  if (left < scroller.scrollLeft || left + COLUMN > scroller.scrollLeft + scroller.clientWidth) {
    scroller.scrollLeft = left - (scroller.clientWidth - COLUMN) / 2;
  }
  build();
  [...depths.children].forEach((element, i) => element.classList.toggle("now", i === depth + 1));
  const said = saidAt(depth, token);
  byId("said-where").textContent = `At depth ${depth}, after token ${token}`;
  const list = make("ol", { id: "top" }, ...said.tokens.map((id, i) =>
    bar(textOf(id), said.probabilities[i], percent(said.probabilities[i]))));
  byId("said").replaceChildren(list, make("p", {}, `entropy ${number(said.entropy)} nats`), make("p", {}, nextLine(said)));
});

columns.addEventListener("pointerover", (event) => {
  const cell = event.target.closest(".said");
  if (!cell) return;
  const [depth, token] = [cell.dataset.depth, cell.dataset.token].map(Number);
  const said = saidAt(depth, token);
  showTip(event, `depth ${depth}, after ${token} ${quoted(tokens[token])}`,
    ...said.tokens.map((id, i) => `${quoted(id)} ${percent(said.probabilities[i])}`),
    `entropy ${number(said.entropy)} nats`, nextLine(said));
});
columns.addEventListener("pointerleave", hideTip);
columns.addEventListener("click", (event) => {
  const cell = event.target.closest(".said");
  if (!cell) return;
  const depth = Number(cell.dataset.depth);
  select({ token: Number(cell.dataset.token), layer: depth - 1, depth });
});
