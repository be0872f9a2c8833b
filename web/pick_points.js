// The widget of Pick Points: the connected picture, to click points and drag boxes on.
//
// Its only state is the text of the node's `picks`, so saved workflows, the API and the front end's undo carry it.
// Coordinates are whole pixels of the picture: [0, width) x [0, height); a box covers [x, x + width) x [y, y + height).

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { t } from "./lib/i18n.js";

const LIVE_MASK = "pentimento.LiveMask";
const DRAG = 4; // screen pixels that a press must travel to be a drag
const REACH = 8; // CSS pixels around a mark in which a press takes hold of it
const PAUSE = 120; // ms without a change before the live mask is asked for
const SUBGRAPH_INPUT = -10; // LiteGraph's id of the node that stands for a subgraph's inputs
const BYPASSED = 4; // LiteGraph's mode of a node that passes its input through
const KINDS = ["positive", "negative", "boxes"];

const CSS = `
.pentimento-picks { display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%; min-height: 240px;
  box-sizing: border-box; font: 11px/1.4 system-ui, sans-serif; color: var(--input-text, #ddd); }
.pentimento-stage { position: relative; flex: 1 1 0; min-height: 120px; display: grid; place-items: center;
  container-type: size; overflow: hidden; border-radius: 6px; background: var(--comfy-input-bg, #222); }
.pentimento-frame { position: relative; width: min(100cqw, 100cqh * var(--ratio)); aspect-ratio: var(--ratio); }
.pentimento-frame > img, .pentimento-mask, .pentimento-mask > div, .pentimento-keys {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; padding: 0; border: 0; }
.pentimento-frame > img { user-select: none; }
.pentimento-keys { background: none; cursor: crosshair; touch-action: none; border-radius: 0; appearance: none; }
.pentimento-keys:focus { outline: none; }
.pentimento-by-key .pentimento-keys { outline: 2px solid #4c9ffe; outline-offset: -2px; }
.pentimento-mask { opacity: 0.55; filter: drop-shadow(0 0 1px #fff) drop-shadow(0 0 1px #fff); }
.pentimento-mask > div { background: #2f7bff; mask-size: 100% 100%; mask-repeat: no-repeat; }
.pentimento-point, .pentimento-cross { position: absolute; width: 15px; height: 15px; margin: -7.5px 0 0 -7.5px;
  box-sizing: border-box; border-radius: 50%; border: 1.5px solid #fff; box-shadow: 0 0 3px #000a; }
.pentimento-point { background: linear-gradient(#fff, #fff) center / 7px 1.5px no-repeat, var(--fill); }
.pentimento-point[data-kind="positive"] { --fill: #18945a; background:
  linear-gradient(#fff, #fff) center / 7px 1.5px no-repeat, linear-gradient(#fff, #fff) center / 1.5px 7px no-repeat,
  var(--fill); }
.pentimento-point[data-kind="negative"] { --fill: #d6304a; }
.pentimento-box { position: absolute; box-sizing: border-box; border: 1.5px solid #ffd23f; box-shadow: 0 0 2px #000c,
  inset 0 0 2px #000c; }
.pentimento-box > i { position: absolute; width: 7px; height: 7px; margin: -3.5px; background: #ffd23f;
  box-shadow: 0 0 2px #000c; }
.pentimento-point.pentimento-chosen { outline: 2px solid #4c9ffe; outline-offset: 1px; }
.pentimento-box.pentimento-chosen { border-color: #4c9ffe; }
.pentimento-chosen > i { background: #4c9ffe; }
.pentimento-cross { display: none; border-color: #4c9ffe; background:
  linear-gradient(#fff, #fff) center / 1px 100% no-repeat, linear-gradient(#fff, #fff) center / 100% 1px no-repeat; }
.pentimento-by-key .pentimento-cross { display: block; }
.pentimento-note { max-width: 80%; text-align: center; color: var(--descrip-text, #999); }
.pentimento-hint { color: var(--descrip-text, #999); }
.pentimento-bar { display: flex; align-items: center; gap: 4px; }
.pentimento-status { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.pentimento-bar > output { color: var(--descrip-text, #999); font-variant-numeric: tabular-nums; margin-right: 4px; }
.pentimento-bar > button { padding: 2px 8px; border: 0; border-radius: 4px; font: inherit; color: inherit;
  background: var(--comfy-input-bg, #333); cursor: pointer; }
.pentimento-bar > button:disabled { opacity: 0.4; cursor: default; }
.pentimento-bar > button:focus-visible { outline: 2px solid #4c9ffe; }
.pentimento-busy::after { content: ""; display: inline-block; width: 8px; height: 8px; margin-left: 6px;
  border-radius: 50%; border: 1.5px solid; border-top-color: transparent;
  animation: pentimento-turn 0.9s linear infinite; }
@keyframes pentimento-turn { to { transform: rotate(1turn); } }
`;

