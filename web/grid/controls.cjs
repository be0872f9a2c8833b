"use strict";
// The controls above the table, and the list of keys.

function header() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = $("h1").textContent = data.title;
  $("#description").textContent = data.description;
  $("#panel summary").textContent = t("Controls");
  $("#language").textContent = language === "zh" ? "English" : "\u4e2d\u6587";
  $("#help").textContent = t("Keys");
  const { done, failed, total, running, seconds_left: left } = data.progress;
  const parts = [t("{done} of {total} cells", { done, total }), failed && t("{failed} failed", { failed })];
  if (running && left) parts.push(t("{minutes} min left", { minutes: Math.ceil(left / 60) }));
  $("#progress").textContent = parts.filter(Boolean).join(language === "zh" ? "\uff0c" : ", ");
}

function controls() {
  const box = $("#controls");
  box.replaceChildren(group(...Object.entries(PLACES).map(placeControl)));
  const others = data.axes.flatMap((axis, number) => (placed().includes(number) ? [] : [otherControl(axis, number)]));
  if (others.length) box.append(group(...others));
  box.append(group(element("span", t("Values:")), ...data.axes.map(valueList)));
  box.append(group(...sizeControls()));
  const more = [...heatControls(), ...outputControls()];
  if (more.length) box.append(group(...more));
  box.append(group(
    button(t("Save as PNG"), () => saveTable(), { id: "png", title: t("All rows and columns of the table as one picture") }),
    button(t("Copy link"), copyLink, { id: "link", title: t("The address of exactly this view") }),
  ));
}

function group(...parts) {
  const box = element("div", "", { className: "group" });
  box.append(...parts);
  return box;
}

function placeControl([place, name]) {
  const options = [["", "-"], ...data.axes.map((axis, number) => [String(number), axis.title])];
  const axis = state.places[place];
  const chosen = (value) => put(place, value === "" ? null : Number(value));
  return labelled(name, select(options, axis === null ? "" : String(axis), chosen, { id: place }));
}

function otherControl(axis, number) {
  const title = number < 9 ? t("Keys {key} and Shift+{key}", { key: number + 1 }) : "";
  const options = state.order[number].map((index) => [String(index), axis.values[index].title]);
  const chosen = (value) => { state.at[number] = Number(value); draw(); };
  return labelled(axis.title, select(options, String(state.at[number]), chosen, { className: "other", title }));
}

function sizeControls() {
  const size = element("input", "", { type: "range", min: LEAST_SIZE, max: 512, value: state.size, id: "size" });
  size.addEventListener("input", () => {
    state.size = Number(size.value);
    state.fit = "";
    for (const fit of document.querySelectorAll(".fit")) fit.ariaPressed = "false";
    resize();
  });
  const fits = [["width", t("Fit the width"), t("All columns in the width of the window")],
    ["all", t("Fit all"), t("The whole table in the window")]].map(([fit, text, title]) => button(text, () => {
    state.fit = state.fit === fit ? "" : fit;
    resize();
    controls();
    $(`#fit-${fit}`).focus();
  }, { id: `fit-${fit}`, className: "fit", title, ariaPressed: String(state.fit === fit) }));
  return [labelled(t("Size"), size), ...fits];
}

function heatControls() {
  const known = heats();
  if (!known.length) return [];
  const chosen = (value) => { state.heat = value; draw(); };
  const map = select([["", "-"], ...known], known.some(([key]) => key === state.heat) ? state.heat : "", chosen, { id: "heat" });
  const plain = element("input", "", { type: "checkbox", checked: state.plain, id: "plain", disabled: !state.heat });
  plain.addEventListener("change", () => { state.plain = plain.checked; draw(); });
  return [labelled(t("Heat map"), map), labelled(t("Colours alone"), plain), element("a", "scores.csv", { href: "scores.csv" })];
}

function outputControls() {
  let most = 1;
  for (const record of records.values()) most = Math.max(most, record.files?.length ?? 1);
  if (most === 1) return [];
  const options = [["0", t("all")], ...Array.from({ length: most }, (_, index) => [String(index + 1), String(index + 1)])];
  const chosen = (value) => { state.output = Number(value); draw(); };
  return [labelled(t("Output"), select(options, String(state.output), chosen, { id: "output" }))];
}

