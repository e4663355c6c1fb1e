// The plot: accuracy against speed, with intervals, the frontier and each strategy's curve.

const HEIGHT = 380;
const EDGE = { left: 52, right: 20, top: 16, bottom: 44 };
const HUES = 8;
const WIDE_SPREAD = 10; // from this ratio of speeds on a logarithmic axis is the better start

/** Draw a section's plot, again whenever its width or an option changes. */
function showPlot(section) {
  const names = namesOf(section.rows);
  const log = byId("log");
  const chosen = () => document.querySelector("input[name=speed]:checked").value;
  const suggest = () => {
    const speeds = section.rows.map((row) => row[chosen()][0]).filter((speed) => speed > 0);
    log.checked = Math.max(...speeds) > WIDE_SPREAD * Math.min(...speeds);
  };
  const draw = () => drawPlot(section, names, chosen(), log.checked);
  for (const radio of document.querySelectorAll("input[name=speed]")) {
    radio.onchange = () => {
      suggest();
      draw();
    };
  }
  log.onchange = draw;
  suggest();
  draw();
  let width = byId("figure").clientWidth;
  showPlot.watcher?.disconnect();
  showPlot.watcher = new ResizeObserver(() => {
    if (byId("figure").clientWidth === width) return;
    width = byId("figure").clientWidth;
    draw();
  });
  showPlot.watcher.observe(byId("figure"));
  showCurves(section);
}

function drawPlot(section, names, speed, log) {
  const points = section.rows
    .map((row, index) => ({ row, index, name: names[index], y: row.accuracy[0], x: row[speed][0] }))
    .filter(({ x, y }) => x !== null && y !== null && (!log || x > 0))
    .sort((a, b) => a.x - b.x);
  const figure = byId("figure");
  if (!points.length) {
    fill(figure, make("p", { class: "quiet" }, "Nothing to plot: no row has both an accuracy and a speed."));
    fill(byId("plot-key"));
    return;
  }
  const width = Math.max(280, figure.clientWidth);
  const x = axis(points.flatMap((p) => [p.x, ...(p.row[speed][1] ?? [])]), log, EDGE.left, width - EDGE.right);
  const y = axis(points.flatMap((p) => [p.y, ...(p.row.accuracy[1] ?? [])]), false, HEIGHT - EDGE.bottom, EDGE.top, 100);
  const svg = make("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    role: "group",
    "aria-label": `Accuracy against ${speed.toUpperCase()}: ${points.length} strategies; arrow keys go from one to the next`,
  });
  const drawn = new Map(points.map((p) => [p.index, { ...p, px: x.place(p.x), py: y.place(p.y) }]));
  svg.append(...gridLines(x, y, width, speed, log), ...curveLines(section, drawn), ...frontierLine(section, drawn, speed));
  svg.append(...[...drawn.values()].flatMap((p) => intervalLines(p, speed, x, y)));
  const tip = make("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const marks = [...drawn.values()].map((p) => mark(p, section, speed, tip, besides(p, drawn)));
  marks.forEach((one, at) => {
    one.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: marks.length - 1 }[event.key];
      if (event.key === "Escape") tip.hidden = true;
      if (to === undefined || !marks[to]) return;
      event.preventDefault();
      one.setAttribute("tabindex", "-1");
      marks[to].setAttribute("tabindex", "0");
      marks[to].focus();
    });
  });
  marks[0].setAttribute("tabindex", "0"); // one stop for Tab; the arrow keys do the rest
  svg.append(...labels(section, drawn, speed, width), ...marks);
  fill(figure, svg, tip);
  fill(byId("plot-key"), keyOf(section, speed));
}

/** A scale from values to pixels, with round ticks. */
function axis(values, log, from, to, most = Infinity) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (log) {
    [low, high] = [Math.min(...values.filter((value) => value > 0)) / 1.15, high * 1.15];
    const place = (value) => from + ((to - from) * Math.log(Math.max(value, low) / low)) / Math.log(high / low);
    const decades = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of [1, 2, 5]) decades.push(factor * 10 ** power);
    }
    return { place, ticks: decades.filter((tick) => tick >= low && tick <= high) };
  }
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [Math.max(0, low - pad), Math.min(most, high + pad)];
  if (low < (high - low) * 0.4) low = 0;
  const rough = (high - low) / 6;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
  const ticks = [];
  for (let count = Math.ceil(low / step); count * step <= high + step * 1e-9; count++) ticks.push(count * step);
  const top = high === most ? high + pad / 2 : high; // so that a mark at the very top is whole
  return { place: (value) => from + ((to - from) * (value - low)) / (top - low), ticks };
}