const hint = () =>
  t(
    "Click to select, Shift-click or right-click to leave out, drag to draw a box. " +
      "Drag a mark to move it, right-click a mark to remove it.",
  );
const keyHelp = () =>
  t(
    "The arrow keys move the cross or the chosen mark by one pixel, with Shift by a twentieth of the picture. Enter " +
      "selects the pixel under the cross, Shift Enter leaves it out, B starts and ends a box. N chooses the next mark, " +
      "Delete removes the chosen mark, Escape goes back to the cross, Control Z undoes.",
  );

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const empty = () => ({ positive: [], negative: [], boxes: [] });
const count = (picks) => KINDS.reduce((sum, kind) => sum + picks[kind].length, 0);

function element(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className, ...properties });
}

/** The picks of a text; null where it is none. */
function read(text) {
  if (!text.trim()) return empty();
  try {
    const { width, height, positive = [], negative = [], boxes = [] } = JSON.parse(text);
    const numbers = [...positive, ...negative, ...boxes].flatMap((item) => [item.x, item.y]);
    numbers.push(...boxes.flatMap((box) => [box.width, box.height]));
    return numbers.every(Number.isFinite) ? { width, height, positive, negative, boxes } : null;
  } catch {
    return null;
  }
}

/** The picks on a picture of another size, by the rule of the node's `fit`. */
function fit(picks, width, height) {
  if (!picks.width || (picks.width === width && picks.height === height)) return { ...picks, width, height };
  const point = ({ x, y }) => ({
    x: Math.floor(((2 * x + 1) * width) / (2 * picks.width)),
    y: Math.floor(((2 * y + 1) * height) / (2 * picks.height)),
  });
  const edges = (start, length, size, old) => {
    const [from, to] = [start, start + length].map((edge) => Math.floor((2 * edge * size + old) / (2 * old)));
    return from < to ? [from, to - from] : [Math.floor(((2 * start + length) * size) / (2 * old)), 1];
  };
  const box = (old) => {
    const [x, w] = edges(old.x, old.width, width, picks.width);
    const [y, h] = edges(old.y, old.height, height, picks.height);
    return { x, y, width: w, height: h };
  };
  const [positive, negative] = [picks.positive.map(point), picks.negative.map(point)];
  return { width, height, positive, negative, boxes: picks.boxes.map(box) };
}

/** The node and output that feed an input, through reroutes, bypassed nodes and the borders of subgraphs. */
function origin(node, index) {
  const link = node?.graph?.getLink(node.inputs?.[index]?.link);
  if (!link) return null;
  if (link.origin_id === SUBGRAPH_INPUT) {
    return origin(outer(app.rootGraph ?? app.graph, node.graph), link.origin_slot);
  }
  const source = node.graph.getNodeById(link.origin_id);
  if (source?.type === "Reroute") return origin(source, 0);
  if (source?.mode === BYPASSED) return origin(source, source.inputs.findIndex((input) => input.type === link.type));
  if (!source?.subgraph) return source;
  const inner = source.subgraph.outputs[link.origin_slot];
  return origin({ graph: source.subgraph, inputs: [{ link: inner?.linkIds[0] }] }, 0);
}

