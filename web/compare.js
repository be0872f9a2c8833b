// The widget of Compare: two pictures on the same area, behind a slider, side by side, in turn, or their difference.
//
// Its value is the mode, which a saved workflow carries. The pictures are those of the last run: files in ComfyUI's temp
// folder, which the tab remembers over a reload.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { chain, element } from "./lib/dom.js";
import { t } from "./lib/i18n.js";

const MODES = ["slider", "side", "blink", "difference"];
const GAINS = [1, 4, 16];
const ZOOMS = [1, 2, 4, 8];
const SAME_RATIO = 0.03; // pictures whose ratios differ by less fill the area, so that they lie on each other

const CSS = `
.pentimento-compare { display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%; min-height: 200px;
  box-sizing: border-box; font: 11px/1.4 system-ui, sans-serif; color: var(--input-text, #ddd); }
.pentimento-compare-stage { position: relative; flex: 1 1 0; min-height: 120px; display: grid; place-items: center;
  container-type: size; overflow: hidden; border-radius: 6px; background: var(--comfy-input-bg, #222); }
.pentimento-compare-frame { position: relative; overflow: hidden; aspect-ratio: var(--shape); --shape: var(--ratio);
  width: min(100cqw, 100cqh * var(--shape)); }
.pentimento-compare-frame[data-mode="side"] { --shape: calc(2 * var(--ratio)); }
.pentimento-compare-pair, .pentimento-compare-pane, .pentimento-compare-pane > img, .pentimento-compare-keys {
  position: absolute; inset: 0; margin: 0; padding: 0; border: 0; }
.pentimento-compare-pair { isolation: isolate; }
.pentimento-compare-pane { overflow: hidden; background: repeating-conic-gradient(#8886 0 25%, #bbb6 0 50%) 0 0 / 16px 16px,
  #444; }
.pentimento-compare-pane > img { width: 100%; height: 100%; object-fit: fill; user-select: none;
  transform: scale(var(--zoom)); transform-origin: var(--left) var(--top); }
.pentimento-compare-apart .pentimento-compare-pane > img { object-fit: contain; }
.pentimento-compare-pane > span { position: absolute; top: 4px; left: 4px; padding: 0 6px; border-radius: 4px;
  background: #000a; color: #fff; }
.pentimento-compare-pane[data-of="b"] > span { left: auto; right: 4px; }
[data-mode="slider"] > * > .pentimento-compare-pane[data-of="a"] { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
[data-mode="side"] > * > .pentimento-compare-pane[data-of="a"] { right: calc(50% + 1px); }
[data-mode="side"] > * > .pentimento-compare-pane[data-of="b"] { left: calc(50% + 1px); }
[data-mode="blink"] > * > .pentimento-compare-pane[data-of="a"] {
  animation: pentimento-blink 1.4s steps(1) infinite; }
[data-mode="blink"]:not([data-held=""]) > * > .pentimento-compare-pane[data-of="a"] { animation: none; }
[data-mode="blink"][data-held="b"] > * > .pentimento-compare-pane[data-of="a"] { visibility: hidden; }
[data-mode="difference"] > .pentimento-compare-pair { background: #000; filter: brightness(var(--gain)); }
[data-mode="difference"] > * > .pentimento-compare-pane { background: none; }
[data-mode="difference"] > * > .pentimento-compare-pane[data-of="a"] { mix-blend-mode: difference; }
[data-mode="difference"] > * > .pentimento-compare-pane > span { display: none; }
@keyframes pentimento-blink { 50% { visibility: hidden; } }
.pentimento-compare-line { display: none; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000a; pointer-events: none; }
.pentimento-compare-line::after { content: ""; position: absolute; top: 50%; left: 50%; width: 22px; height: 22px;
  margin: -11px; box-sizing: border-box; border: 2px solid #fff; border-radius: 50%; background: #0006;
  box-shadow: 0 0 3px #000a; }
[data-mode="slider"] > .pentimento-compare-line { display: block; }
.pentimento-compare-keys { width: 100%; height: 100%; opacity: 0; appearance: none; touch-action: none; cursor: default; }
[data-mode="slider"] > .pentimento-compare-keys { cursor: ew-resize; }
[data-mode="blink"] > .pentimento-compare-keys { cursor: pointer; }
.pentimento-compare-frame:has(> .pentimento-compare-keys:focus-visible)::after { content: ""; position: absolute;
  inset: 0; border: 2px solid #4c9ffe; pointer-events: none; }
.pentimento-compare-note { max-width: 80%; text-align: center; color: var(--descrip-text, #999); }
.pentimento-compare-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; }
.pentimento-compare-bar > output { color: var(--descrip-text, #999); font-variant-numeric: tabular-nums; }
.pentimento-compare-bar > button { padding: 2px 8px; border: 0; border-radius: 4px; font: inherit; color: inherit;
  background: var(--comfy-input-bg, #333); cursor: pointer; white-space: nowrap; }
.pentimento-compare-bar > button[aria-pressed="true"] { background: #4c9ffe; color: #fff; }
.pentimento-compare-bar > button:disabled { opacity: 0.4; cursor: default; }
.pentimento-compare-bar > button:focus-visible { outline: 2px solid #4c9ffe; outline-offset: 1px; }
.pentimento-compare [hidden] { display: none; }
`;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const after = (values, value, by) => values[clamp(values.indexOf(value) + by, 0, values.length - 1)];

