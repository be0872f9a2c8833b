// The widget of Pick Points: the connected picture, to click points and drag boxes on.
//
// Its only state is the text of the node's `picks`, so saved workflows, the API and the front end's undo carry it.
// Coordinates are whole pixels of the picture: [0, width) x [0, height); a box covers [x, x + width) x [y, y + height).

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { chain, element } from "./lib/dom.js";
import { control, outputName, place, source } from "./lib/graph.js";
import { t } from "./lib/i18n.js";
import { LIVE_MASK, LiveMask } from "./lib/live_mask.js";
import { CSS } from "./lib/pick_points_style.js";
import { View } from "./lib/pick_points_view.js";
import { KINDS, between, clamp, count, empty, fit, moved, read, write } from "./lib/picks.js";
import { describe, markAt, summary } from "./lib/picks.js";

const DRAG = 4; // screen pixels that a press must travel to be a drag
const REACH = 8; // CSS pixels around a mark in which a press takes hold of it
const GLANCE = 300; // ms between looks at what other nodes show and set: Nodes 2.0 tells nobody
const LOADERS = ["LoadImage", "LoadImageOutput"]; // whose pictures are shown without a run

/** The picture that a Load Image shows, as /view takes it; null for none. */
function loadedPicture(at) {
  const [, subfolder = "", filename, type = "input"] =
    /^(?:(.*)\/)?(.*?)(?: \[(input|output|temp)\])?$/.exec(control(at, "image")?.value ?? "") ?? [];
  return filename ? { filename, subfolder, type } : null;
}

class Picker {
  constructor(node) {
    this.node = node;
    this.text = "";
    this.picks = empty(); // in pixels of the picture that they were made on
    this.touched = false; // whether the user picked on this picture
    this.history = [""];
    this.step = 0;
    const acts = { undo: () => this.travel(-1), redo: () => this.travel(1), clear: () => this.commit(empty()) };
    this.view = new View(acts);
    this.mask = new LiveMask(this, this.view, () => this.report());
    this.listen();
  }