/** The node that holds a subgraph. */
function outer(graph, subgraph) {
  for (const node of graph.nodes) {
    if (node.subgraph === subgraph) return node;
    const found = node.subgraph && outer(node.subgraph, subgraph);
    if (found) return found;
  }
  return null;
}

/** The nodes that a node's outputs lead to, through reroutes. */
function targets(node) {
  return node.outputs
    .flatMap((output) => output.links ?? [])
    .map((id) => node.graph.getNodeById(node.graph.getLink(id)?.target_id))
    .flatMap((target) => (target?.type === "Reroute" ? targets(target) : target ? [target] : []));
}

/** "3 points", or nothing for none. */
function pointCount(count) {
  return count && (count === 1 ? t("1 point") : t("{count} points", { count }));
}

/** "2 boxes", or nothing for none. */
function boxCount(count) {
  return count && (count === 1 ? t("1 box") : t("{count} boxes", { count }));
}

const value = (node, name) => node?.widgets?.find((widget) => widget.name === name)?.value;

class Picker {
  constructor(node) {
    this.node = node;
    this.text = "";
    this.picks = empty(); // in pixels of the picture that they were made on
    this.history = [""];
    this.step = 0;
    this.build();
    this.listen();
  }

  build() {
    this.root = element("div", "pentimento-picks");
    const stage = element("div", "pentimento-stage");
    this.frame = element("div", "pentimento-frame", { hidden: true });
    this.image = element("img", "", { alt: "", draggable: false });
    this.mask = element("div", "pentimento-mask", { hidden: true });
    this.mask.append(element("div", ""));
    this.marks = element("div", "pentimento-marks");
    // An <input>, since the front end leaves the keys of an <input> alone: Delete, letters and its own Ctrl+Z.
    this.keys = element("input", "pentimento-keys", { type: "button", title: "" });
    this.keys.setAttribute("aria-label", t("Picture to pick points on"));
    this.keys.setAttribute("aria-description", keyHelp());
    this.cross = element("div", "pentimento-cross");
    this.note = element("div", "pentimento-note");
    const bar = element("div", "pentimento-bar");
    this.status = element("span", "pentimento-status");
    this.status.setAttribute("role", "status");
    this.place = element("output", "");
    this.place.setAttribute("aria-live", "off");
    const button = (name, act) => element("button", "", { type: "button", textContent: name, onclick: act });
    this.undoButton = button(t("Undo"), () => this.travel(-1));
    this.redoButton = button(t("Redo"), () => this.travel(1));
    this.clearButton = button(t("Clear"), () => this.commit(empty()));
    this.frame.append(this.image, this.mask, this.marks, this.keys, this.cross);
    stage.append(this.frame, this.note);
    bar.append(this.status, this.place, this.undoButton, this.redoButton, this.clearButton);
    this.root.append(stage, element("div", "pentimento-hint", { textContent: hint() }), bar);
  }

