"use strict";
// The open cell, and the comparison of two cells: `state.other` is the one that was chosen first.
let opened = ""; // what the open cell showed
let flicker = 0; // the timer

function popup() {
  const dialog = $("#cell");
  if (state.open && !dialog.open) dialog.showModal();
  if (!state.open && dialog.open) dialog.close();
  mark();
  writeHash();
  clearInterval(flicker);
  if (!state.open) {
    $("#large").replaceChildren(); // videos stop
    return;
  }
  const record = records.get(numberOf(state.at));
  opened = seen();
  dialog.ariaLabel = data.axes.map((axis, number) => `${axis.title}: ${valueAt(number).title}`).join(", ");
  dialog.classList.toggle("bare", !state.facts);
  $("#large").className = state.actual ? "actual" : "";
  if (state.other) compare(records.get(numberOf(state.other)), record);
  else $("#large").replaceChildren(...(record?.files ?? []).map(large));
  facts(record);
}

/** What the open cells are, as one text. */
const seen = () => JSON.stringify([state.at, state.other].map((at) => at && records.get(numberOf(at))));

function shut() {
  if (document.fullscreenElement) document.exitFullscreen();
  state.open = false;
  state.other = null;
  popup();
  const [row, column] = whereIs(state.at);
  if (row >= 0 && column >= 0) reveal(row, column);
  mark();
  $("main").focus();
}

// Settings, error, time, texts, scores

function facts(record) {
  const box = $("#facts"), focused = box.contains(document.activeElement) ? document.activeElement.id : "";
  box.replaceChildren(group(...tools()));
  if (state.other) box.append(group(...comparing()));
  data.axes.forEach((axis, number) => box.append(...axisFacts(axis, number)));
  if (!record) box.append(element("h2", t("Not there yet")));
  else if (record.error !== undefined) box.append(element("h2", t("Error")), element("p", record.error, { className: "error" }));
  if (record?.seconds) box.append(element("h2", t("Time")), element("p", t("{seconds} s", { seconds: record.seconds.toFixed(2) })));
  for (const [name, text] of Object.entries(record?.texts ?? {})) box.append(element("h2", name), element("p", text));
  const others = state.other ? records.get(numberOf(state.other))?.scores : undefined;
  for (const [name, score] of Object.entries(record?.scores ?? {})) {
    const number = others?.[name] === undefined ? fine(score) : `${fine(others[name])} \u2192 ${fine(score)}`;
    box.append(element("h2", name), element("p", number));
  }
  if (record?.files?.length) box.append(element("h2", t("Files")));
  for (const file of record?.files ?? []) {
    const line = element("p");
    line.append(element("a", nameOf(file), { href: pathOf(file), target: "_blank", rel: "noopener" }));
    box.append(line);
  }
  if (focused) document.getElementById(focused)?.focus();
}

const fine = (score) => (typeof score === "number" ? String(Number(score.toPrecision(6))) : String(score));

function tools() {
  const on = (holds) => ({ ariaPressed: String(Boolean(holds)) });
  return [
    button(t("Close"), shut, { id: "close" }),
    button(t("Whole screen"), wholeScreen, { id: "screen", title: t("The picture on the whole screen (F)") }),
    button("1:1", actual, { id: "actual", title: t("Each pixel of the picture (Z)"), ...on(state.actual) }),
    button(t("Compare"), compareOrNot, { id: "compare", title: t("Keep this cell and move to another one (C)"), ...on(state.other) }),
  ];
}

function axisFacts(axis, number) {
  const value = valueAt(number), line = element("h2", `${axis.title} `), lines = [line];
  const place = number < 9 ? ` (${number + 1})` : "";
  for (const [name, step, title] of [["<", -1, t("Previous value of {axis}", { axis: axis.title })], [">", 1, t("Next value of {axis}", { axis: axis.title })]]) {
    line.append(button(name, () => move(number, step), { id: `step-${number}-${step}`, ariaLabel: title, title: title + place }));
  }
  for (const control of line.querySelectorAll("button")) {
    control.addEventListener("keydown", (event) => { // along this axis, be it in the table or not
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      move(number, step);
    });
  }
  const animate = t("A GIF of this cell along {axis}", { axis: axis.title });
  if (shownValues(number).length > 1) {
    line.append(button("GIF", () => saveGif(number), { id: `gif-${number}`, className: "gif", title: animate, ariaLabel: animate }));
  }
  const before = state.other ? axis.values[state.other[number]] : value;
  lines.push(element("p", before === value ? value.title : `${before.title} \u2192 ${value.title}`, { className: "value" }));
  if (value.description) lines.push(element("p", value.description));
  for (const [name, set] of Object.entries(value.sets)) {
    if (name !== axis.title || String(set) !== value.title) lines.push(element("p", `${name} = ${set}`));
  }
  return lines;
}

// Two cells

function comparing() {
  const modes = { side: t("Side by side"), flicker: t("Flicker"), difference: t("Difference") };
  const parts = Object.entries(modes).map(([mode, text]) => button(text, () => setMode(mode), {
    id: `mode-${mode}`, ariaPressed: String(state.mode === mode),
  }));
  if (state.mode === "difference") parts.push(slider("gain", t("Times"), 1, 32, 1));
  if (state.mode === "flicker") parts.push(slider("seconds", t("Seconds"), 0.1, 3, 0.1));
  parts.push(button(t("Exchange"), () => { [state.at, state.other] = [state.other, state.at]; popup(); }, { id: "exchange" }));
  return parts;
}

