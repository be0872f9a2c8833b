"use strict";
// The table as a PNG and a cell along an axis as a GIF. From the disk a page may show the pictures beside it, but not
// read their pixels: there it takes the thumbnails, or the files of the folder that the user chooses.
const MOST_SIDE = 16384, MOST_PIXELS = 64e6; // of a PNG: what browsers can hold
const MOST_GIF = 512, CAPTION = 28; // px
const FONT = "system-ui, sans-serif";
const chosen = new Map(); // path from the page's folder -> File
let ready = null; // what goes on when a folder has been chosen
let stopped = false;

const fromDisk = () => location.protocol === "file:";
const isReadable = (file, record) => !fromDisk() || chosen.has(file) || record.thumbs;

function loaded(src) {
  const image = new Image();
  image.src = src;
  return image.decode().then(() => image, () => null);
}

/** A picture whose pixels the page may read, or null; the thumbnail where it is sharp enough or nothing else is there. */
async function readable(file, record, width) {
  if (!PICTURES.test(file) || !isReadable(file, record)) return null;
  if (record.thumbs && (width <= THUMB || (fromDisk() && !chosen.has(file)))) {
    return thumb(file).then(loaded, () => (fromDisk() ? null : loaded(pathOf(file))));
  }
  if (!chosen.has(file)) return loaded(pathOf(file));
  const url = URL.createObjectURL(chosen.get(file));
  return loaded(url).finally(() => URL.revokeObjectURL(url));
}

const choosing = () => button(t("Choose the folder"), () => $("#folder").click(), { id: "choose" });

/** Whether all pictures can be read; else asks for their folder, with which `again` goes on, or without. */
function canRead(pictures, again) {
  if (pictures.every(([file, record]) => !PICTURES.test(file) || isReadable(file, record))) return true;
  ready = () => again(false);
  const without = () => again(true);
  notice(t("A page on the disk may not read the pictures beside it. Choose the folder in which this page lies; nothing is sent anywhere."),
    choosing(), button(t("Save without them"), without, { id: "without" }));
  return false;
}

$("#folder").addEventListener("change", (event) => {
  chosen.clear();
  for (const file of event.target.files) chosen.set(file.webkitRelativePath.split("/").slice(1).join("/"), file);
  event.target.value = "";
  if ([...records.values()].some((record) => record.files?.some((file) => chosen.has(file)))) ready();
  else notice(t("That folder has none of the pictures. Choose the folder in which this page lies."), choosing());
});

/** Says that a file is saved, and how it becomes sharper where thumbnails were enlarged. */
function saved(name, pictures, width, again) {
  const coarse = fromDisk() && width > THUMB && pictures.some(([file]) => !chosen.has(file));
  ready = () => again(false);
  if (coarse) notice(t("{name} is saved, with thumbnails of {size} pixels. With the folder of this page the pictures are sharp.", { name, size: THUMB }), choosing());
  else notice(t("{name} is saved.", { name }));
}