  listen() {
    const on = (target, type, act) => target.addEventListener(type, act.bind(this));
    on(this.image, "load", this.shown);
    on(this.image, "error", () => this.blank(t("The picture could not be loaded.")));
    on(this.keys, "pointerdown", this.press);
    on(this.keys, "pointermove", this.move);
    on(this.keys, "pointerup", this.release);
    on(this.keys, "pointercancel", this.drop);
    on(this.keys, "pointerleave", () => (this.place.textContent = ""));
    on(this.keys, "keydown", this.type);
    on(this.keys, "focus", () => this.frame.classList.toggle("pentimento-by-key", !this.pressed));
    on(this.keys, "blur", () => this.frame.classList.remove("pentimento-by-key"));
    on(this.root, "pointerenter", this.refresh);
    on(this.root, "contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
    });
    on(this.root, "wheel", (event) => app.canvas.processMouseWheel(event));
    this.node.onExecuted = chain(this.node.onExecuted, () => this.refresh());
    this.node.onConnectionsChange = chain(this.node.onConnectionsChange, () => this.refresh());
    this.node.onRemoved = chain(this.node.onRemoved, () => this.leave());
    this.events = { graphChanged: () => this.refresh(), status: (event) => this.idle(event.detail) };
    for (const [name, act] of Object.entries(this.events)) api.addEventListener(name, act);
  }

  leave() {
    for (const [name, act] of Object.entries(this.events)) api.removeEventListener(name, act);
    this.showMask(null);
  }

  // ---- the picture

  /** Shows the picture that is connected now: Load Image's own at once, any other as of the last run. */
  refresh() {
    this.mount();
    const source = origin(this.node, 0);
    let picture = app.nodeOutputs?.[this.node.id]?.pentimento_picture?.[0];
    const loaded = ["LoadImage", "LoadImageOutput"].includes(source?.comfyClass);
    if (loaded) {
      const [, subfolder = "", filename, type = "input"] =
        /^(?:(.*)\/)?(.*?)(?: \[(input|output|temp)\])?$/.exec(value(source, "image") ?? "") ?? [];
      picture = filename && { filename, subfolder, type };
    }
    this.picture = source && picture;
    const missing = source ? t("Run this node once to see its picture.") : t("Connect a picture.");
    const wanted = this.picture ? JSON.stringify(picture) : missing;
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    this.showMask(null);
    if (!this.picture) return this.blank(missing);
    // Browsers mirror some photographs that Load Image only turns: the pack's route shows what Load Image gives.
    const route = loaded ? "/pentimento/picture" : "/view";
    this.image.src = api.apiURL(`${route}?${new URLSearchParams({ ...picture, rand: Math.random() })}`);
  }

  /** Nodes 2.0 goes on showing a node's old elements when undo has made the node anew: takes their place. */
  mount() {
    const old = document.querySelector(`[data-node-id="${this.node.id}"] .pentimento-picks`);
    if (old && !this.root.isConnected && this.node.graph === app.canvas.graph) old.replaceWith(this.root);
  }

  blank(note) {
    this.frame.hidden = true;
    this.note.textContent = note;
    this.draw();
  }

  shown() {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    this.frame.style.setProperty("--ratio", `${width} / ${height}`);
    this.frame.hidden = false;
    this.note.textContent = "";
    this.size = { width, height };
    this.cursor = { x: width >> 1, y: height >> 1 };
    this.draw();
  }

  /** The picks in pixels of the picture that is shown. */
  get here() {
    return fit(this.picks, this.size.width, this.size.height);
  }

  get ready() {
    return !this.frame.hidden;
  }

  // ---- the value

  /** Takes a value from outside: a loaded workflow, the front end's undo, a script. */
  set(text) {
    if (text === this.text) return;
    this.history = [text];
    this.step = 0;
    this.run = "";
    this.show(text);
  }

  show(text) {
    this.text = text;
    const picks = read(text);
    this.picks = picks ?? empty();
    this.unreadable = !picks;
    this.chosen = this.corner = null;
    this.drop();
  }

  /** Makes `picks` the node's value and a step of both undo histories; `run` joins steps of the same name into one. */
  commit(picks, run = "") {
    const text = count(picks) ? JSON.stringify({ ...picks, ...this.size }) : "";
    if (text === this.text) return this.drop();
    this.step += run && run === this.run ? 0 : 1;
    this.run = run;
    this.history.splice(this.step, Infinity, text);
    this.write(text);
  }

  travel(by) {
    if (this.history[this.step + by] === undefined) return;
    this.step += by;
    this.run = "";
    this.write(this.history[this.step]);
  }

  write(text) {
    const chosen = this.chosen;
    app.canvas.emitBeforeChange();
    this.show(text);
    this.widget.value = text;
    app.canvas.emitAfterChange();
    if (chosen && this.picks[chosen.kind][chosen.index]) this.chosen = chosen;
    this.ask();
    this.draw();
  }

  // ---- the pointer

  /** The pixel under the pointer, whatever the zoom: the element's box on the screen is the picture. */
  pixel(event) {
    const box = this.keys.getBoundingClientRect();
    const { width, height } = this.size;
    return {
      x: clamp(Math.floor(((event.clientX - box.left) / box.width) * width), 0, width - 1),
      y: clamp(Math.floor(((event.clientY - box.top) / box.height) * height), 0, height - 1),
    };
  }

  /** The mark under the pointer: a point, a box's corner or a box's edge. */
  hit(event) {
    const screen = this.keys.getBoundingClientRect();
    const zoom = screen.width / this.keys.offsetWidth;
    const scale = { x: screen.width / this.size.width, y: screen.height / this.size.height };
    const [px, py] = [event.clientX - screen.left, event.clientY - screen.top];
    const picks = this.here;
    let best = null;
    const offer = (distance, mark) => {
      if (distance <= REACH * zoom && distance < (best?.distance ?? Infinity)) best = { ...mark, distance };
    };
    for (const kind of ["positive", "negative"]) {
      picks[kind].forEach(({ x, y }, index) =>
        offer(Math.hypot((x + 0.5) * scale.x - px, (y + 0.5) * scale.y - py), { kind, index }),
      );
    }
    if (best) return best;
    picks.boxes.forEach(({ x, y, width, height }, index) => {
      for (const corner of [0, 1, 2, 3]) {
        const [cx, cy] = [(x + (corner & 1) * width) * scale.x, (y + (corner >> 1) * height) * scale.y];
        offer(Math.hypot(cx - px, cy - py), { kind: "boxes", index, corner });
      }
    });
    if (best) return best;
    picks.boxes.forEach(({ x, y, width, height }, index) => {
      const dx = Math.max(x * scale.x - px, px - (x + width) * scale.x);
      const dy = Math.max(y * scale.y - py, py - (y + height) * scale.y);
      offer(2 * Math.abs(Math.max(dx, dy)), { kind: "boxes", index });
    });
    return best;
  }

  press(event) {
    if (event.button === 1) return app.canvas.processMouseDown(event); // the canvas pans
    if (!this.ready || this.pressed) return;
    event.stopPropagation();
    const secondary = event.button === 2 || event.ctrlKey; // Ctrl-click is macOS's right click
    this.pressed = { event, secondary, spot: this.pixel(event), mark: this.hit(event), picks: this.here };
    this.corner = null;
    this.keys.setPointerCapture(event.pointerId);
    this.keys.focus({ preventScroll: true });
    this.frame.classList.remove("pentimento-by-key");
  }

  move(event) {
    if (event.buttons & 4) return app.canvas.processMouseMove(event);
    if (!this.ready) return;
    const spot = this.pixel(event);
    this.place.textContent = `${spot.x}, ${spot.y}`;
    const { pressed } = this;
    if (!pressed) {
      this.keys.style.cursor = this.hit(event) ? "move" : "";
      return;
    }
    const far = Math.hypot(event.clientX - pressed.event.clientX, event.clientY - pressed.event.clientY) >= DRAG;
    if (pressed.secondary || !(far || this.draft)) return;
    const by = { x: spot.x - pressed.spot.x, y: spot.y - pressed.spot.y };
    this.draft = pressed.mark
      ? this.moved(pressed.picks, pressed.mark, by)
      : { ...pressed.picks, boxes: [...pressed.picks.boxes, between(pressed.spot, spot)] };
    this.chosen = pressed.mark ?? { kind: "boxes", index: pressed.picks.boxes.length };
    this.draw();
  }

  release(event) {
    if (event.button === 1) return app.canvas.processMouseUp(event);
    const { pressed, draft } = this;
    if (!pressed) return;
    this.cursor = this.pixel(event);
    const { mark, spot, picks } = pressed;
    if (draft) return this.commit(draft);
    this.pressed = null;
    if (mark && pressed.secondary) return this.remove(mark);
    if (mark) return this.choose(mark);
    this.add(pressed.secondary || event.shiftKey ? "negative" : "positive", spot, picks);
  }

  /** Forgets a drag that has not ended. */
  drop() {
    this.pressed = this.draft = null;
    this.draw();
  }

  // ---- changes

  add(kind, item, picks = this.here) {
    this.chosen = null;
    this.commit({ ...picks, [kind]: [...picks[kind], item] });
  }

  remove({ kind, index }) {
    const picks = this.here;
    this.chosen = null;
    this.commit({ ...picks, [kind]: picks[kind].filter((_, i) => i !== index) });
  }

  choose(mark) {
    this.chosen = mark;
    this.draw();
  }

  /** `picks` with one mark moved, or one corner of a box. */
  moved(picks, { kind, index, corner }, by) {
    const { width, height } = this.size;
    const old = picks[kind][index];
    let item;
    if (corner === undefined) {
      const x = clamp(old.x + by.x, 0, width - (old.width ?? 1));
      const y = clamp(old.y + by.y, 0, height - (old.height ?? 1));
      item = { ...old, x, y };
    } else {
      const far = { x: old.x + old.width - 1, y: old.y + old.height - 1 };
      const held = { x: corner & 1 ? far.x : old.x, y: corner & 2 ? far.y : old.y };
      const other = { x: corner & 1 ? old.x : far.x, y: corner & 2 ? old.y : far.y };
      const to = { x: clamp(held.x + by.x, 0, width - 1), y: clamp(held.y + by.y, 0, height - 1) };
      item = between(other, to);
    }
    return { ...picks, [kind]: picks[kind].with(index, item) };
  }

  type(event) {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const name = event.key.toLowerCase();
    const command = event.ctrlKey || event.metaKey;
    if (command && (name === "z" || name === "y")) this.travel(name === "y" || event.shiftKey ? 1 : -1);
    else if (command || event.altKey || !this.ready) return;
    else if (arrow) this.steer(arrow, event.shiftKey);
    else if (name === "enter" || name === " ") this.add(event.shiftKey ? "negative" : "positive", { ...this.cursor });
    else if (name === "b") this.boxKey();
    else if (name === "n") this.next(event.shiftKey ? -1 : 1);
    else if ((name === "delete" || name === "backspace") && this.chosen) this.remove(this.chosen);
    else if (name === "escape" && (this.chosen || this.corner)) this.choose((this.corner = null));
    else return;
    this.frame.classList.add("pentimento-by-key");
    event.preventDefault();
    event.stopPropagation();
  }

  steer([dx, dy], far) {
    const { width, height } = this.size;
    const length = far ? Math.max(1, Math.round(Math.max(width, height) / 20)) : 1;
    const by = { x: dx * length, y: dy * length };
    if (this.chosen) {
      const { kind, index } = this.chosen;
      this.commit(this.moved(this.here, this.chosen, by), `move ${kind} ${index}`);
      this.cursor = { x: this.here[kind][index].x, y: this.here[kind][index].y };
    } else {
      this.cursor = { x: clamp(this.cursor.x + by.x, 0, width - 1), y: clamp(this.cursor.y + by.y, 0, height - 1) };
      if (this.corner) this.draft = { ...this.here, boxes: [...this.here.boxes, between(this.corner, this.cursor)] };
    }
    this.draw();
    this.status.textContent = `${this.cursor.x}, ${this.cursor.y}`;
  }

  boxKey() {
    const { corner } = this;
    this.chosen = null;
    this.corner = corner ? null : { ...this.cursor };
    if (corner) this.add("boxes", between(corner, this.cursor));
  }

  next(by) {
    const marks = KINDS.flatMap((kind) => this.picks[kind].map((_, index) => ({ kind, index })));
    const at = marks.findIndex((mark) => mark.kind === this.chosen?.kind && mark.index === this.chosen.index);
    if (marks.length) this.choose(marks.at((at + by + (at < 0 && by < 0 ? 1 : 0)) % marks.length));
    if (this.chosen) this.status.textContent = this.describe(this.chosen);
  }

  // ---- drawing

  describe({ kind, index }) {
    const { x, y } = this.here[kind][index];
    if (kind === "positive") return t("Point to select at {x}, {y}", { x, y });
    return kind === "negative" ? t("Point to leave out at {x}, {y}", { x, y }) : t("Box at {x}, {y}", { x, y });
  }

  draw() {
    const total = count(this.picks);
    this.undoButton.disabled = !this.step;
    this.redoButton.disabled = this.step === this.history.length - 1;
    this.clearButton.disabled = !total && !this.unreadable;
    const points = this.picks.positive.length + this.picks.negative.length;
    const summary = [pointCount(points), boxCount(this.picks.boxes.length)].filter(Boolean).join(", ");
    this.status.textContent = this.unreadable
      ? t("The text of picks could not be read; the next pick replaces it.")
      : [summary, this.live].filter(Boolean).join(" \u00b7 ");
    this.status.title = this.status.textContent;
    this.status.classList.toggle("pentimento-busy", Boolean(this.busy));
    if (!this.ready) return this.marks.replaceChildren();
    const { width, height } = this.size;
    const at = (x, y) => ({ left: `${(100 * x) / width}%`, top: `${(100 * y) / height}%` });
    const picks = this.draft ?? this.here;
    const mark = (kind, index, style) => {
      const chosen = this.chosen?.kind === kind && this.chosen.index === index;
      const drawn = element("div", `pentimento-${kind === "boxes" ? "box" : "point"}`);
      drawn.classList.toggle("pentimento-chosen", chosen);
      drawn.dataset.kind = kind;
      Object.assign(drawn.style, style);
      return drawn;
    };
    const boxes = picks.boxes.map((box, index) => {
      const size = { width: `${(100 * box.width) / width}%`, height: `${(100 * box.height) / height}%` };
      const drawn = mark("boxes", index, { ...at(box.x, box.y), ...size });
      for (const [left, top] of [[0, 0], [100, 0], [0, 100], [100, 100]]) {
        const handle = element("i", "");
        Object.assign(handle.style, { left: `${left}%`, top: `${top}%` });
        drawn.append(handle);
      }
      return drawn;
    });
    const drawn = (kind) => picks[kind].map(({ x, y }, index) => mark(kind, index, at(x + 0.5, y + 0.5)));
    this.marks.replaceChildren(...boxes, ...drawn("positive"), ...drawn("negative"));
    Object.assign(this.cross.style, at(this.cursor.x + 0.5, this.cursor.y + 0.5));
  }

  // ---- the live mask

  /** The model that the picks go to: that of the first SAM Segment they are linked to. */
  model() {
    const segment = targets(this.node).find((node) => node.comfyClass === "PentimentoSAMSegment");
    const loader = origin(segment, segment?.inputs.findIndex((input) => input.name === "sam"));
    if (loader?.comfyClass !== "PentimentoLoadSAM") return null;
    return {
      sam_name: value(loader, "sam_name"),
      precision: value(loader, "precision"),
      choice: value(segment, "choice"),
      refine_iterations: value(segment, "refine_iterations"),
    };
  }

  /** Asks for the mask of the picks, after a short pause. */
  ask() {
    clearTimeout(this.timer);
    this.request?.abort();
    this.waiting = false;
    const model = app.extensionManager.setting.get(LIVE_MASK) === false ? null : this.model();
    const pointless = !this.picks.positive.length && !this.picks.boxes.length;
    if (!model || !this.picture || pointless) return this.showMask(null);
    const encoded = this.wanted + model.sam_name + model.precision;
    if (this.encoded !== encoded) this.tell(t("Encoding the picture"), true);
    this.timer = setTimeout(() => this.fetchMask(model, encoded), PAUSE);
  }

  /** A name for the server, by which a newer request ends an older one: of this tab and this node. */
  get client() {
    return [api.clientId, this.node.graph?.id, this.node.id].join(" ");
  }

  async fetchMask(model, encoded) {
    const request = (this.request = new AbortController());
    try {
      const response = await api.fetchApi("/pentimento/sam/preview", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ image: this.picture, picks: this.text, client: this.client, ...model }),
        signal: request.signal,
      });
      if (!response.ok) {
        this.waiting = response.status === 409;
        this.showMask(null);
        const { error } = await response.json().catch(() => ({ error: t("No live mask: {reason}.", { reason: response.statusText }) }));
        return this.tell(t(error));
      }
      const mask = await response.blob();
      if (request.signal.aborted) return;
      this.encoded = encoded;
      this.showMask(mask);
      const score = Number(response.headers.get("X-Pentimento-Score")).toFixed(2);
      this.tell(t("Mask score {score}", { score }));
    } catch (error) {
      if (!request.signal.aborted) this.tell(t("No live mask: {reason}.", { reason: error.message }));
    }
  }

  /** Asks again once the queue is empty, if it was too busy before. */
  idle(status) {
    if (this.waiting && status?.exec_info?.queue_remaining === 0) this.ask();
  }

  tell(live, busy = false) {
    this.live = live;
    this.busy = busy;
    this.draw();
  }

  showMask(blob) {
    if (this.maskURL) URL.revokeObjectURL(this.maskURL);
    this.maskURL = blob && URL.createObjectURL(blob);
    this.mask.hidden = !blob;
    this.mask.firstChild.style.maskImage = blob ? `url(${this.maskURL})` : "";
    this.live = "";
    this.busy = false;
  }
}

