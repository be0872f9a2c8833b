"use strict";
// A colour for each cell by a score or by its time. The colours are those of viridis (S. van der Walt and N. Smith,
// 2015, CC0), which people of every colour vision can order.
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const TIME = "time", SCORE = "score:";
let heat = null; // {least, most} over all cells

/** [key, text] of all that cells can be coloured by. */
function heats() {
  const names = new Set();
  let timed = false;
  for (const record of records.values()) {
    for (const name of Object.keys(record.scores ?? {})) names.add(name);
    timed ||= Number.isFinite(record.seconds);
  }
  const scores = [...names].sort().map((name) => [SCORE + name, name]);
  return [...scores, ...(timed ? [[TIME, t("Time")]] : [])];
}

/** The number by which a cell is coloured, or undefined. */
function warmth(record) {
  if (!state.heat || !record) return undefined;
  const number = state.heat === TIME ? record.seconds : record.scores?.[state.heat.slice(SCORE.length)];
  return Number.isFinite(number) ? number : undefined;
}

function measureHeat() {
  const numbers = [];
  if (state.heat) for (const record of records.values()) numbers.push(warmth(record));
  const known = numbers.filter((number) => number !== undefined);
  const extreme = (better) => known.reduce((a, b) => (better(a, b) ? a : b));
  heat = known.length ? { least: extreme((a, b) => a < b), most: extreme((a, b) => a > b) } : null;
}

/** {background, text} of a number. */
function colours(number) {
  const share = heat.most > heat.least ? (number - heat.least) / (heat.most - heat.least) : 0.5;
  const place = share * (VIRIDIS.length - 1), low = Math.min(VIRIDIS.length - 2, Math.floor(place));
  const rgb = VIRIDIS[low].map((value, channel) => Math.round(value + (place - low) * (VIRIDIS[low + 1][channel] - value)));
  const light = 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
  return { background: `rgb(${rgb})`, text: light > 120 ? "#000" : "#fff" };
}

const rounded = (number) => String(Number(number.toPrecision(4)));

function legend() {
  const box = $("#legend");
  box.replaceChildren();
  if (!heat) return;
  box.append(element("span", rounded(heat.least)), element("span", "", { className: "scale" }), element("span", rounded(heat.most)));
  const stops = VIRIDIS.map((rgb) => `rgb(${rgb})`).join(", ");
  box.children[1].style.background = `linear-gradient(to right, ${stops})`;
}

/** Puts the values of an axis in the order of their mean, the largest first; those without a number last. */
function sortByHeat(axis) {
  const after = data.axes.slice(axis + 1).reduce((product, other) => product * other.values.length, 1);
  const sums = data.axes[axis].values.map(() => [0, 0]);
  for (const [number, record] of records) {
    const warm = warmth(record), sum = sums[Math.floor(number / after) % sums.length];
    if (warm === undefined) continue;
    sum[0] += warm;
    sum[1] += 1;
  }
  const means = sums.map(([sum, count]) => (count ? sum / count : -Infinity));
  state.order[axis] = natural(data.axes[axis]).sort((a, b) => (means[a] === means[b] ? a - b : means[b] - means[a]));
}
