// Starts the page, and holds what its parts share: the section and the two strategies that are chosen.

const board = await unpack("board");
let current = null; // the section whose samples and traces are loaded

function showNotes() {
  fill(byId("notes"), ...board.notes.map((note) => make("li", {}, note)));
  byId("notes").hidden = board.notes.length === 0;
  definitions(byId("legend").querySelector("dl"), board.legend);
  byId("cap").hidden = board.cap === null;
  fill(byId("cap"), board.cap === null ? "" : `Of texts longer than ${whole(board.cap)} characters, only the beginning is in this page; they are compared in full length.`);
}

/** The chooser: settings below their tasks. */
function offerSections() {
  const tasks = new Map();
  board.sections.forEach((section, index) => {
    if (!tasks.has(section.task)) tasks.set(section.task, make("optgroup", { label: section.task }));
    tasks.get(section.task).append(make("option", { value: index }, section.title));
  });
  fill(byId("section"), ...tasks.values());
  byId("section").onchange = () => showSection(Number(byId("section").value));
}

async function showSection(index) {
  const section = board.sections[index];
  current = null;
  player.stop();
  showBoard(section);
  showPlot(section);
  definitions(byId("setting").querySelector("dl"), section.setting);
  fill(byId("origin").querySelector("div"), ...section.origins.flatMap(({ specs, facts }) => {
    const list = make("dl");
    definitions(list, facts);
    return [make("h3", {}, specs.join(", ")), list];
  }));
  const names = namesOf(section.rows);
  const [left, right] = startingPair(section);
  offer(byId("left"), names.map((name, row) => [row, name]), left);
  offer(byId("right"), names.map((name, row) => [row, name]), right);
  byId("all").dataset.section = String(index);
  byId("all").dataset.loaded = "board";
  await new Promise((done) => setTimeout(done)); // the board is seen before the samples, which are large, are unpacked
  const [samples, traces] = await Promise.all([unpack(`samples-${index}`), unpack(`traces-${index}`)]);
  if (Number(byId("section").value) !== index) return; // another one was chosen meanwhile
  current = { section, samples, traces };
  byId("left").onchange = byId("right").onchange = showPair;
  showPair();
  byId("all").dataset.loaded = "all";
}

/** The baseline, and the first other row of the board: its fastest that is ranked. */
function startingPair({ rows }) {
  const base = Math.max(0, rows.findIndex((row) => row.baseline));
  const ranked = rows.findIndex((row, index) => index !== base && !row.invalid.length && row.deployable);
  const other = rows.findIndex((_, index) => index !== base);
  return [base, ranked >= 0 ? ranked : Math.max(0, other)];
}

function showPair() {
  const { section, samples, traces } = current;
  const [left, right] = [Number(byId("left").value), Number(byId("right").value)];
  const onReplay = showReplay(section, traces, left, right);
  showSamples(section, samples, left, right, onReplay);
}

showNotes();
if (board.sections.length) {
  byId("chooser").hidden = byId("all").hidden = false;
  offerSections();
  await showSection(0);
} else byId("empty").hidden = false;
document.documentElement.dataset.ready = "yes";
