"use strict";
// The table. Only the cells in sight are in the page: ten thousand of them scroll as fast as a hundred.
const BEYOND = 2; // rows and columns around those in sight that are made, too
// ms of a frame that making cells may take, and cells that it makes in any case; laying them out takes thrice as long
const BUDGET = 3, FEWEST = 10;
const LINE = 1, BAR = 18; // px: between cells; below a picture for the number of the heat map
const MOST_LETTERS = 500; // of a text in the table: errors may have thousands
const NAME = 17; // px of a line in the corner
const TALLEST = 2.5, FLATTEST = 0.4; // height / width of a cell
let layout = null; // {columns, rows, ...}, see arrange
let shape = 1; // height / width of the pictures
let rows = new Map(); // row -> {element, cells: Map(column -> element)}, of those in the page
let heads = new Map(); // key -> heading in the page
let frame = 0, settled = 0;

function arrange() {
  const { x, y, super_x: superX, super_y: superY } = state.places;
  const xs = shownValues(x), ys = shownValues(y), superXs = shownValues(superX), superYs = shownValues(superY);
  const columns = superXs.flatMap((outer) => xs.map((inner) => [outer, inner]));
  const lines = superYs.flatMap((outer) => ys.map((inner) => [outer, inner]));
  const before = layout;
  if (before) rememberPlace();
  layout = { columns, lines, perX: xs.length, perY: ys.length, ...measure(columns.length, lines.length) };
  rows = new Map();
  heads = new Map();
  for (const name of ["head", "side", "body"]) $(`#${name}`).replaceChildren();
  const shortOfRoom = [superX, x, superY, y].filter((axis) => axis !== null).length * NAME > layout.top;
  const names = [[[superX, x], "\u2192", "across"], [[superY, y], "\u2193", "down"]];
  $("#corner").replaceChildren(...names.map((name) => axisNames(...name, shortOfRoom ? " / " : "\n")));
  place();
  if (before?.width !== layout.width || before.height !== layout.height) {
    $("main").scrollTo(state.left * layout.width, state.top * layout.height);
    render();
  }
}

/** The titles of the axes across or down the table. */
function axisNames(axes, arrow, className, between) {
  const titles = axes.filter((axis) => axis !== null).map((axis) => data.axes[axis].title);
  const text = titles.map((title) => `${title} ${arrow}`).join(between);
  return element("div", text, { className, title: text });
}

/** The sizes of all parts, which follow from the size of a cell or from that of the window. */
function measure(columns, lines) {
  const main = $("main"), { x, y, super_x: superX, super_y: superY } = state.places;
  const unit = Math.min(150, Math.round(main.clientWidth / 5)), side = unit * ((y !== null) + (superY !== null));
  const head = 36, top = head * ((x !== null) + (superX !== null));
  const bar = heat && !state.plain ? BAR : 0;
  if (state.fit) {
    const wide = (main.clientWidth - side) / columns - LINE;
    const tall = ((main.clientHeight - top) / lines - LINE - bar) / shape;
    state.size = Math.floor(Math.min(MOST_SIZE, Math.max(LEAST_SIZE, state.fit === "all" ? Math.min(wide, tall) : wide)));
  }
  const width = state.size + LINE, height = Math.round(state.size * shape) + bar + LINE;
  return { unit, side, head, top, bar, width, height, wide: width * columns, tall: height * lines };
}

function place() {
  const { side, top, wide, tall, width, height, bar } = layout, style = $("#sheet").style, main = $("main");
  for (const [name, size] of Object.entries({ side, top, wide, tall, cell: width - LINE, high: height - LINE, bar })) {
    style.setProperty(`--${name}`, `${size}px`);
  }
  main.setAttribute("aria-rowcount", layout.lines.length);
  main.setAttribute("aria-colcount", layout.columns.length);
  main.setAttribute("aria-label", data.title);
  render();
}

/** The row and the column that are first in sight. */
function rememberPlace() {
  state.top = Math.round($("main").scrollTop / layout.height);
  state.left = Math.round($("main").scrollLeft / layout.width);
}

