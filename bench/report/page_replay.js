// The replay: two canvases, filled in lockstep by what the traces tell.

const MASK = -1;
const GONE = -2;
const LONGEST = 14; // characters of a token that a cell shows
const SPECIAL = /^(<\|.*\|>)?$/s; // as some tokenizers decode them to nothing
const player = { stop: () => {} };

/** The canvas after `count` steps: for each column the text's number, MASK or GONE; when it was filled, how surely. */
function canvasAfter(trace, count) {
  const canvas = { text: new Array(trace.length).fill(MASK), step: [], sure: [], end: trace.length };
  trace.steps.slice(0, count).forEach(([, , end, columns, texts, sure, remasked], number) => {
    columns.forEach((column, place) => {
      canvas.text[column] = texts[place];
      canvas.step[column] = number;
      canvas.sure[column] = sure[place];
    });
    for (const column of remasked) canvas.text[column] = MASK;
    canvas.end = end;
  });
  canvas.text.fill(GONE, canvas.end);
  return canvas;
}

/** Show the replay of rows `left` and `right`; returns what starts it for an item, or null where that has no trace. */
function showReplay(section, traces, left, right, item = null) {
  player.stop();
  const names = namesOf(section.rows);
  const sides = [left, right].map((row) => ({ row, name: names[row], traces: traces.rows[row] }));
  const having = traces.items.map((_, place) => sides.filter((side) => side.traces[place]).length);
  const offered = traces.items.map((_, place) => place).filter((place) => having[place]);
  const some = offered.length > 0;
  byId("player").hidden = !some;
  byId("untraced").hidden = some;
  if (!some) {
    fill(byId("untraced"), ...untraced(section, traces, sides));
    return () => null;
  }
  const note = (place) => (having[place] === 2 ? "" : ` (${sides.find((side) => side.traces[place]).name} only)`);
  const first = offered.find((place) => having[place] === 2) ?? offered[0];
  const chosen = item !== null && having[traces.items.indexOf(item)] ? traces.items.indexOf(item) : first;
  offer(byId("traced"), offered.map((place) => [place, traces.items[place] + note(place)]), chosen);
  const [held, all] = section.traced;
  fill(byId("traced-note"), held < all ? `${held} of ${all} traced items are in this page: those traced for most strategies.` : "");
  byId("traced").onchange = () => load(traces, sides, Number(byId("traced").value));
  load(traces, sides, chosen);
  return (wanted) => {
    const place = traces.items.indexOf(wanted);
    if (place < 0 || !having[place]) return null;
    return () => {
      byId("traced").value = String(place);
      load(traces, sides, place);
      byId("replay").scrollIntoView({ block: "start" });
      byId("play").focus({ preventScroll: true });
    };
  };
}

/** Why there is nothing to replay, and what to do about it. */
function untraced(section, traces, sides) {
  const others = namesOf(section.rows).filter((_, row) => traces.rows[row].some((trace) => trace));
  if (others.length) return [`No traces of these two. There are traces of: ${others.join(", ")}.`];
  const [side] = sides.filter(({ row }) => !section.rows[row].derived);
  const command = side ? section.rows[side.row].command : "l2pd-bench run ...";
  return [
    "No traces here: a run keeps how it decoded only when asked to. Run it with --trace, then make this page again: ",
    make("code", {}, command.includes("--trace") ? command : `${command} --trace`),
  ];
}

/** Put an item's two canvases up, at the start. */
function load(traces, sides, place) {
  player.stop();
  const loaded = sides.map((side) => ({ ...side, trace: side.traces[place] }));
  const steps = Math.max(...loaded.map(({ trace }) => trace?.steps.length ?? 0));
  const canvases = loaded.map((side) => canvasOf(side, traces.texts));
  fill(byId("canvases"), ...canvases.map(({ box }) => box));
  const slider = byId("step");
  slider.max = String(steps);
  const play = byId("play");

  const go = (to) => {
    slider.value = String(Math.max(0, Math.min(steps, to)));
    const at = Number(slider.value);
    slider.setAttribute("aria-valuetext", `step ${at} of ${steps}`);
    fill(byId("at"), `${at} / ${steps}`);
    for (const { draw } of canvases) draw(at);
  };
  player.stop = () => {
    clearInterval(player.timer);
    player.timer = null;
    fill(play, "Play");
  };
  const start = () => {
    if (Number(slider.value) === steps) go(0);
    fill(play, "Pause");
    clearInterval(player.timer);
    player.timer = setInterval(() => {
      go(Number(slider.value) + 1);
      if (Number(slider.value) === steps) player.stop();
    }, 1000 / Number(byId("speed").value));
  };
  const by = (change) => () => {
    player.stop();
    go(change(Number(slider.value)));
  };
  play.onclick = () => (player.timer ? player.stop() : start());
  byId("speed").onchange = () => player.timer && start();
  slider.oninput = by((at) => at);
  byId("first").onclick = by(() => 0);
  byId("back").onclick = by((at) => at - 1);
  byId("on").onclick = by((at) => at + 1);
  byId("last").onclick = by(() => steps);
  const told = loaded.find(({ trace }) => trace).trace;
  fill(byId("prompt").querySelector("pre"), traces.texts[told.prompt]);
  showReplayKey();
  go(0);
}

