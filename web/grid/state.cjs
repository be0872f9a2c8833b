"use strict";
// What data.js says and what the user chose. The page's address holds all of the latter, by the keys of axes and values,
// so that an address stays right when a grid is extended.
const PLACES = { x: "X", y: "Y", super_x: "Super-X", super_y: "Super-Y" };
const MODES = ["side", "flicker", "difference"];
const LEAST_SIZE = 24, MOST_SIZE = 1024; // px
const BETWEEN = 350; // ms between two writings of the address
let data = null, state = null;
let writing = 0, written = -Infinity; // the timer and the time of the last writing
let records = new Map(); // number of a cell -> what came of it

function initial() {
  const axes = data.axes.map((_, number) => number);
  const places = { x: null, y: null, super_x: null, super_y: null, ...data.view };
  for (const place of ["x", "y"]) {
    const used = Object.values(places);
    places[place] ??= axes.find((number) => !used.includes(number)) ?? null;
  }
  return {
    places, at: data.axes.map((axis) => axis.default), hidden: data.axes.map((axis) => new Set(skipped(axis))),
    order: data.axes.map(natural), size: 160, fit: "", heat: "", plain: false, output: 1, open: false, facts: true,
    actual: false, other: null, mode: "side", gain: 1, seconds: 0.5, top: 0, left: 0, language: "",
  };
}

const skipped = (axis) => axis.values.flatMap((value, index) => (value.skip ? [index] : []));
const natural = (axis) => axis.values.map((_, index) => index);
const valueOf = (axis, key) => data.axes[axis].values.findIndex((value) => value.key === key);
const valueAt = (axis) => data.axes[axis].values[state.at[axis]];

function axisOf(key) {
  const index = data.axes.findIndex((axis) => axis.key === key);
  return index < 0 ? null : index;
}

/** Indices of an axis by their keys, without those that are not there. */
const indicesOf = (axis, keys) => keys.map((key) => valueOf(axis, key)).filter((index) => index >= 0);

function between(text, least, most, usual) {
  const number = Number(text);
  return text && Number.isFinite(number) ? Math.min(most, Math.max(least, number)) : usual;
}

function readHash() {
  state = initial();
  const query = new URLSearchParams(location.hash.slice(1));
  for (const place of Object.keys(PLACES)) if (query.has(place)) state.places[place] = axisOf(query.get(place));
  const seen = new Set();
  for (const place of Object.keys(PLACES)) {
    if (seen.has(state.places[place])) state.places[place] = null;
    if (state.places[place] !== null) seen.add(state.places[place]);
  }
  data.axes.forEach((axis, number) => {
    const index = valueOf(number, query.get(`at.${axis.key}`));
    if (index >= 0) state.at[number] = index;
    if (query.has(`hide.${axis.key}`)) state.hidden[number] = new Set(indicesOf(number, query.getAll(`hide.${axis.key}`)));
    const first = [...new Set(indicesOf(number, query.getAll(`order.${axis.key}`)))];
    state.order[number] = [...first, ...state.order[number].filter((other) => !first.includes(other))];
  });
  if (query.has("with")) {
    state.other = data.axes.map((axis, number) => Math.max(0, valueOf(number, query.get(`with.${axis.key}`))));
  }
  state.size = Math.round(between(query.get("size"), LEAST_SIZE, MOST_SIZE, state.size));
  state.fit = ["width", "all"].includes(query.get("fit")) ? query.get("fit") : "";
  state.heat = query.get("heat") ?? "";
  state.mode = MODES.includes(query.get("mode")) ? query.get("mode") : state.mode;
  state.gain = between(query.get("gain"), 1, 32, 1);
  state.seconds = between(query.get("seconds"), 0.05, 10, state.seconds);
  state.output = Math.round(between(query.get("output"), 0, 99, 1));
  state.top = Math.round(between(query.get("row"), 0, Infinity, 0));
  state.left = Math.round(between(query.get("column"), 0, Infinity, 0));
  state.open = query.has("open");
  state.plain = query.has("plain");
  state.actual = query.has("actual");
  state.facts = !query.has("bare");
  state.language = ["en", "zh"].includes(query.get("lang")) ? query.get("lang") : "";
  language = state.language || ofTheBrowser();
}

/** Puts the view into the address, at once or a little later: browsers refuse more than a hundred times in 30 s. */
function writeHash() {
  if (writing) return;
  const wait = written + BETWEEN - performance.now();
  if (wait <= 0) writeHashNow();
  else writing = setTimeout(writeHashNow, wait);
}

function writeHashNow() {
  clearTimeout(writing);
  writing = 0;
  written = performance.now();
  const query = new URLSearchParams(), usual = initial();
  for (const [place, axis] of Object.entries(state.places)) query.set(place, axis === null ? "" : data.axes[axis].key);
  data.axes.forEach((axis, number) => {
    query.set(`at.${axis.key}`, valueAt(number).key);
    if (state.other) query.set(`with.${axis.key}`, axis.values[state.other[number]].key);
    if (String(state.order[number]) !== String(natural(axis))) {
      for (const index of state.order[number]) query.append(`order.${axis.key}`, axis.values[index].key);
    }
    const hidden = [...state.hidden[number]].sort((a, b) => a - b);
    if (String(skipped(axis)) === String(hidden)) return;
    for (const index of hidden.length ? hidden : [-1]) query.append(`hide.${axis.key}`, axis.values[index]?.key ?? "");
  });
  query.set("size", state.size);
  for (const name of ["fit", "heat", "mode", "gain", "seconds", "output"]) {
    if (state[name] !== usual[name]) query.set(name, state[name]);
  }
  const flags = { open: state.open, plain: state.plain, actual: state.actual, bare: !state.facts, with: state.other };
  for (const [name, holds] of Object.entries(flags)) if (holds) query.set(name, "1");
  if (state.top) query.set("row", state.top);
  if (state.left) query.set("column", state.left);
  if (state.language) query.set("lang", state.language);
  history.replaceState(null, "", `#${query}`);
}

/** The values of an axis that the table shows, in its order; of no axis, one value that is none. */
function shownValues(axis) {
  if (axis === null) return [null];
  const shown = state.order[axis].filter((index) => !state.hidden[axis].has(index));
  return shown.length ? shown : [state.at[axis]];
}

/** The number of a cell in data.js. */
function numberOf(at) {
  return data.axes.reduce((place, axis, number) => place * axis.values.length + at[number], 0);
}

/** A value goes before or behind another one in the order of its axis. */
function reorder(axis, index, target) {
  const order = state.order[axis], from = order.indexOf(index), to = order.indexOf(target);
  if (from === to) return;
  order.splice(from, 1);
  order.splice(to, 0, index);
}

/** A value goes one place up or down among all values of its axis. */
function shift(axis, index, step) {
  const order = state.order[axis], target = order[order.indexOf(index) + step];
  if (target !== undefined) reorder(axis, index, target);
}

/** The axis goes to a place, and the axis that was there takes the first one's. */
function put(place, axis) {
  const other = Object.keys(PLACES).find((name) => name !== place && axis !== null && state.places[name] === axis);
  if (other) state.places[other] = state.places[place];
  state.places[place] = axis;
  fromTheStart();
  draw();
}