/** The next table is shown from its first cell, or from the one that the address names. */
function fromTheStart(top = 0, left = 0) {
  layout = null;
  Object.assign(state, { top, left });
}

/** After a change of the size: the cell that was first in sight stays there. */
function resize() {
  arrange();
  writeHash();
}

const coordinates = (row, column) => [
  [state.places.super_y, layout.lines[row][0]], [state.places.y, layout.lines[row][1]],
  [state.places.super_x, layout.columns[column][0]], [state.places.x, layout.columns[column][1]],
];

/** The value of each axis of a cell of the table. */
function atOf(row, column) {
  const at = [...state.at];
  for (const [axis, index] of coordinates(row, column)) if (axis !== null) at[axis] = index;
  return at;
}

/** [row, column] of the cell whose values are those of the state; -1 where it is hidden. */
function whereIs(at) {
  const { x, y, super_x: superX, super_y: superY } = state.places;
  const same = (outer, inner) => ([a, b]) => (outer === null || at[outer] === a) && (inner === null || at[inner] === b);
  return [layout.lines.findIndex(same(superY, y)), layout.columns.findIndex(same(superX, x))];
}

// What is in sight

function range(from, length, step, count) {
  const first = Math.max(0, Math.floor(from / step) - BEYOND);
  return [first, Math.min(count, Math.ceil((from + length) / step) + BEYOND)];
}

function later() {
  frame ||= requestAnimationFrame(() => { frame = begun = 0; render(); });
}

function render() {
  if (!layout) return;
  const main = $("main"), { columns, lines, width, height, side, top } = layout;
  const [top0, top1] = range(main.scrollTop, main.clientHeight - top, height, lines.length);
  const [left0, left1] = range(main.scrollLeft, main.clientWidth - side, width, columns.length);
  headings(top0, top1, left0, left1);
  for (const [number, row] of rows) {
    if (number < top0 || number >= top1) {
      row.element.remove();
      rows.delete(number);
      continue;
    }
    for (const [column, cell] of row.cells) {
      if (column >= left0 && column < left1) continue;
      cell.remove();
      row.cells.delete(column);
    }
  }
  const start = performance.now();
  let made = 0;
  for (let number = top0; number < top1; number++) {
    const row = rows.get(number) ?? addRow(number);
    for (let column = left0; column < left1; column++) {
      if (row.cells.has(column)) continue;
      if (made++ > FEWEST && performance.now() - start > BUDGET) {
        later();
        pump();
        return;
      }
      addCell(row, number, column);
    }
  }
  pump();
}

function addRow(number) {
  const made = element("div", "", { role: "row", className: "row", ariaRowIndex: String(number + 1) });
  made.style.top = `${number * layout.height}px`;
  $("#body").append(made);
  const row = { element: made, cells: new Map() };
  rows.set(number, row);
  return row;
}

function addCell(row, number, column) {
  const at = atOf(number, column), made = element("div", "", { role: "gridcell", ariaColIndex: String(column + 1) });
  made.style.left = `${column * layout.width}px`;
  made.id = `cell-${number}-${column}`;
  made.at = at;
  made.dataset.number = numberOf(at);
  fill(made);
  row.element.append(made);
  row.cells.set(column, made);
}

const cellsInPage = () => [...rows.values()].flatMap((row) => [...row.cells.values()]);

/** The state of a cell in a word, which is its class, too. */
function stateOf(record, at) {
  if (record) return record.error === undefined ? "done" : "failed";
  return data.axes.some((axis, number) => axis.values[at[number]].skip) ? "skipped" : "waiting";
}