function download(blob, ending) {
  const name = `${data.title.replace(/[^\p{L}\p{N} ._-]+/gu, "_").trim().slice(0, 60) || "grid"}${ending}`;
  const link = element("a", "", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return name;
}

/** Says how far the work is, with a button that stops it. */
function working(done, total) {
  notice(t("{done} of {total} pictures", { done, total }), button(t("Stop"), () => { stopped = true; }, { id: "stop" }));
}

// The table as a PNG

/** [file, record, left, top, width, height] of the pictures of a cell, in a box at (0, 0). */
function tiles(record, width, height) {
  const files = record?.files ?? [];
  if (!files.length || record.error !== undefined || (state.plain && heat && warmth(record) !== undefined)) return [];
  if (state.output !== 0 || files.length === 1) {
    return [[files[Math.min(Math.max(state.output, 1), files.length) - 1], record, 0, 0, width, height]];
  }
  const wide = Math.ceil(Math.sqrt(files.length)), w = width / wide, h = height / Math.ceil(files.length / wide);
  return files.map((file, index) => [file, record, (index % wide) * w, Math.floor(index / wide) * h, w, h]);
}

async function saveTable(without = false) {
  const { columns, lines, width, height, side, top, wide, tall, bar } = layout;
  const cells = lines.flatMap((_, row) => columns.map((_, column) => [row, column, atOf(row, column)]));
  const pictures = cells.flatMap(([row, column, at]) => tiles(records.get(numberOf(at)), width - LINE, height - LINE - bar)
    .map((tile) => [tile[0], tile[1], tile[2] + side + column * width, tile[3] + top + row * height, tile[4], tile[5]]));
  if (!without && !canRead(pictures, saveTable)) return;
  const scale = Math.min(devicePixelRatio, MOST_SIDE / Math.max(side + wide, top + tall), Math.sqrt(MOST_PIXELS / ((side + wide) * (top + tall))));
  const canvas = element("canvas", "", { width: Math.ceil(scale * (side + wide)), height: Math.ceil(scale * (top + tall)) });
  const context = canvas.getContext("2d"), look = getComputedStyle(document.body);
  const theme = { fore: look.color, back: getComputedStyle($("#corner")).backgroundColor };
  context.fillStyle = theme.back;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.scale(scale, scale);
  paintHeadings(context, theme);
  for (const [row, column, at] of cells) paintCell(context, theme, at, side + column * width, top + row * height);
  if (!(await paintPictures(context, theme, pictures, scale))) return;
  const blob = await new Promise((take) => canvas.toBlob(take, "image/png"));
  saved(download(blob, ".png"), pictures, scale * (width - LINE), saveTable);
}

function paintHeadings(context, theme) {
  const { columns, lines, perX, perY, width, height, unit, head, side, top } = layout;
  const { x, y, super_x: superX, super_y: superY } = state.places;
  const paint = (axis, index, left, up, w, h) => {
    context.strokeStyle = "#888";
    context.strokeRect(left + 0.5, up + 0.5, w, h);
    write(context, theme.fore, data.axes[axis].values[index].title, left, up, w, h, 13);
  };
  columns.forEach(([outer, inner], column) => {
    const left = side + column * width;
    if (superX !== null && column % perX === 0) paint(superX, outer, left, 0, perX * width, head);
    if (x !== null) paint(x, inner, left, superX === null ? 0 : head, width, head);
  });
  lines.forEach(([outer, inner], row) => {
    const up = top + row * height;
    if (superY !== null && row % perY === 0) paint(superY, outer, 0, up, unit, perY * height);
    if (y !== null) paint(y, inner, superY === null ? 0 : unit, up, unit, height);
  });
}

/** All of a cell but its pictures. */
function paintCell(context, theme, at, left, top) {
  const record = records.get(numberOf(at)), kind = stateOf(record, at), warm = heat ? warmth(record) : undefined;
  const w = layout.width - LINE, h = layout.height - LINE, inner = h - layout.bar;
  if (warm !== undefined) {
    const { background, text } = colours(warm), up = state.plain ? 0 : inner;
    context.fillStyle = background;
    context.fillRect(left, top + up, w, h - up);
    write(context, text, rounded(warm), left, top + up, w, h - up, 12);
    if (state.plain) return;
  }
  if (kind === "failed") {
    context.fillStyle = "#cc444455";
    context.fillRect(left, top, w, inner);
  }
  const texts = { failed: record?.error, skipped: t("Skipped"), waiting: t("Not there yet") };
  const text = kind === "done" && !record.files.length ? Object.values(record.texts ?? {}).join("\n") : texts[kind];
  if (text) write(context, theme.fore, text, left, top, w, inner, 12);
}

/** False where the user has stopped it. */
async function paintPictures(context, theme, pictures, scale) {
  const rest = pictures.entries();
  let done = 0;
  stopped = false;
  const worker = async () => {
    for (const [, [file, record, left, top, w, h]] of rest) {
      if (stopped) return;
      paint(context, theme, await readable(file, record, scale * w), file, left, top, w, h);
      done += 1;
      if (done % 20 === 0) working(done, pictures.length);
    }
  };
  working(0, pictures.length);
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (stopped) notice(t("Stopped; nothing is saved."));
  return !stopped;
}

/** A picture in its box, whole; in its place the file's name. */
function paint(context, theme, image, file, left, top, width, height) {
  if (!image) {
    write(context, theme.fore, nameOf(file), left, top, width, height, 12);
    return;
  }
  const fit = Math.min(width / image.naturalWidth, height / image.naturalHeight);
  const w = fit * image.naturalWidth, h = fit * image.naturalHeight;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, left + (width - w) / 2, top + (height - h) / 2, w, h);
}