// Which values of an axis are shown, and their order

function valueList(axis, number) {
  const box = element("details", "", { className: "values" }), list = element("div");
  box.append(element("summary", axis.title), list);
  listValues(list, axis, number);
  return box;
}

function listValues(list, axis, number) {
  const changed = () => { table(); listValues(list, axis, number); };
  const all = (hidden) => () => { state.hidden[number] = new Set(hidden); changed(); };
  list.replaceChildren();
  if (axis.description) list.append(element("p", axis.description));
  list.append(group(
    button(t("All"), all([])), button(t("None"), all(natural(axis))),
    button(t("First order"), () => { state.order[number] = natural(axis); changed(); }),
    ...(heat ? [button(t("By the heat map"), () => { sortByHeat(number); changed(); }, { className: "sort" })] : []),
  ));
  for (const index of state.order[number]) list.append(valueLine(list, axis, number, index, changed));
}

function valueLine(list, axis, number, index, changed) {
  const value = axis.values[index], line = element("div", "", { className: "line", draggable: true });
  const check = element("input", "", { type: "checkbox", checked: !state.hidden[number].has(index) });
  check.addEventListener("change", () => {
    state.hidden[number][check.checked ? "delete" : "add"](index);
    table();
  });
  const label = element("label", "", { title: value.description || value.title });
  label.append(check, element("span", ` ${value.title}`));
  const shiftBy = (step, kind) => () => {
    shift(number, index, step);
    changed();
    list.querySelectorAll(`.${kind}`)[state.order[number].indexOf(index)].focus();
  };
  const arrows = [["up", "\u2191", -1, t("Move {value} up", { value: value.title })],
    ["down", "\u2193", 1, t("Move {value} down", { value: value.title })]];
  for (const [kind, arrow, step, ariaLabel] of arrows) {
    line.append(button(arrow, shiftBy(step, kind), { className: kind, ariaLabel }));
  }
  line.addEventListener("keydown", (event) => {
    const kind = { ArrowUp: "up", ArrowDown: "down" }[event.key];
    if (!kind) return;
    event.preventDefault();
    event.stopPropagation();
    shiftBy(kind === "up" ? -1 : 1, kind)();
  });
  line.append(label);
  carry(line, number, index, changed);
  return line;
}

document.addEventListener("click", (event) => {
  for (const list of document.querySelectorAll(".values[open]")) {
    if (!list.contains(event.target) && event.target.isConnected) list.open = false;
  }
});

// Language, keys, link

$("#language").addEventListener("click", () => {
  language = state.language = language === "zh" ? "en" : "zh";
  header();
  draw();
});

$("#help").addEventListener("click", () => {
  const lines = [
    [t("Arrow keys, Page Up, Page Down, Home, End"), t("from cell to cell of the table")],
    [t("Enter"), t("opens the cell")],
    [t("In an open cell: arrow keys"), t("along X and Y; with Shift along Super-X and Super-Y")],
    ["1 ... 9", t("along the first to the ninth axis; with Shift backwards")],
    [t("Tab to an axis, then arrow keys"), t("along this axis")],
    ["C", t("compares the open cell with others")],
    ["S, K, D", t("side by side, flicker, difference")],
    [t("Space"), t("in a flickering comparison: to and fro by hand")],
    ["F", t("the whole screen")],
    ["I", t("with or without the settings")],
    ["Z", t("the window's size or each pixel of the picture")],
    [t("Shift+click on a cell"), t("compares it with the current cell")],
    [t("Arrow keys in a list of values"), t("move the value; so does dragging it or a heading")],
  ];
  const list = element("dl"), dialog = $("#keys");
  for (const [keys, does] of lines) list.append(element("dt", keys), element("dd", does));
  dialog.replaceChildren(button(t("Close"), () => dialog.close(), { className: "close" }), list);
  dialog.showModal();
});

function copyLink() {
  writeHashNow();
  const field = element("textarea", location.href); // navigator.clipboard is not there on a plain HTTP server
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  notice(t("The link to this view is copied."));
}

/** A sentence below the controls, with buttons. */
function notice(text, ...buttons) {
  $("#notice").replaceChildren(...(text ? [element("span", text), ...buttons, button("\u00d7", () => notice(""), { ariaLabel: t("Close") })] : []));
}
