// Lines over depth, with their names at their ends.
const ticks = (low, high, log) => {
  if (log) {
    const powers = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) powers.push(10 ** e);
    return powers.filter((x) => x >= low && x <= high);
  }
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * 1.0001; i += 1) found.push(i * step);
  return found;
};

// `lines`: { name, kind, values, means, from }: a value each for x = from, from + 1, …; `x`: the largest x; `unit`: what x counts.
const plot = (host, { lines, x: most, unit, log, now, top, tell, choose }) => {
  const width = Math.max(host.clientWidth, 240);
  const height = Number(host.dataset.height);
  const named = lines.some((line) => line.name);
  const [left, right, above, below] = [46, named ? 118 : 12, 8, 34];
  const all = lines.flatMap((line) => [...line.values, ...line.means]).filter((y) => y !== null && (!log || y > 0));
  const high = top ?? (Math.max(...all) * 1.05 || 1);
  const low = log ? Math.min(...all) / 1.2 : 0;
  const atX = (x) => left + (x / Math.max(most, 1)) * (width - left - right);
  const scale = (y) => (log ? Math.log(Math.max(y, low) / low) / Math.log(high / low) : y / high);
  const atY = (y) => height - below - scale(y) * (height - above - below);
  const root = svg("svg", { width, height, role: "img", "aria-label": host.dataset.label ?? "" });
  if (now) {
    const begin = atX(now[0]) - (now[0] === now[1] ? 4 : 0);
    root.append(svg("rect", { class: "now", x: begin, y: above, width: Math.max(8, atX(now[1]) - atX(now[0])), height: height - above - below }));
  }
  for (const y of ticks(low, high, log)) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: atY(y), y2: atY(y) }),
      svg("text", { x: left - 6, y: atY(y) + 4, "text-anchor": "end" }, number(y)));
  }
  const step = Math.max(1, Math.ceil(most / ((width - left - right) / 34)));
  for (let x = 0; x <= most; x += step) root.append(svg("text", { x: atX(x), y: height - below + 16, "text-anchor": "middle" }, String(x)));
  root.append(svg("text", { x: left + (width - left - right) / 2, y: height - 2, "text-anchor": "middle" }, unit));
  const path = (line, values) => {
    let next = "M";
    return values.map((y, i) => {
      if (y === null) { next = "M"; return ""; }
      const point = `${next}${atX(line.from + i).toFixed(1)} ${atY(y).toFixed(1)}`;
      next = "L";
      return point;
    }).join("");
  };
  const labels = [];
  for (const line of lines) {
    root.append(svg("path", { class: `line mean ${line.kind}`, d: path(line, line.means) }),
      svg("path", { class: `line ${line.kind}`, d: path(line, line.values) }));
    // Where there are many, the line alone tells them.
    if (line.values.length <= 100) line.values.forEach((y, i) => {
      if (y !== null) root.append(svg("circle", { class: `dot ${line.kind}`, cx: atX(line.from + i), cy: atY(y), r: 2.4 }));
    });
    if (line.name) labels.push({ line, y: atY(line.values.at(-1) ?? low) });
  }
  // Names do not overlap: from the lowest up, each at least a line above the one before.
  labels.sort((a, b) => b.y - a.y);
  let bound = height - below + 4;
  for (const { line, y } of labels) {
    bound = Math.min(y, bound - (bound === height - below + 4 ? 0 : 15));
    root.append(svg("text", { class: `label ${line.kind}`, x: width - right + 9, y: bound + 4 }, line.name));
  }
  const xOf = (event) => {
    const at = (event.clientX - root.getBoundingClientRect().left - left) / (width - left - right);
    return Math.round(within(at * most, most));
  };
  root.addEventListener("pointermove", (event) => showTip(event, ...tell(xOf(event))));
  root.addEventListener("pointerleave", hideTip);
  root.addEventListener("click", (event) => choose(xOf(event)));
  host.replaceChildren(root);
};