class Comparison {
  constructor(node) {
    this.node = node;
    this.mode = "slider";
    this.at = 50; // percent of the width that shows the first picture
    this.gain = 1;
    this.zoom = 1;
    this.centre = { x: 50, y: 50 }; // percent: what stays in place while the pictures are enlarged
    this.index = 0; // in the batch
    this.held = matchMedia("(prefers-reduced-motion: reduce)").matches ? "a" : ""; // the picture that blinking stopped at
    this.pictures = { a: [], b: [] };
    this.build();
    this.listen();
    this.draw();
  }

  build() {
    this.names = { slider: t("Slider"), side: t("Side by side"), blink: t("Blink"), difference: t("Difference") };
    this.root = element("div", "pentimento-compare");
    const stage = element("div", "pentimento-compare-stage");
    this.frame = element("div", "pentimento-compare-frame", { hidden: true });
    const pair = element("div", "pentimento-compare-pair");
    this.panes = {};
    this.images = {};
    this.tags = {};
    for (const [which, alt] of Object.entries({ b: t("Second picture"), a: t("First picture") })) {
      this.panes[which] = element("div", "pentimento-compare-pane");
      this.panes[which].dataset.of = which;
      this.images[which] = element("img", "", { alt, draggable: false });
      this.tags[which] = element("span", "");
      this.panes[which].append(this.images[which], this.tags[which]);
    }
    pair.append(this.panes.b, this.panes.a);
    // An <input>, since the front end leaves the keys of an <input> alone.
    this.keys = element("input", "pentimento-compare-keys", { type: "range", min: 0, max: 100, step: "any" });
    const keys = t(
      "The keys 1 to 4 choose how to compare. The left and right arrow keys move the slider, with Shift by a tenth; " +
        "they also choose the picture that blinks, and how bright the difference is. Page Up and Page Down step " +
        "through a batch. Plus and minus zoom, and W, A, S and D move the part that is shown.",
    );
    this.keys.setAttribute("aria-description", keys);
    this.frame.append(pair, element("div", "pentimento-compare-line"), this.keys);
    this.note = element("div", "pentimento-compare-note");
    this.note.setAttribute("role", "status");
    stage.append(this.frame, this.note);

    this.bar = element("div", "pentimento-compare-bar");
    const button = (name, act, title = name) =>
      element("button", "", { type: "button", textContent: name, title, onclick: act });
    this.buttons = MODES.map((mode, i) => {
      const name = this.names[mode];
      const made = button(name, () => this.choose(mode), `${name} (${i + 1})`);
      made.dataset.mode = mode;
      return made;
    });
    const round = (values, value) => values[(values.indexOf(value) + 1) % values.length];
    const gained = () => this.set({ gain: round(GAINS, this.gain) });
    this.gainButton = button("", gained, t("Brightness of the difference"));
    const zoomed = () => this.set({ zoom: round(ZOOMS, this.zoom) });
    this.zoomButton = button("", zoomed, t("Zoom (+ and -); the pointer moves the part that is shown"));
    this.previous = button("\u2039", () => this.step(-1), t("Previous picture (Page Up)"));
    this.next = button("\u203a", () => this.step(1), t("Next picture (Page Down)"));
    this.place = element("output", "");
    this.bar.append(...this.buttons, this.gainButton, this.zoomButton, this.previous, this.place, this.next);
    this.root.append(stage, this.bar);
  }

  listen() {
    const on = (target, type, act) => target.addEventListener(type, act.bind(this));
    for (const image of Object.values(this.images)) {
      on(image, "load", this.draw);
      on(image, "error", this.forget);
    }
    on(this.keys, "pointerdown", this.press);
    on(this.keys, "pointermove", this.move);
    on(this.keys, "pointerup", (event) => event.button === 1 && app.canvas.processMouseUp(event));
    on(this.keys, "mousedown", (event) => event.preventDefault()); // the element's own way to take a value
    on(this.root, "keydown", this.type);
    on(this.root, "pointerenter", this.refresh);
    on(this.root, "wheel", (event) => app.canvas.processMouseWheel(event));
    for (const name of ["onAdded", "onConfigure", "onExecuted"]) {
      this.node[name] = chain(this.node[name], () => this.refresh());
    }
  }