  listen() {
    const { root, image, keys, frame, range } = this.view;
    const on = (target, type, act) => target.addEventListener(type, act.bind(this));
    on(image, "load", this.shown);
    on(image, "error", () => this.blank(t("The picture could not be loaded.")));
    on(keys, "pointerdown", this.press);
    on(keys, "pointermove", this.move);
    on(keys, "pointerup", this.release);
    on(keys, "pointercancel", this.drop);
    on(keys, "pointerleave", this.leave);
    on(keys, "keydown", this.type);
    on(keys, "focus", () => frame.classList.toggle("pentimento-by-key", !this.pressed));
    on(keys, "blur", () => (frame.classList.remove("pentimento-by-key"), this.leave()));
    on(range, "input", this.slide);
    on(range, "change", this.settle);
    on(root, "pointerenter", this.refresh);
    on(root, "contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
    });
    on(root, "wheel", (event) => app.canvas.processMouseWheel(event));
    this.node.onExecuted = chain(this.node.onExecuted, () => this.refresh());
    this.node.onConnectionsChange = chain(this.node.onConnectionsChange, () => this.refresh());
    this.node.onRemoved = chain(this.node.onRemoved, () => this.close());
    this.events = { graphChanged: () => this.refresh(), status: (event) => this.mask.idle(event.detail) };
    for (const [name, act] of Object.entries(this.events)) api.addEventListener(name, act);
    this.clock = setInterval(() => this.refresh(), GLANCE);
  }

  close() {
    clearInterval(this.clock);
    for (const [name, act] of Object.entries(this.events)) api.removeEventListener(name, act);
    this.mask.stop();
    this.mask.clear();
  }

  // ---- the picture

  /** Shows the picture that is connected now: Load Image's own at once, any other as of the last run. */
  refresh() {
    this.mount();
    const here = place(this.node);
    const from = this.node.graph && source(here, 0);
    const loaded = LOADERS.includes(from?.node.comfyClass);
    const picture = loaded ? loadedPicture(from) : app.nodeOutputs?.[outputName(here)]?.pentimento_picture?.[0];
    const missing = from ? t("Run this node once to see its picture.") : t("Connect a picture.");
    const wanted = from && picture ? JSON.stringify(picture) : missing;
    if (wanted !== this.wanted) {
      this.wanted = wanted;
      this.picture = from && picture;
      this.loaded = loaded && picture;
      this.touched = false;
      if (!this.picture) this.blank(missing);
      // Browsers mirror some photographs that Load Image only turns: the pack's route shows what Load Image gives.
      const route = loaded ? "/pentimento/picture" : "/view";
      const query = new URLSearchParams({ ...picture, rand: Math.random() });
      if (this.picture) this.view.image.src = api.apiURL(`${route}?${query}`);
    }
    if (this.node.graph) this.mask.follow();
  }

  /** Nodes 2.0 goes on showing a node's old elements when undo has made the node anew: takes their place. */
  mount() {
    const { root } = this.view;
    const old = document.querySelector(`[data-node-id="${this.node.id}"] .pentimento-picks`);
    if (old && !root.isConnected && this.node.graph === app.canvas.graph) old.replaceWith(root);
  }

  blank(note) {
    this.view.blank(note);
    this.remember();
    this.draw();
  }

  shown() {
    const { naturalWidth: width, naturalHeight: height } = this.view.image;
    this.size = { width, height };
    this.cursor = { x: width >> 1, y: height >> 1 };
    this.view.showPicture();
    this.remember();
    this.refresh();
    this.draw();
  }

  /** Clears the picks once Load Image shows another picture than that they were made on: they mean nothing there. */
  remember() {
    if (!this.loaded) return;
    const { subfolder, filename } = this.loaded;
    const painted = subfolder === "clipspace"; // the same picture, as the mask editor saves it
    const name = `${subfolder}/${filename}`;
    const another = this.known && !painted && this.known !== name;
    this.known = painted ? (this.known ?? name) : name;
    if (!another || !count(this.picks)) return;
    this.commit(empty());
    this.notice = t("The picture is another one, so its picks were cleared. Undo brings them back.");
  }

  /** The picks in pixels of the picture that is shown. */
  get here() {
    return fit(this.picks, this.size.width, this.size.height);
  }

  get ready() {
    return !this.view.frame.hidden;
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
    this.notice = "";
    this.drop();
  }

  /** Makes `picks` the node's value and a step of both undo histories; `run` joins steps of the same name into one. */
  commit(picks, run = "") {
    const text = write(picks, this.size ?? {});
    if (text === this.text) return this.drop();
    this.step += run && run === this.run ? 0 : 1;
    this.run = run;
    this.history.splice(this.step, Infinity, text);
    this.put(text);
  }

  travel(by) {
    if (this.history[this.step + by] === undefined) return;
    this.step += by;
    this.run = "";
    this.put(this.history[this.step]);
  }

  put(text) {
    const chosen = this.chosen;
    this.touched = true;
    app.canvas.emitBeforeChange();
    this.show(text);
    this.widget.value = text;
    app.canvas.emitAfterChange();
    if (chosen && this.picks[chosen.kind][chosen.index]) this.chosen = chosen;
    this.mask.leave();
    this.mask.follow();
    this.draw();
  }

  // ---- the tolerance of the connected Magic Wand

  slide() {
    const { tolerance } = this.mask.consumer;
    tolerance.value = Number(this.view.range.value);
    tolerance.callback?.(tolerance.value);
    this.mask.follow();
    app.canvas.setDirty(true, true);
  }

  /** Makes the new tolerance a step of the front end's undo. */
  settle() {
    app.canvas.emitBeforeChange();
    app.canvas.emitAfterChange();
  }

  // ---- the pointer

  /** The pixel under the pointer, whatever the zoom: the element's box on the screen is the picture. */
  pixel(event) {
    const box = this.view.keys.getBoundingClientRect();
    const { width, height } = this.size;
    return {
      x: clamp(Math.floor(((event.clientX - box.left) / box.width) * width), 0, width - 1),
      y: clamp(Math.floor(((event.clientY - box.top) / box.height) * height), 0, height - 1),
    };
  }

  /** The mark under the pointer: a point, a box's corner or a box's edge. */
  hit(event) {
    const screen = this.view.keys.getBoundingClientRect();
    const zoom = screen.width / this.view.keys.offsetWidth;
    const scale = { x: screen.width / this.size.width, y: screen.height / this.size.height };
    return markAt(this.here, { x: event.clientX - screen.left, y: event.clientY - screen.top }, scale, REACH * zoom);
  }

  press(event) {
    if (event.button === 1) return app.canvas.processMouseDown(event); // the canvas pans
    if (!this.ready || this.pressed) return;
    event.stopPropagation();
    const secondary = event.button === 2 || event.ctrlKey; // Ctrl-click is macOS's right click
    this.pressed = { event, secondary, spot: this.pixel(event), mark: this.hit(event), picks: this.here };
    this.corner = null;
    this.view.keys.setPointerCapture(event.pointerId);
    this.view.keys.focus({ preventScroll: true });
    this.view.frame.classList.remove("pentimento-by-key");
  }

  move(event) {
    if (event.buttons & 4) return app.canvas.processMouseMove(event);
    if (!this.ready) return;
    const spot = this.pixel(event);
    this.view.place.textContent = `${spot.x}, ${spot.y}`;
    if (this.pressed) this.pull(event, spot);
    else this.point(event, spot);
  }

  /** Shows what a click would do. */
  point(event, spot) {
    const mark = this.hit(event);
    this.view.keys.style.cursor = mark ? "move" : "";
    if (mark || event.pointerType === "touch") this.mask.leave();
    else this.preview(event.shiftKey ? "negative" : "positive", spot);
  }

  preview(kind, spot) {
    this.mask.hover({ ...this.here, [kind]: [...this.here[kind], spot] });
  }

  /** Draws a box, or moves a mark, while the pointer is pressed. */
  pull(event, spot) {
    const { pressed } = this;
    const far = Math.hypot(event.clientX - pressed.event.clientX, event.clientY - pressed.event.clientY) >= DRAG;
    if (pressed.secondary || !(far || this.draft)) return;
    const by = { x: spot.x - pressed.spot.x, y: spot.y - pressed.spot.y };
    this.draft = pressed.mark
      ? moved(pressed.picks, pressed.mark, by)
      : { ...pressed.picks, boxes: [...pressed.picks.boxes, between(pressed.spot, spot)] };
    this.chosen = pressed.mark ?? { kind: "boxes", index: pressed.picks.boxes.length };
    this.mask.leave();
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

  leave() {
    this.view.place.textContent = "";
    this.mask.leave();
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
    this.mask.leave();
    this.draw();
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
    this.view.frame.classList.add("pentimento-by-key");
    event.preventDefault();
    event.stopPropagation();
  }

  steer([dx, dy], far) {
    const { width, height } = this.size;
    const length = far ? Math.max(1, Math.round(Math.max(width, height) / 20)) : 1;
    const by = { x: dx * length, y: dy * length };
    if (this.chosen) {
      const { kind, index } = this.chosen;
      this.commit(moved(this.here, this.chosen, by), `move ${kind} ${index}`);
      this.cursor = { x: this.here[kind][index].x, y: this.here[kind][index].y };
    } else {
      this.cursor = { x: clamp(this.cursor.x + by.x, 0, width - 1), y: clamp(this.cursor.y + by.y, 0, height - 1) };
      if (this.corner) this.draft = { ...this.here, boxes: [...this.here.boxes, between(this.corner, this.cursor)] };
      else this.preview("positive", this.cursor);
    }
    this.draw();
    this.view.say(`${this.cursor.x}, ${this.cursor.y}`, this.mask.busy);
  }

  boxKey() {
    const { corner } = this;
    this.chosen = null;
    this.corner = corner ? null : { ...this.cursor };
    this.mask.leave();
    if (corner) this.add("boxes", between(corner, this.cursor));
  }

  next(by) {
    const marks = KINDS.flatMap((kind) => this.picks[kind].map((_, index) => ({ kind, index })));
    const at = marks.findIndex((mark) => mark.kind === this.chosen?.kind && mark.index === this.chosen.index);
    if (marks.length) this.choose(marks.at((at + by + (at < 0 && by < 0 ? 1 : 0)) % marks.length));
    if (this.chosen) this.view.say(describe(this.chosen, this.here), this.mask.busy);
  }

  // ---- drawing

  draw() {
    const { view } = this;
    view.undo.disabled = !this.step;
    view.redo.disabled = this.step === this.history.length - 1;
    view.clear.disabled = !count(this.picks) && !this.unreadable;
    this.report();
    if (this.ready) view.drawMarks(this.draft ?? this.here, this.size, this.chosen, this.cursor);
  }

  report() {
    this.view.say(this.unreadable ? unreadable() : this.state().filter(Boolean).join(" \u00b7 "), this.mask.busy);
  }

  state() {
    const { kinds } = this.mask.consumer ?? {};
    const boxless = kinds && !kinds.includes("boxes") && this.picks.boxes.length;
    return [summary(this.picks), boxless && t("the boxes go nowhere"), this.mask.text, this.notice];
  }
}

const unreadable = () => t("The text of picks could not be read; the next pick replaces it.");

app.registerExtension({
  name: "pentimento.PickPoints",
  settings: [
    {
      id: LIVE_MASK,
      category: ["Pentimento", "Pick Points", "Live mask"],
      name: "Show the mask while picking points",
      tooltip:
        "Magic Wand's mask shows at once. With SAM, the first click loads the model and encodes the picture; further " +
        "clicks are fast.",
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
        picker.widget = node.addDOMWidget(name, "PENTIMENTO_PICKS", picker.view.root, {
          hideOnZoom: false,
          getMinHeight: () => 280,
          getValue: () => picker.text,
          setValue: (text) => picker.set(String(text ?? "")),
          onDraw: () => picker.refresh(),
        });
        // The properties panel draws every widget in its own width and leaves that on it; in the node the node's holds.
        Object.defineProperty(picker.widget, "width", { get: () => undefined, set: () => {} });
        picker.refresh();
        return { widget: picker.widget, minWidth: 360, minHeight: 480 };
      },
    };
  },
});
