// The board: one sortable, filterable table of the chosen section.

/** Show a section's board. */
function showBoard(section) {
  const order = { column: null, sign: 1 };
  const names = namesOf(section.rows);
  const lines = section.rows.map((row, index) => boardLine(row, names[index], section));

  fill(byId("title"), section.title);
  fill(byId("remarks"), ...section.remarks.map((remark) => make("li", {}, remark)));
  const titles = [
    header(board.strategy, () => sortBy(board.strategy, 0), "rowhead"),
    ...section.columns.map((column, index) => header(column, () => sortBy(column, index + 1), kindOf(column))),
    make("th", { scope: "col" }, "records"),
  ];
  fill(byId("rows").tHead, make("tr", {}, ...titles));

  const draw = () => {
    const wanted = byId("filter").value.trim().toLowerCase();
    const kept = section.rows
      .map((row, index) => ({ row, index }))
      .filter(({ row, index }) => names[index].toLowerCase().includes(wanted))
      .filter(({ row }) => !byId("only-valid").checked || row.invalid.length === 0)
      .filter(({ row }) => !byId("only-deployable").checked || row.deployable);
    if (order.column !== null) {
      const key = ({ row }) => sortKey(order.column ? row.cells[order.column - 1] : null, row, order.numeric);
      kept.sort((a, b) => compare(key(a), key(b), order.sign)); // stable: equals stay as the report has them
    }
    fill(byId("rows").tBodies[0], ...kept.map(({ index }) => lines[index]));
    const all = section.rows.length;
    fill(byId("count"), `${kept.length} of ${all} ${all === 1 ? "row" : "rows"}`);
  };

  const sortBy = (column, place) => {
    const first = column.numeric && column.highest ? -1 : 1;
    order.sign = order.column === place ? -order.sign : first;
    order.column = place;
    order.numeric = column.numeric;
    titles.forEach((title, index) => {
      if (index === place) title.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
      else title.removeAttribute("aria-sort");
    });
    draw();
  };

  for (const id of ["filter", "only-valid", "only-deployable"]) byId(id).oninput = draw;
  draw();
}

const kindOf = (column) => (column.words ? "words" : "number");

function header(column, act, kind) {
  const button = make("button", { type: "button", title: column.legend, onclick: act });
  return make("th", { scope: "col", class: kind }, twoLines(button, make("span", {}, column.title), column.under));
}

function boardLine(row, name, section) {
  const head = make("th", { scope: "row", class: "rowhead" }, make("code", {}, name));
  if (row.invalid.length) head.append(" ", make("span", { class: "badge bad", title: row.invalid.join("; ") }, "INVALID"));
  if (row.status !== "finished") head.append(" ", make("span", { class: "badge" }, row.status));
  const cells = row.cells.map(([text, detail, value, isBest], index) => {
    const shown = isBest ? make("strong", { title: "best of its column" }, text) : text;
    return twoLines(make("td", { class: kindOf(section.columns[index]) }), shown, detail);
  });
  return make("tr", { "data-spec": row.spec }, head, ...cells, make("td", { class: "folder" }, row.folder));
}

/** What a cell is sorted by: its number, or its text in a column without numbers, or the strategy's name. */
function sortKey(cell, row, numeric) {
  if (cell === null) return row.name;
  return numeric ? cell[2] : cell[0];
}

/** Missing last, whichever way. */
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return a < b ? -sign : a > b ? sign : 0;
}