  // ---- the pictures

  /** Shows the pictures of a run, and remembers them for as long as the tab lives. */
  show(result) {
    if (!result?.a_images) return;
    const text = JSON.stringify({ a: result.a_images, b: result.b_images ?? [] });
    sessionStorage.setItem(this.key, text);
    this.take(text);
  }

  /** Shows the pictures of the last run, after the workflow was opened anew. */
  refresh() {
    remount(this);
    const { graph, id } = this.node;
    const result = app.nodeOutputs?.[graph?.isRootGraph === false ? `${graph.id}:${id}` : id];
    const text = sessionStorage.getItem(this.key);
    if (result) this.show(result);
    else if (text) this.take(text);
  }

  get key() {
    const { graph, id } = this.node;
    return ["pentimento.Compare", graph?.rootGraph?.id, graph?.id, id].join(" ");
  }

  take(text) {
    if (text === this.text) return;
    this.text = text;
    this.pictures = JSON.parse(text);
    this.load();
  }

  load() {
    this.index = clamp(this.index, 0, this.count - 1);
    for (const [which, image] of Object.entries(this.images)) {
      const picture = this.pictures[which][Math.min(this.index, this.pictures[which].length - 1)];
      if (picture) image.src = api.apiURL(`/view?${new URLSearchParams(picture)}`);
      else image.removeAttribute("src");
    }
    this.draw();
  }

  /** The files are gone: ComfyUI empties its temp folder when it starts. */
  forget() {
    sessionStorage.removeItem(this.key);
    this.pictures = { a: [], b: [] };
    this.load();
  }

  get count() {
    return Math.max(1, this.pictures.a.length, this.pictures.b.length);
  }

  get both() {
    return Boolean(this.pictures.a.length && this.pictures.b.length);
  }

  // ---- what the user does

  choose(mode) {
    app.canvas.emitBeforeChange();
    this.widget.value = mode;
    app.canvas.emitAfterChange();
    if (mode === "blink") this.set({ held: "" });
  }

  set(values) {
    Object.assign(this, values);
    this.draw();
  }

  step(by) {
    this.index = clamp(this.index + by, 0, this.count - 1);
    this.load();
  }

  /** Where the pointer is on the pictures, in percent, whatever the canvas' zoom. */
  spot(event) {
    const box = this.keys.getBoundingClientRect();
    const percent = (at, start, length) => clamp((100 * (at - start)) / length, 0, 100);
    return { x: percent(event.clientX, box.left, box.width), y: percent(event.clientY, box.top, box.height) };
  }

  press(event) {
    if (event.button === 1) return app.canvas.processMouseDown(event); // the canvas pans
    if (event.button !== 0) return;
    event.stopPropagation();
    this.keys.setPointerCapture(event.pointerId);
    this.keys.focus({ preventScroll: true, focusVisible: false });
    if (this.mode === "slider") this.set({ at: this.spot(event).x });
    if (this.mode === "blink") this.set({ held: this.held === "a" ? "b" : "a" });
  }

  move(event) {
    if (event.buttons & 4) return app.canvas.processMouseMove(event);
    const spot = this.spot(event);
    if (event.buttons & 1 && this.mode === "slider") this.set({ at: spot.x });
    else if (this.zoom > 1) {
      const { x, y } = spot;
      const inHalf = x < 50 ? 2 * x : 2 * x - 100;
      this.set({ centre: { x: this.frame.dataset.mode === "side" ? inHalf : x, y } });
    }
  }

  type(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key, shiftKey, target } = event;
    const arrow = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const pan = this.zoom > 1 && { a: [-1, 0], d: [1, 0], w: [0, -1], s: [0, 1] }[key.toLowerCase()];
    const mode = MODES[key - 1];
    if (mode && this.both) this.choose(mode);
    else if (arrow && this.both) this.slide(arrow * (shiftKey ? 10 : 1));
    else if (key === "Home" || key === "End") this.set({ at: key === "Home" ? 0 : 100 });
    else if (key === "PageUp" || key === "PageDown") this.step(key === "PageUp" ? -1 : 1);
    else if (key === "+" || key === "=" || key === "-") this.set({ zoom: after(ZOOMS, this.zoom, key === "-" ? -1 : 1) });
    else if (pan) {
      const [x, y] = [this.centre.x + 5 * pan[0], this.centre.y + 5 * pan[1]];
      this.set({ centre: { x: clamp(x, 0, 100), y: clamp(y, 0, 100) } });
    } else if (key === " " && target === this.keys && this.mode === "blink") this.set({ held: this.held ? "" : "a" });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  slide(by) {
    if (this.mode === "slider") this.set({ at: clamp(this.at + by, 0, 100) });
    if (this.mode === "blink") this.set({ held: by < 0 ? "a" : "b" });
    if (this.mode === "difference") this.set({ gain: after(GAINS, this.gain, Math.sign(by)) });
  }