/** A text in a box, in as many lines as there is room for. */
function write(context, colour, text, left, top, width, height, size) {
  const room = Math.max(1, Math.floor(height / (1.25 * size))), lines = [];
  context.font = `${size}px ${FONT}`;
  for (const word of String(text).slice(0, 2000).split(/(?<=\s)/)) {
    let rest = word;
    while (rest) {
      const last = lines.length ? lines[lines.length - 1] : null;
      let count = rest.length;
      const line = last !== null && !last.endsWith("\n") && context.measureText(last + rest.trimEnd()).width <= width - 6 ? last : "";
      while (count > 1 && context.measureText(line + rest.slice(0, count).trimEnd()).width > width - 6) count -= 1;
      if (line) lines[lines.length - 1] = line + rest.slice(0, count);
      else lines.push(rest.slice(0, count));
      rest = rest.slice(count);
    }
    if (lines.length > room) break;
  }
  if (lines.length > room) {
    lines.length = room;
    lines[room - 1] = `${lines[room - 1].trimEnd().slice(0, -1)}\u2026`;
  }
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.fillStyle = colour;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const first = top + height / 2 - (lines.length - 1) * 0.625 * size;
  lines.forEach((line, index) => context.fillText(line.trim(), left + width / 2, first + index * 1.25 * size));
  context.restore();
}

// A cell along an axis as a GIF

async function saveGif(axis, without = false) {
  const again = (forced) => saveGif(axis, forced);
  const cells = shownValues(axis).map((index) => state.at.with(axis, index)), values = data.axes[axis].values;
  const pictures = cells.map((at) => {
    const record = records.get(numberOf(at)), files = record?.error === undefined ? record?.files ?? [] : [];
    return [files[Math.min(Math.max(state.output, 1), files.length) - 1] ?? "", record];
  });
  if (!without && !canRead(pictures, again)) return;
  const images = await Promise.all(pictures.map(([file, record]) => (file ? readable(file, record, MOST_GIF) : null)));
  const shapes = images.filter(Boolean), theme = { fore: "#fff", back: "#000" };
  const most = Math.max(...shapes.map((image) => Math.max(image.naturalWidth, image.naturalHeight)), 1);
  const scale = Math.min(1, MOST_GIF / most), size = (name) => Math.max(120, Math.round(scale * Math.max(...shapes.map((image) => image[name]), 1)));
  const width = size("naturalWidth"), height = size("naturalHeight");
  const canvas = element("canvas", "", { width, height: height + CAPTION });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  stopped = false;
  async function* frames() {
    for (const [number, at] of cells.entries()) {
      if (stopped) return;
      working(number, cells.length);
      context.fillStyle = theme.back;
      context.fillRect(0, 0, width, height + CAPTION);
      const kind = stateOf(pictures[number][1], at), text = pictures[number][1]?.error ?? (kind === "done" ? "" : t("Not there yet"));
      if (pictures[number][0]) paint(context, theme, images[number], pictures[number][0], 0, 0, width, height);
      else write(context, theme.fore, text, 0, 0, width, height, 13);
      write(context, theme.fore, values[at[axis]].title, 0, height, width, CAPTION, 14);
      yield context.getImageData(0, 0, width, height + CAPTION).data;
    }
  }
  const bytes = await gif(frames(), width, height + CAPTION, state.seconds);
  if (stopped) notice(t("Stopped; nothing is saved."));
  else saved(download(new Blob([bytes], { type: "image/gif" }), ".gif"), pictures.filter(([file]) => file), most >= THUMB ? MOST_GIF : 0, again);
}
