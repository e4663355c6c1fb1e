// The items of two strategies side by side: a paged table, and both answers of one item in full.

const PAGE_ITEMS = 50;
const MOST_CELLS = 4_000_000; // of the table that finds what two texts have in common
const STATES = { r: "right", w: "wrong", u: "ungraded", e: "error", "-": MISSING };

/** Texts of this section's samples by number; one that was cut says so. */
function textOf(samples, number) {
  if (number < 0) return "";
  const text = samples.texts[number];
  return typeof text === "string" ? text : `${text[0]} \u2026 (cut, ${whole(text[1])} characters in the record)`;
}

/** Show the table of the items of rows `left` and `right`. */
function showSamples(section, samples, left, right, onReplay) {
  const names = namesOf(section.rows);
  const [ours, theirs] = [samples.rows[left], samples.rows[right]];
  const columns = ["", "answer", "tokens", "NFE", "seconds"];
  let kept = [];
  let page = 0;
  let open = null;

  fill(
    byId("items").tHead,
    make("tr", {}, make("th", { rowspan: 2, scope: "col", class: "rowhead" }, "item"), ...[left, right].map((index) => make("th", { colspan: columns.length, scope: "colgroup", class: "side" }, make("code", {}, names[index])))),
    make("tr", {}, ...[0, 1].flatMap(() => columns.map((title, place) => make("th", { scope: "col", class: place === 0 ? "side" : place === 1 ? "" : "number" }, title || "result")))),
  );

  const draw = () => {
    const pages = Math.max(1, Math.ceil(kept.length / PAGE_ITEMS));
    page = Math.max(0, Math.min(page, pages - 1));
    const lines = kept.slice(page * PAGE_ITEMS, (page + 1) * PAGE_ITEMS).map((item) =>
      make(
        "tr",
        { "data-item": samples.items[item], class: item === open ? "open" : null, onclick: () => show(item) },
        make("th", { scope: "row", class: "rowhead" }, make("button", { type: "button", class: "link", "aria-expanded": String(item === open), "aria-controls": "answers" }, samples.items[item])),
        ...sampleCells(samples, ours, item),
        ...sampleCells(samples, theirs, item),
      ),
    );
    fill(byId("items").tBodies[0], ...lines);
    fill(byId("page"), `Page ${page + 1} of ${pages}`);
    byId("page-back").disabled = page === 0;
    byId("page-on").disabled = page === pages - 1;
  };

  const filter = () => {
    const wanted = byId("find").value.trim().toLowerCase();
    const keep = KEPT[byId("which").value];
    kept = samples.items.map((_, item) => item).filter((item) => keep(ours, theirs, item));
    if (wanted) kept = kept.filter((item) => samples.items[item].toLowerCase().includes(wanted));
    page = 0;
    fill(byId("found"), `${whole(kept.length)} of ${whole(samples.items.length)} items`);
    draw();
  };

  const show = (item) => {
    open = item;
    page = Math.floor(kept.indexOf(item) / PAGE_ITEMS);
    draw();
    showAnswers(samples, item, [[names[left], ours], [names[right], theirs]], {
      back: kept[kept.indexOf(item) - 1],
      on: kept[kept.indexOf(item) + 1],
      go: show,
      replay: onReplay(samples.items[item]),
      close: () => {
        open = null;
        byId("answers").hidden = true;
        draw();
        [...byId("items").tBodies[0].rows].find((line) => line.dataset.item === seen(samples.items[item]))?.querySelector("button").focus();
      },
    });
  };

  byId("which").onchange = filter;
  byId("find").oninput = filter;
  byId("page-back").onclick = () => (page--, draw());
  byId("page-on").onclick = () => (page++, draw());
  byId("answers").hidden = true;
  filter();
}

/** Which items a filter keeps. Equal texts have equal numbers. */
const KEPT = {
  all: (ours, theirs, item) => ours.state[item] !== "-" || theirs.state[item] !== "-",
  differ: (ours, theirs, item) =>
    ours.state[item] !== "-" && theirs.state[item] !== "-" && ours.text[item] !== theirs.text[item],
  one: (ours, theirs, item) =>
    ours.state[item] !== "-" && theirs.state[item] !== "-" && (ours.state[item] === "r") !== (theirs.state[item] === "r"),
};