  // ---- drawing

  draw() {
    const { a, b } = this.images;
    const mode = this.both ? this.mode : "alone";
    const shown = [a, b].filter((image) => image.hasAttribute("src"));
    this.frame.hidden = !shown.length || shown.some((image) => !image.naturalWidth);
    this.note.hidden = Boolean(shown.length);
    this.note.textContent = t("Run the workflow to compare the pictures.");
    this.panes.a.hidden = !a.hasAttribute("src");
    this.panes.b.hidden = !b.hasAttribute("src");

    const ratios = shown.map((image) => image.naturalWidth / image.naturalHeight);
    const areas = shown.map((image) => image.naturalWidth * image.naturalHeight);
    const ratio = ratios[areas.indexOf(Math.max(...areas))];
    const apart = ratios.length === 2 && Math.abs(ratios[0] / ratios[1] - 1) > SAME_RATIO;
    this.frame.classList.toggle("pentimento-compare-apart", apart);
    this.frame.dataset.mode = mode;
    this.frame.dataset.held = mode === "blink" ? this.held : "";
    const variables = { ratio, at: `${this.at}%`, gain: this.gain, zoom: this.zoom };
    Object.assign(variables, { left: `${this.centre.x}%`, top: `${this.centre.y}%` });
    for (const [name, value] of Object.entries(variables)) this.frame.style.setProperty(`--${name}`, value);

    for (const button of this.buttons) {
      button.disabled = !this.both;
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
    }
    this.gainButton.hidden = mode !== "difference";
    this.gainButton.textContent = t("Gain \u00d7{gain}", { gain: this.gain });
    this.zoomButton.hidden = !shown.length;
    this.zoomButton.textContent = t("Zoom \u00d7{zoom}", { zoom: this.zoom });
    for (const part of [this.previous, this.place, this.next]) part.hidden = this.count === 1;
    this.previous.disabled = !this.index;
    this.next.disabled = this.index === this.count - 1;
    this.place.textContent = `${this.index + 1} / ${this.count}`;
    for (const [which, { naturalWidth: width, naturalHeight: height }] of Object.entries(this.images)) {
      this.tags[which].textContent = `${which.toUpperCase()} \u00b7 ${width} \u00d7 ${height}`;
    }
    this.describe(mode);
  }

  /** What a screen reader says about the pictures. */
  describe(mode) {
    const text = { slider: `${Math.round(this.at)} %`, difference: `\u00d7${this.gain}` }[mode];
    const blinking = mode === "blink" && (this.held.toUpperCase() || "A, B");
    this.keys.value = this.at;
    this.keys.setAttribute("aria-label", this.names[mode] ?? t("First picture"));
    this.keys.setAttribute("aria-valuetext", text ?? (blinking || "A, B"));
  }
}

/** Nodes 2.0 goes on showing a node's old elements when undo has made the node anew: takes their place. */
function remount({ node, root }) {
  const old = document.querySelector(`[data-node-id="${node.id}"] .pentimento-compare`);
  if (old && !root.isConnected && node.graph === app.canvas.graph) old.replaceWith(root);
}

app.registerExtension({
  name: "pentimento.Compare",
  init() {
    document.head.append(element("style", "", { textContent: CSS }));
  },
  nodeCreated(node) {
    if (node.comfyClass !== "PentimentoCompare") return;
    const comparison = new Comparison(node);
    comparison.widget = node.addDOMWidget("mode", "PENTIMENTO_COMPARE", comparison.root, {
      serialize: false, // into the API's form; a saved workflow has it
      hideOnZoom: false,
      getMinHeight: () => 240,
      getValue: () => comparison.mode,
      setValue: (mode) => comparison.set({ mode: MODES.includes(mode) ? mode : MODES[0] }),
      onDraw: () => comparison.refresh(),
    });
    // The properties panel draws every widget in its own width and leaves that on it; in the node the node's holds.
    Object.defineProperty(comparison.widget, "width", { get: () => undefined, set: () => {} });
    node.setSize([Math.max(node.size[0], 420), Math.max(node.size[1], 400)]);
  },
});
