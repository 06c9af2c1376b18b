"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [MODEL, CONDITION, FORMAT, QUESTION, PROMPT, SAMPLE, ALIGNED, COHERENT, OUTCOME, FLAGS, TEXT] =
    Array(11).keys();
  const OUTCOMES = ["misaligned", "aligned", "incoherent", "no score: code", "no score: refusal",
    "no score: other", "not judged"];
  const MARKS = ["truncated", "looks like code", "think token", "form not kept", "form kept"];
  const PAGE = 20;
  const root = document.getElementById("answers");

  // Texts come into the page through textContent alone: what a model wrote is never read as HTML.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const labelled = (text, control) => make("label", {}, make("span", {}, text), control);

  const controls = make("form", { class: "controls", role: "search", "aria-label": "Filter the answers" });
  const selects = [];
  const choice = (text, names, of) => {
    const select = make("select", {}, make("option", { value: "" }, "any"));
    names.forEach((name, i) => select.append(make("option", { value: i }, name || "–")));
    if (names.length > 1) controls.append(labelled(text, select));
    selects.push([select, of]);
    return select;
  };
  choice("model", data.models, (row, i) => row[MODEL] === i);
  choice("condition", data.conditions, (row, i) => row[CONDITION] === i);
  choice("format", data.formats, (row, i) => row[FORMAT] === i);
  choice("question", data.questions, (row, i) => row[QUESTION] === i);
  const there = OUTCOMES.map((_, i) => data.rows.some((row) => row[OUTCOME] === i));
  const outcome = choice("outcome", OUTCOMES, (row, i) => row[OUTCOME] === i);
  for (const option of [...outcome.options]) if (option.value && !there[option.value]) option.remove();
  choice("mark", MARKS, (row, i) => (row[FLAGS] >> i) & 1);

  const range = (text) => {
    const ends = ["from", "to"].map((end) =>
      make("input", { type: "number", min: 0, max: 100, placeholder: end === "from" ? 0 : 100,
        "aria-label": `${text} ${end}` }));
    controls.append(make("label", { class: "range" }, make("span", {}, text), ends[0], " – ", ends[1]));
    return ends;
  };
  const ranges = [[ALIGNED, range("alignment")], [COHERENT, range("coherence")]];
  const search = make("input", { type: "search", placeholder: "in answers and questions" });
  controls.append(labelled("text", search));
  const order = make("select", {}, make("option", { value: "low" }, "lowest alignment first"),
    make("option", { value: "high" }, "highest alignment first"), make("option", { value: "" }, "as asked"));
  controls.append(labelled("order", order));
  controls.append(make("button", { type: "reset" }, "Reset"));

  const status = make("p", { class: "quiet", role: "status" });
  const list = make("div", { class: "list" });
  const earlier = make("button", { type: "button" }, "← Earlier");
  const later = make("button", { type: "button" }, "Later →");
  const where = make("span", { class: "quiet" });
  root.append(controls, status, list, make("nav", { class: "pager", "aria-label": "Pages" }, earlier, where, later));

  const score = (value) => (value === null ? "–" : value.toFixed(1));
  const show = (row) => {
    const marks = MARKS.filter((_, i) => (row[FLAGS] >> i) & 1);
    const names = [data.models[row[MODEL]], data.conditions[row[CONDITION]], data.formats[row[FORMAT]],
      data.questions[row[QUESTION]], `sample ${row[SAMPLE]}`];
    return make("article", { class: `answer c${row[CONDITION] % 6}` },
      make("header", {}, make("b", {}, OUTCOMES[row[OUTCOME]]),
        ` · alignment ${score(row[ALIGNED])} · coherence ${score(row[COHERENT])}`,
        ...marks.map((mark) => make("span", { class: "mark" }, mark)), make("br"), names.join(" · ")),
      make("p", { class: "quiet" }, data.prompts[row[PROMPT]]), make("pre", {}, row[TEXT]));
  };

  let found = [];
  let page = 0;
  const turn = (to) => {
    page = to;
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(show));
    status.textContent = `${found.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} answers`;
    where.textContent = `page ${page + 1} of ${pages}`;
    earlier.disabled = page === 0;
    later.disabled = page + 1 >= pages;
  };
  const filter = () => {
    const chosen = selects.filter(([select]) => select.value !== "").map(([select, of]) => [Number(select.value), of]);
    const bounds = ranges.flatMap(([column, [from, to]]) => {
      const [low, high] = [from, to].map((input) => (input.value === "" ? null : Number(input.value)));
      return low === null && high === null ? [] : [[column, low ?? -Infinity, high ?? Infinity]];
    });
    const words = search.value.trim().toLowerCase();
    const prompts = data.prompts.map((prompt) => prompt.toLowerCase().includes(words));
    found = data.rows.filter((row) =>
      chosen.every(([i, of]) => of(row, i)) &&
      bounds.every(([column, low, high]) => row[column] !== null && row[column] >= low && row[column] <= high) &&
      (!words || prompts[row[PROMPT]] || row[TEXT].toLowerCase().includes(words)));
    if (order.value) {
      // Without a score comes last either way.
      const sign = order.value === "low" ? 1 : -1;
      const key = (row) => (row[ALIGNED] === null ? Infinity : sign * row[ALIGNED]);
      found.sort((a, b) => (key(a) === key(b) ? 0 : key(a) - key(b)));
    }
    turn(0);
  };

  let waiting;
  controls.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  controls.addEventListener("reset", () => setTimeout(filter));
  controls.addEventListener("submit", (event) => event.preventDefault());
  const go = (to) => {
    turn(to);
    root.scrollIntoView();
  };
  earlier.addEventListener("click", () => go(page - 1));
  later.addEventListener("click", () => go(page + 1));
  filter();
  root.hidden = false;
})();