function slider(name, text, min, max, step) {
  const made = element("input", "", { type: "range", id: name }), shown = element("output", state[name]);
  Object.assign(made, { min, max, step, value: state[name] });
  made.addEventListener("input", () => {
    state[name] = Number(made.value);
    shown.textContent = made.value;
    if (name === "seconds") rhythm();
    else $("#large .difference")?.style.setProperty("--gain", state.gain);
    writeHash();
  });
  const label = labelled(text, made);
  label.append(" ", shown);
  return label;
}

function setMode(mode) {
  state.mode = mode;
  popup();
}

/** One of a cell's files in a frame with the values in which the two cells differ. */
function side(letter, at, record) {
  const box = element("figure", "", { className: letter }), files = record?.files ?? [];
  const file = files[Math.min(Math.max(state.output, 1), files.length) - 1];
  const differing = data.axes.flatMap((axis, number) => (state.at[number] === state.other[number] ? [] : [`${axis.title}: ${axis.values[at[number]].title}`]));
  box.append(element("figcaption", [letter, ...differing].join(" \u00b7 ")));
  box.append(file ? large(file) : element("p", record?.error ?? Object.values(record?.texts ?? {}).join("\n") ?? "", { className: "text" }));
  if (!record) box.lastChild.textContent = t("Not there yet");
  return box;
}

function compare(first, second) {
  const box = element("div", "", { className: `pair ${state.mode}` });
  box.append(side("A", state.other, first), side("B", state.at, second));
  $("#large").replaceChildren(box);
  if (state.mode === "difference") {
    box.style.setProperty("--gain", state.gain);
    sizes(box);
  }
  if (state.mode === "flicker") {
    box.classList.add("second");
    box.addEventListener("click", flick);
    if (!still()) rhythm();
  }
}

function flick() {
  $("#large .pair").classList.toggle("second");
}

function rhythm() {
  clearInterval(flicker);
  flicker = setInterval(flick, state.seconds * 1000);
}

/** Says so where the two pictures differ in size. */
async function sizes(box) {
  const images = [...box.querySelectorAll("img")];
  await Promise.all(images.map((image) => image.decode().catch(() => null)));
  const [a, b] = images.map((image) => `${image.naturalWidth} x ${image.naturalHeight}`);
  if (images.length === 2 && a !== b) {
    box.append(element("p", t("A has {a} pixels and B {b}: both are scaled.", { a, b }), { className: "sizes" }));
  }
}

function compareOrNot() {
  state.other = state.other ? null : [...state.at];
  popup();
  mark();
}

function actual() {
  state.actual = !state.actual;
  popup();
}

function wholeScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen(); // a dialog may not fill the screen, and covers the page
}

// Keys

function cellKey(event) {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  const act = {
    c: compareOrNot, z: actual, f: wholeScreen, i: () => { state.facts = !state.facts; popup(); },
    s: () => state.other && setMode("side"), k: () => state.other && setMode("flicker"),
    d: () => state.other && setMode("difference"),
  }[event.key.toLowerCase()];
  if (step) move(state.places[(event.shiftKey ? "super_" : "") + (/Left|Right/.test(event.key) ? "x" : "y")], step);
  else if (event.key === " " && state.other && state.mode === "flicker" && !event.target.matches("button")) {
    clearInterval(flicker);
    flick();
  } else if (act) act();
  else return false;
  return true;
}

/** To the next or the previous shown value of an axis, round and round. */
function move(axis, step) {
  if (axis === null || axis >= data.axes.length) return;
  const shown = shownValues(axis), place = shown.indexOf(state.at[axis]);
  state.at = [...state.at];
  state.at[axis] = place < 0 ? shown[0] : shown[(place + step + shown.length) % shown.length];
  if (!placed().includes(axis)) draw();
  else if (state.open) popup();
  else go(...whereIs(state.at));
}

document.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey && event.key.length === 1 || event.altKey || event.metaKey) return;
  if (event.target.matches("select, input, textarea") || $("#keys").open) return;
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
  let taken = true;
  if (digit) move(Number(digit) - 1, event.shiftKey ? -1 : 1);
  else if (state.open) taken = cellKey(event);
  else taken = event.target === $("main") && tableKey(event);
  if (taken) event.preventDefault();
});
$("#cell").addEventListener("cancel", (event) => { event.preventDefault(); shut(); });

// On a touch screen, a swipe over the picture moves along X or Y
let touched = null;
$("#large").addEventListener("touchstart", (event) => {
  touched = event.touches.length === 1 && !state.actual ? event.touches[0] : null;
}, { passive: true });
$("#large").addEventListener("touchend", (event) => {
  if (!touched) return;
  const end = event.changedTouches[0], x = end.clientX - touched.clientX, y = end.clientY - touched.clientY;
  if (Math.max(Math.abs(x), Math.abs(y)) < 50) return;
  if (Math.abs(x) > Math.abs(y)) move(state.places.x, x < 0 ? 1 : -1);
  else move(state.places.y, y < 0 ? 1 : -1);
}, { passive: true });