/** The box whose opposite corners are these two pixels. */
function between(a, b) {
  const [x, y] = [Math.min(a.x, b.x), Math.min(a.y, b.y)];
  return { x, y, width: Math.max(a.x, b.x) - x + 1, height: Math.max(a.y, b.y) - y + 1 };
}

function chain(first, then) {
  return function (...args) {
    const result = first?.apply(this, args);
    then();
    return result;
  };
}

app.registerExtension({
  name: "pentimento.PickPoints",
  settings: [
    {
      id: LIVE_MASK,
      category: ["Pentimento", "Pick Points", "Live mask"],
      name: "Show SAM's mask while picking points",
      tooltip: "The first click loads the SAM model and encodes the picture; further clicks are fast.",
      type: "boolean",
      defaultValue: true,
    },
  ],
  init() {
    document.head.append(element("style", "", { textContent: CSS }));
  },
  getCustomWidgets() {
    return {
      PENTIMENTO_PICKS(node, name) {
        const picker = new Picker(node);
        picker.widget = node.addDOMWidget(name, "PENTIMENTO_PICKS", picker.root, {
          hideOnZoom: false,
          getMinHeight: () => 260,
          getValue: () => picker.text,
          setValue: (text) => picker.set(String(text ?? "")),
          onDraw: () => picker.refresh(),
        });
        // The properties panel draws every widget in its own width and leaves that on it; in the node the node's holds.
        Object.defineProperty(picker.widget, "width", { get: () => undefined, set: () => {} });
        picker.refresh();
        return { widget: picker.widget, minWidth: 360, minHeight: 460 };
      },
    };
  },
});
