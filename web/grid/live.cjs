"use strict";
// data.js, which model_patchers/grid/folder.py describes, read again and again while the grid runs. All of it is foreign
// text: it goes into textContent and into paths whose parts are encoded, never into markup.
const LIVE = 3000, IDLE = 15000; // ms between two looks at data.js
let offered = ""; // what the controls offer that depends on the cells

function table() {
  arrange();
  writeHash();
}

function draw() {
  measureHeat();
  legend();
  controls();
  table();
  popup();
}

/** The shape of the table's cells is that of the first picture. */
async function lookAtShape() {
  for (const [file, record] of firstPictures()) {
    const image = new Image();
    image.src = record.thumbs ? await thumb(file).catch(() => pathOf(file)) : pathOf(file);
    if (await image.decode().then(() => true, () => false)) {
      shape = Math.min(TALLEST, Math.max(FLATTEST, image.naturalHeight / image.naturalWidth));
      return;
    }
  }
}

/** [file, record] of a few cells. */
function firstPictures() {
  const pictures = [];
  for (const record of records.values()) {
    const file = record.files?.find((name) => PICTURES.test(name));
    if (file) pictures.push([file, record]);
    if (pictures.length === 3) break;
  }
  return pictures;
}

/** Called by data.js. */
async function pentimentoGrid(now) {
  if (data?.progress.written === now.progress.written) return;
  const fresh = JSON.stringify(data?.axes) !== JSON.stringify(now.axes), pictured = firstPictures().length;
  data = now;
  records = new Map(now.cells);
  if (!pictured) await lookAtShape();
  if (fresh) fromTheAddress();
  header();
  const offers = JSON.stringify([heats(), outputControls().length]);
  if (fresh || offers !== offered || !pictured) {
    offered = offers;
    draw();
    return;
  }
  const before = JSON.stringify(heat);
  measureHeat();
  legend();
  refill(before !== JSON.stringify(heat));
  if (state.open && opened !== seen()) popup();
}

function look() {
  const script = element("script", "", { src: `data.js?${Date.now()}` });
  script.onload = script.onerror = () => {
    script.remove();
    setTimeout(look, data?.progress.running ? LIVE : IDLE);
  };
  document.body.append(script);
}

addEventListener("hashchange", () => {
  if (!data) return;
  fromTheAddress();
  header();
  draw();
});

function fromTheAddress() {
  readHash();
  fromTheStart(state.top, state.left);
}
$("#panel").open = innerWidth > 700; // px: on a phone the table has the room
look();