function sampleCells(samples, row, item) {
  const state = row.state[item];
  if (state === "-") return [make("td", { class: "side", colspan: 5 }, "not decoded")];
  const clipped = textOf(samples, row.answer[item]).slice(0, 120);
  return [
    make("td", { class: `side state ${STATES[state]}` }, STATES[state]),
    make("td", { class: "clip" }, clipped),
    make("td", { class: "number" }, whole(row.net[item])),
    make("td", { class: "number" }, whole(row.nfe[item])),
    make("td", { class: "number" }, digits(row.seconds[item])),
  ];
}

/** Both answers of an item in full, what differs marked. */
function showAnswers(samples, item, sides, { back, on, go, replay, close }) {
  const step = (text, to) => make("button", { type: "button", disabled: to === undefined, onclick: () => go(to) }, text);
  const texts = sides.map(([, row]) => textOf(samples, row.text[item]));
  const [parts, note] = marked(texts[0], texts[1]);
  const panel = byId("answers");
  const pressed = panel.contains(document.activeElement) ? document.activeElement.textContent : null;
  fill(
    panel,
    make("h3", { id: "answers-title" }, samples.items[item]),
    make("div", { class: "controls" }, step("Previous item", back), step("Next item", on), ...(replay ? [make("button", { type: "button", onclick: replay }, "Replay")] : []), make("button", { type: "button", onclick: close }, "Close")),
    make("div", { class: "pair" }, ...sides.map(([name, row], side) => oneAnswer(samples, item, name, row, parts[side], side))),
    ...(note ? [make("p", { class: "quiet" }, note)] : []),
  );
  panel.hidden = false;
  const again = [...panel.querySelectorAll("button:enabled")].find((button) => button.textContent === pressed);
  (again ?? panel).focus({ preventScroll: true }); // who goes on from item to item presses the same button
  panel.scrollIntoView({ block: "nearest" });
}

function oneAnswer(samples, item, name, row, parts, side) {
  const state = row.state[item];
  const head = make("p", {}, make("code", {}, name), " ", make("span", { class: `state ${STATES[state]}` }, state === "-" ? "not decoded" : STATES[state]));
  const body = make("pre", { dir: "auto" }, ...parts.map(([text, differs]) => (differs ? make("mark", { class: side ? "theirs" : "ours" }, text) : text)));
  const box = make("div", { class: "answer" }, head);
  if (row.errors[item] !== undefined) box.append(make("p", { class: "bad" }, textOf(samples, row.errors[item])));
  box.append(body);
  if (state !== "-" && row.answer[item] !== row.text[item]) box.append(make("p", { class: "graded" }, "graded: ", make("code", {}, textOf(samples, row.answer[item]))));
  return box;
}

/** Two texts as parts [text, differs], by what words they have in common; and a note where that was too much to find. */
function marked(left, right) {
  const [ours, theirs] = [left, right].map((text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s]/gu) ?? []);
  let head = 0;
  while (head < ours.length && head < theirs.length && ours[head] === theirs[head]) head++;
  let tail = 0;
  while (tail < Math.min(ours.length, theirs.length) - head && ours.at(-1 - tail) === theirs.at(-1 - tail)) tail++;
  const middles = [ours, theirs].map((words) => words.slice(head, words.length - tail));
  const tooLong = middles[0].length * middles[1].length > MOST_CELLS;
  const common = tooLong ? middles.map(() => new Set()) : alike(...middles);
  const parts = middles.map((middle, side) => {
    const words = side ? theirs : ours;
    const flags = words.map((_, at) => at >= head && at < words.length - tail && !common[side].has(at - head));
    return joined(words, flags);
  });
  return [parts, tooLong ? "Too long to compare word by word: everything between the first and the last difference is marked." : ""];
}

/** Positions in each list of a longest common subsequence. */
function alike(a, b) {
  const wide = b.length + 1;
  const length = new Uint32Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i * wide + j] =
        a[i] === b[j] ? length[(i + 1) * wide + j + 1] + 1 : Math.max(length[(i + 1) * wide + j], length[i * wide + j + 1]);
    }
  }
  const found = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      found[0].add(i++);
      found[1].add(j++);
    } else if (length[(i + 1) * wide + j] >= length[i * wide + j + 1]) i++;
    else j++;
  }
  return found;
}

function joined(words, flags) {
  const parts = [];
  words.forEach((word, at) => {
    if (parts.length && parts.at(-1)[1] === flags[at]) parts.at(-1)[0] += word;
    else parts.push([word, flags[at]]);
  });
  return parts;
}