const tickText = (tick) => String(Number(tick.toPrecision(6)));

function gridLines(x, y, width, speed, log) {
  const [left, right, top, bottom] = [EDGE.left, width - EDGE.right, EDGE.top, HEIGHT - EDGE.bottom];
  let last = -Infinity;
  const across = x.ticks.flatMap((tick) => {
    const at = x.place(tick);
    const line = make("line", { class: "grid", x1: at, x2: at, y1: top, y2: bottom });
    if (at - last < 34) return [line];
    last = at;
    return [line, make("text", { x: at, y: bottom + 18, class: "tick middle" }, tickText(tick))];
  });
  const up = y.ticks.flatMap((tick) => [
    make("line", { class: "grid", x1: left, x2: right, y1: y.place(tick), y2: y.place(tick) }),
    make("text", { x: left - 8, y: y.place(tick) + 4, class: "tick end" }, tickText(tick)),
  ]);
  const unit = speed === "tps" ? "TPS, net tokens per second" : "TPF, net tokens per forward";
  return [
    ...across,
    ...up,
    make("text", { x: right, y: HEIGHT - 6, class: "axis end" }, `${unit}${log ? " (logarithmic)" : ""} \u2192`),
    make("text", { x: 8, y: 12, class: "axis" }, "\u2191 accuracy, %"),
  ];
}

/** The line through one strategy's rows, in the order of its knob. */
function curveLines(section, drawn) {
  return (section.frontier?.curves ?? []).flatMap(({ rows }, number) => {
    const through = rows.filter((index) => drawn.has(index)).map((index) => drawn.get(index));
    if (through.length < 2) return [];
    return [make("path", { class: `curve hue${number % HUES}`, d: `M${through.map((p) => `${p.px},${p.py}`).join("L")}` })];
  });
}

/** Everything below and left of this line is beaten in both. */
function frontierLine(section, drawn, speed) {
  const best = (section.frontier?.[speed] ?? []).filter((index) => drawn.has(index)).map((index) => drawn.get(index));
  if (!best.length) return [];
  let path = `M${best[0].px},${HEIGHT - EDGE.bottom}V${best[0].py}`;
  for (const p of best.slice(1)) path += `H${p.px}V${p.py}`;
  return [make("path", { class: "frontier", d: `${path}H${EDGE.left}` })];
}

function intervalLines(p, speed, x, y) {
  const lines = [];
  const [xs, ys] = [p.row[speed][1], p.row.accuracy[1]];
  if (xs) lines.push({ x1: x.place(xs[0]), x2: x.place(xs[1]), y1: p.py, y2: p.py });
  if (ys) lines.push({ x1: p.px, x2: p.px, y1: y.place(ys[0]), y2: y.place(ys[1]) });
  return lines.map((ends) => make("line", { class: "interval", ...ends }));
}

/** A focusable mark. Diamond: not deployable; square: the baseline; hollow: not ranked. */
function mark(p, section, speed, tip, others) {
  const { row, px, py } = p;
  const curve = (section.frontier?.curves ?? []).findIndex(({ rows }) => rows.includes(p.index));
  const isRanked = row.deployable && !row.invalid.length && row.status === "finished";
  const kind = `mark ${curve < 0 ? "" : `hue${curve % HUES}`} ${isRanked ? "" : "hollow"}`;
  const told = plotFacts(p, section, speed);
  const label = [p.name, ...told.map(([word, text]) => `${word} ${text}`)].join(", ");
  let shape = make("circle", { cx: px, cy: py, r: 5 });
  if (!row.deployable) shape = make("polygon", { points: `${px},${py - 6.5} ${px + 6.5},${py} ${px},${py + 6.5} ${px - 6.5},${py}` });
  else if (row.baseline) shape = make("rect", { x: px - 5, y: py - 5, width: 10, height: 10 });
  const show = () => {
    fill(tip, make("strong", {}, p.name), make("dl", {}));
    definitions(tip.lastChild, told);
    if (others.length) tip.append(make("p", { class: "quiet" }, `Also here: ${others.join(", ")}`));
    tip.hidden = false;
    const box = byId("figure");
    const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
    const left = px + 14 + wide > box.clientWidth ? px - 14 - wide : px + 14;
    const fits = left >= 0; // else it goes below the mark, or above it
    const top = fits ? Math.min(py - 20, HEIGHT - high) : py < HEIGHT / 2 ? py + 16 : py - 16 - high;
    tip.style.left = `${fits ? left : Math.max(0, Math.min(px - wide / 2, box.clientWidth - wide))}px`;
    tip.style.top = `${fits ? Math.max(0, top) : top}px`;
  };
  const hide = () => (tip.hidden = true);
  return make(
    "g",
    { class: kind, role: "img", tabindex: "-1", "aria-label": label, "data-spec": row.spec, onmouseenter: show, onmouseleave: hide, onfocus: show, onblur: hide },
    make("circle", { class: "halo", cx: px, cy: py, r: 11 }),
    shape,
  );
}