function fill(cell) {
  const record = records.get(Number(cell.dataset.number)), now = JSON.stringify([record ?? null, language]);
  if (cell.shown === now) return;
  cell.shown = now;
  const kind = stateOf(record, cell.at), warm = heat ? warmth(record) : undefined;
  cell.className = `cell ${kind}`;
  cell.style.background = "";
  cell.replaceChildren();
  if (warm !== undefined && state.plain) {
    const { background, text } = colours(warm);
    cell.style.background = background;
    cell.append(element("p", rounded(warm), { className: "number" }));
    cell.firstChild.style.color = text;
  } else {
    cell.append(content(record, kind));
    if (warm !== undefined) {
      const { background, text } = colours(warm), bar = element("p", rounded(warm), { className: "bar" });
      Object.assign(bar.style, { background, color: text });
      cell.append(bar);
    }
  }
  const titles = placed().map((axis) => data.axes[axis].values[cell.at[axis]].title.slice(0, MOST_LETTERS));
  cell.ariaLabel = [...titles, ...said(record, kind, warm)].join(", ");
  cell.classList.toggle("current", Number(cell.dataset.number) === numberOf(state.at));
  cell.classList.toggle("other", state.other !== null && Number(cell.dataset.number) === numberOf(state.other));
}

const placed = () => ["super_y", "y", "super_x", "x"].map((name) => state.places[name]).filter((axis) => axis !== null);

function said(record, kind, warm) {
  const states = { done: "", failed: t("Failed"), skipped: t("Skipped"), waiting: t("Not there yet") };
  return [states[kind], warm === undefined ? "" : rounded(warm)].filter(Boolean);
}

function content(record, kind) {
  if (kind === "done" && record.files.length) {
    const shown = outputs(record);
    if (shown.length === 1 && shown[0].matches("img, video")) return shown[0]; // thousands of boxes cost time
    const box = element("div", "", { className: "content" });
    box.append(...shown);
    return box;
  }
  const box = element("div", "", { className: "content" });
  if (kind === "failed") box.append(element("p", record.error.slice(0, MOST_LETTERS)));
  else if (kind !== "done") box.append(element("p", kind === "skipped" ? t("Skipped") : t("Not there yet")));
  else box.append(element("p", Object.values(record.texts ?? {}).join("\n").slice(0, MOST_LETTERS)));
  return box;
}

/** The output of a cell that the table shows, or all of them side by side. */
function outputs(record) {
  const { files } = record;
  if (state.output === 0 && files.length > 1) {
    const wide = Math.ceil(Math.sqrt(files.length)), box = element("div", "", { className: "many" });
    box.style.gridTemplate = `repeat(${Math.ceil(files.length / wide)}, minmax(0, 1fr)) / repeat(${wide}, minmax(0, 1fr))`;
    box.append(...files.map((file) => preview(file, record, state.size / wide)));
    return [box];
  }
  const file = files[Math.min(Math.max(state.output, 1), files.length) - 1], shown = [preview(file, record, state.size)];
  if (files.length > 1) shown.push(element("span", `${files.indexOf(file) + 1}/${files.length}`, { className: "count" }));
  return shown;
}

/** All cells that are in the page, anew where something has changed. */
function refill(all = false) {
  for (const cell of cellsInPage()) {
    if (all) cell.shown = "";
    fill(cell);
  }
  pump();
}

function mark() {
  for (const cell of cellsInPage()) {
    cell.classList.toggle("current", Number(cell.dataset.number) === numberOf(state.at));
    cell.classList.toggle("other", state.other !== null && Number(cell.dataset.number) === numberOf(state.other));
  }
  const [row, column] = whereIs(state.at);
  if (rows.get(row)?.cells.has(column)) $("main").setAttribute("aria-activedescendant", `cell-${row}-${column}`);
  else $("main").removeAttribute("aria-activedescendant");
}

// Headings

function headings(top0, top1, left0, left1) {
  const { columns, lines, perX, perY, width, height, unit, head } = layout, wanted = new Set();
  const { x, y, super_x: superX, super_y: superY } = state.places;
  const need = (key, parent, axis, index, box) => {
    wanted.add(key);
    if (heads.has(key)) return;
    const made = heading(axis, index, box);
    heads.set(key, made);
    $(parent).append(made);
  };
  for (let column = left0; column < left1; column++) {
    const [outer, inner] = columns[column], first = Math.floor(column / perX);
    if (superX !== null) {
      need(`X${first}`, "#head", superX, outer, { left: first * perX * width, top: 0, width: perX * width, height: head });
    }
    const below = superX === null ? 0 : head;
    if (x !== null) need(`x${column}`, "#head", x, inner, { left: column * width, top: below, width, height: head });
  }
  for (let row = top0; row < top1; row++) {
    const [outer, inner] = lines[row], first = Math.floor(row / perY);
    if (superY !== null) {
      need(`Y${first}`, "#side", superY, outer, { left: 0, top: first * perY * height, width: unit, height: perY * height });
    }
    const left = superY === null ? 0 : unit;
    if (y !== null) need(`y${row}`, "#side", y, inner, { left, top: row * height, width: unit, height });
  }
  for (const [key, made] of heads) {
    if (wanted.has(key)) continue;
    made.remove();
    heads.delete(key);
  }
}