/** One side: a box, and a function that draws it after so many steps. */
function canvasOf({ name, trace }, texts) {
  const head = make("p", {}, make("code", {}, name));
  if (!trace) return { box: make("div", {}, head, make("p", { class: "quiet" }, "No trace of this item.")), draw: () => {} };
  const final = canvasAfter(trace, trace.steps.length);
  const cells = final.text.map((number, column) => {
    const cell = make("span", { class: "cell", "data-column": column });
    cell.style.minWidth = `${number < 0 ? 2 : Math.max(1, Math.min(LONGEST, cellText(texts[number]).length))}ch`;
    return cell;
  });
  // The lines of the answer, from the start: so nothing moves while it is filled.
  const lines = cells.flatMap((cell, column) => {
    const breaks = final.text[column] >= 0 && texts[final.text[column]].includes("\n");
    return breaks ? [cell, make("br")] : [cell];
  });
  const canvas = make("div", { class: "canvas", role: "img" }, ...lines);
  const doing = make("p", { class: "doing" });
  const draw = (at) => {
    const done = Math.min(at, trace.steps.length);
    const state = canvasAfter(trace, done);
    const [start, stop] = trace.steps.length ? trace.steps[Math.max(0, done - 1)] : [0, 0];
    cells.forEach((cell, column) => drawCell(cell, column, state, texts, { done, of: trace.steps.length, start, stop: Math.min(stop, state.end) }));
    const filled = state.text.filter((number) => number >= 0).length;
    const masks = state.text.filter((number) => number === MASK).length;
    canvas.setAttribute("aria-label", `Canvas of ${name} after ${done} forwards: ${filled} filled, ${masks} masks`);
    fill(doing, doneIn(trace, done, texts, masks));
  };
  return { box: make("div", {}, head, canvas, doing), draw };
}

function drawCell(cell, column, state, texts, { done, of, start, stop }) {
  const number = state.text[column];
  const kind = number === MASK ? "mask" : number === GONE ? "gone" : "filled";
  const isNew = kind === "filled" && state.step[column] === done - 1;
  const inBlock = column >= start && column < stop;
  cell.className = `cell ${kind}${isNew ? " new" : ""}${inBlock ? " active" : ""}${inBlock && column === start ? " from" : ""}${inBlock && column === stop - 1 ? " to" : ""}`;
  fill(cell, kind === "filled" ? cellText(texts[number]) : "");
  if (kind === "filled") {
    cell.style.setProperty("--when", String(of > 1 ? state.step[column] / (of - 1) : 0));
    cell.style.setProperty("--sure", String(state.sure[column]));
    cell.title = seen(`column ${column}, step ${state.step[column] + 1}, confidence ${state.sure[column].toFixed(2)}: ${JSON.stringify(texts[number])}`);
  } else cell.title = kind === "mask" ? `column ${column}: mask` : `column ${column}: cut off`;
}

/** What the last step did, in words. */
function doneIn(trace, done, texts, masks) {
  const rest = done === trace.steps.length ? " Done." : "";
  if (done === 0) return `Forward 0 of ${trace.steps.length}: all masks.${rest}`;
  const [start, stop, end, columns, tokens, sure, remasked] = trace.steps[done - 1];
  const before = done > 1 ? trace.steps[done - 2][2] : trace.length;
  const some = tokens.slice(0, 4).map((number, place) => `\u201c${cellText(texts[number])}\u201d ${sure[place].toFixed(2)}`);
  const filled = columns.length ? ` (${some.join(", ")}${columns.length > 4 ? ", \u2026" : ""})` : "";
  return (
    `Forward ${done} of ${trace.steps.length}, columns ${start}\u2013${stop - 1}: filled ${columns.length}${filled}` +
    `${remasked.length ? `, emptied ${remasked.length}` : ""}${end < before ? `, cut off ${before - end}` : ""}; ${masks} ${masks === 1 ? "mask" : "masks"} left.${rest}`
  );
}

/** A token as a cell shows it: white space visible, special tokens in short, as there are so many at the end. */
function cellText(text) {
  return SPECIAL.test(text) ? "\u220e" : seen(text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5"));
}

/** What colours and cells mean. */
function showReplayKey() {
  const swatch = (when, sure) => {
    const cell = make("span", { class: "cell filled swatch" });
    cell.style.setProperty("--when", String(when));
    cell.style.setProperty("--sure", String(sure));
    return cell;
  };
  const row = (sure) => Array.from({ length: 12 }, (_, place) => swatch(place / 11, sure));
  fill(
    byId("replay-key"),
    make("span", {}, "filled in its first forward ", ...row(1), " its last"),
    make("span", {}, "confidence 0 ", ...[0, 0.25, 0.5, 0.75, 1].map((sure) => swatch(0.15, sure)), " 1"),
    make("span", {}, make("span", { class: "cell mask swatch" }), " mask"),
    make("span", {}, make("span", { class: "cell gone swatch" }), " cut off behind the end of text"),
    make("span", {}, make("span", { class: "cell mask active from to swatch" }), " active block"),
    make("span", {}, "\u220e a special token, such as the end of text"),
  );
}