/** The names of the marks that this one covers, or is covered by. */
function besides(p, drawn) {
  return [...drawn.values()].filter((q) => q !== p && Math.hypot(q.px - p.px, q.py - p.py) < 9).map((q) => q.name);
}

/** What a tooltip tells: the row's results as the board has them, and why it is not to be trusted. */
function plotFacts(p, section, speed) {
  const facts = [];
  section.columns.forEach((column, index) => {
    const [text, detail] = p.row.cells[index];
    if (column.group === "result" || column.title.toLowerCase() === speed) {
      const ends = column.title.toLowerCase() === speed && p.row[speed][1];
      const more = detail || (ends ? `${digits(ends[0])}\u2013${digits(ends[1])}` : "");
      facts.push([column.title, more ? `${text} (${more})` : text]);
    }
  });
  for (const reason of p.row.invalid) facts.push(["INVALID", reason]);
  return facts;
}

/** Names beside the frontier's marks and the baseline's, where there is room. */
function labels(section, drawn, speed, width) {
  const wanted = new Set(section.frontier?.[speed] ?? []);
  const taken = [...drawn.values()].map(({ px, py }) => [px - 6, py - 6, px + 6, py + 6]);
  const free = (box) =>
    box[0] >= EDGE.left && box[2] <= width - 4 && box[1] >= 0 && box[3] <= HEIGHT - EDGE.bottom &&
    !taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1]);
  return [...drawn.values()]
    .filter((p) => wanted.has(p.index) || p.row.baseline)
    .flatMap((p) => {
      const long = p.name.length * 6.7;
      const places = [[p.px + 10, p.py + 4], [p.px - 10 - long, p.py + 4], [p.px - long / 2, p.py - 12], [p.px - long / 2, p.py + 20], [p.px - 10 - long, p.py - 10], [p.px + 8, p.py + 18]];
      const place = places.find(([px, py]) => free([px, py - 10, px + long, py + 3]));
      if (!place) return [];
      taken.push([place[0], place[1] - 10, place[0] + long, place[1] + 3]);
      return [make("text", { class: "label", x: place[0], y: place[1] }, p.name)];
    });
}

function keyOf(section, speed) {
  const parts = ["Bars are 95 % intervals."];
  if (section.frontier) parts.push("The broad line is the frontier: no ranked row beats those on it in both.");
  else parts.push("No frontier: there are fewer than two rows to choose from.");
  if (section.frontier?.curves.length) parts.push("Thin lines join one strategy at several values of its knob.");
  parts.push("Square: the baseline; diamond: not deployable; hollow: not ranked.");
  const missing = section.rows.filter((row) => row.accuracy[0] === null || row[speed][0] === null).length;
  if (missing) parts.push(`Not drawn: ${missing} of ${section.rows.length}, without an accuracy or a speed.`);
  return parts.join(" ");
}

/** What a strategy's knob buys, one line per curve. */
function showCurves(section) {
  const curves = section.frontier?.curves ?? [];
  if (!curves.length) {
    fill(byId("curves"));
    return;
  }
  const titles = board.curves.map((title) => make("th", { scope: "col" }, title));
  const lines = curves.map(({ name, knob, cells }, number) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("span", { class: `dash hue${number % HUES}` }), make("code", {}, name), " ", knob),
      ...cells.map((text) => make("td", {}, text)),
    ),
  );
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, board.knob), ...titles));
  const table = make("table", { class: "curves" }, head, make("tbody", {}, ...lines));
  fill(byId("curves"), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Curves" }, table));
}