function heading(axis, index, box) {
  const value = data.axes[axis].values[index], across = [state.places.x, state.places.super_x].includes(axis);
  const made = element("div", "", { className: "heading", role: across ? "columnheader" : "rowheader", draggable: true });
  made.classList.add(Object.keys(PLACES).find((name) => state.places[name] === axis));
  for (const [name, size] of Object.entries(box)) made.style[name] = `${size}px`;
  made.title = [`${data.axes[axis].title}: ${value.title}`, value.description].filter(Boolean).join("\n");
  made.append(element("div", value.title.slice(0, MOST_LETTERS)));
  carry(made, axis, index, draw);
  return made;
}

/** Dragged onto another value of its axis, a value takes that one's place. */
let carried = null;
function carry(made, axis, index, after) {
  made.addEventListener("dragstart", (event) => {
    carried = { axis, index };
    event.dataTransfer.setData("text/plain", data.axes[axis].values[index].title);
    event.dataTransfer.effectAllowed = "move";
  });
  made.addEventListener("dragend", () => { carried = null; });
  made.addEventListener("dragover", (event) => { if (carried?.axis === axis) event.preventDefault(); });
  made.addEventListener("drop", (event) => {
    if (carried?.axis !== axis) return;
    event.preventDefault();
    reorder(axis, carried.index, index);
    after();
  });
}

// Mouse and keys

/** Brings a cell of the table into sight, beside the headings. */
function reveal(row, column) {
  const main = $("main"), { width, height, side, top } = layout;
  const near = (from, length, least, size) => Math.max(Math.min(from, least), least + size - length);
  const left = near(main.scrollLeft, main.clientWidth - side, column * width, width);
  main.scrollTo(left, near(main.scrollTop, main.clientHeight - top, row * height, height));
  render();
}

/** The current cell becomes another one of the table. */
function go(row, column) {
  row = Math.min(Math.max(row, 0), layout.lines.length - 1);
  column = Math.min(Math.max(column, 0), layout.columns.length - 1);
  state.at = atOf(row, column);
  reveal(row, column);
  mark();
  writeHash();
}

function tableKey(event) {
  const [row, column] = whereIs(state.at).map((place) => Math.max(place, 0));
  const page = Math.max(1, Math.floor(($("main").clientHeight - layout.top) / layout.height));
  const last = [layout.lines.length - 1, layout.columns.length - 1];
  const targets = {
    ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
    PageUp: [row - page, column], PageDown: [row + page, column],
    Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? last[0] : row, last[1]],
  };
  if (targets[event.key]) go(...targets[event.key]);
  else if (event.key === "Enter" || event.key === " ") open(state.at);
  else return false;
  return true;
}

function open(at) {
  state.at = at;
  state.open = true;
  popup();
}

$("#body").addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (!cell) return;
  if (event.shiftKey) state.other = state.at;
  open(cell.at);
});
$("main").addEventListener("scroll", () => {
  later();
  scrolled = performance.now();
  clearTimeout(settled);
  settled = setTimeout(() => {
    pump();
    rememberPlace();
    writeHash();
  }, CALM + 20);
}, { passive: true });
$("#body").addEventListener("error", (event) => {
  if (event.target.matches("img, video")) event.target.replaceWith(element("p", t("The file {name} is missing.", { name: event.target.alt || nameOf(decodeURIComponent(event.target.src)) }), { className: "missing" }));
}, true);
new ResizeObserver(() => { if (layout) arrange(); }).observe($("main"));
