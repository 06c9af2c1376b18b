// The strip of tokens.
const strip = byId("strip");
const losses = trace.loss.filter((x) => x !== null);
const highest = Math.max(...losses, 1e-3);
byId("legend-low").textContent = "loss 0";
byId("legend-high").textContent = `${number(highest)}, the largest`;
const chips = tokens.map((id, i) =>
  make("button", { type: "button", class: "chip", role: "option", tabindex: -1, "data-token": i }, textOf(id)));
strip.append(...chips);

const heat = (chip, share) => chip.style.setProperty("--t", `${(100 * share).toFixed(1)}%`);
const chipAt = (event) => event.target.closest(".chip")?.dataset.token;
strip.addEventListener("pointerover", (event) => {
  const i = chipAt(event);
  if (i === undefined) return;
  const token = Number(i);
  const lines = [`${token}: ${quoted(tokens[token])}`, `id ${tokens[token]}`, expectation(token)];
  if (state.reads && token <= state.token) lines.push(readLine(state.token, token));
  showTip(event, ...lines);
});
strip.addEventListener("pointerleave", hideTip);
strip.addEventListener("click", (event) => {
  const i = chipAt(event);
  if (i !== undefined) select({ token: Number(i) });
});

const setReads = (reads) => {
  byId("by-loss").setAttribute("aria-pressed", !reads);
  byId("by-reads").setAttribute("aria-pressed", reads);
  select({ reads });
};
byId("by-loss").addEventListener("click", () => setReads(false));
byId("by-reads").addEventListener("click", () => setReads(true));

panel("losses", () => {
  const host = document.querySelector("#losses .plot");
  host.dataset.label = "Loss by token";
  plot(host, {
    lines: [{ kind: "loss", values: trace.loss, means: trace.loss.map(() => mean(losses)), from: 1 }],
    x: N - 1, unit: "token", now: [state.token, state.token],
    tell: (token) => [`${token}: ${quoted(tokens[token])}`, expectation(token)],
    choose: (token) => select({ token }),
  });
});

let chosen = null;
panel("bar", () => {
  const { token, layer, reads } = state;
  byId("layer").value = layer;
  byId("token").value = token;
  byId("layer-name").textContent = `${layer} of 0–${L - 1} · ${reachOf(layer)}`;
  if (chosen) {
    chosen.setAttribute("aria-selected", "false");
    chosen.tabIndex = -1;
  }
  const focused = strip.contains(document.activeElement);
  chosen = chips[token];
  chosen.setAttribute("aria-selected", "true");
  chosen.tabIndex = 0;
  if (focused) chosen.focus({ preventScroll: true });
  const [top, bottom] = [chosen.offsetTop, chosen.offsetTop + chosen.offsetHeight];
  if (top < strip.scrollTop || bottom > strip.scrollTop + strip.clientHeight) {
    strip.scrollTop = top - strip.clientHeight / 2;
  }
  byId("selected").replaceChildren(`token ${token} of 0–${N - 1} `, make("span", { class: "text" }, textOf(tokens[token])),
    ` id ${tokens[token]} · ${expectation(token)}`);
  const weights = reads ? rowOf(layer, token) : null;
  strip.classList.toggle("reads", weights !== null);
  chips.forEach((chip, i) => {
    chip.classList.toggle("later", weights !== null && i > token);
    if (weights !== null) heat(chip, i > token ? 0 : Math.sqrt(weights[i]));
    else heat(chip, i === 0 ? 0 : Math.max(trace.loss[i - 1] ?? 0, 0) / highest);
  });
});
