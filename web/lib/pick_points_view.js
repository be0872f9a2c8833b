// What Pick Points shows: the picture under marks and masks, hints, the tolerance, the status and the buttons.

import { element } from "./dom.js";
import { t } from "./i18n.js";
import { KINDS } from "./picks.js";

function button(text, act) {
  return element("button", "", { type: "button", textContent: text, onclick: act });
}

const EMPTY = "linear-gradient(#0000, #0000)"; // a browser leaves the mask `none` out where it subtracts masks

/** A mask over the picture, which comes as a PNG of the picture's size. */
class Layer {
  /** @param parts Elements that the style draws from the frame's variable of this name. */
  constructor(frame, name, ...parts) {
    Object.assign(this, { frame, name: `--${name}` });
    this.root = element("div", `pentimento-${name}`, { hidden: true });
    this.root.append(...parts);
    this.put(null);
  }

  /** Shows a mask once the browser has decoded it, so that the old one stays until then; null hides the layer. */
  async show(png) {
    const image = (this.next = png && element("img", "", { src: URL.createObjectURL(png) }));
    await image?.decode();
    if (this.next === image) this.put(image);
    else if (image) URL.revokeObjectURL(image.src);
  }

  put(image) {
    if (this.image) URL.revokeObjectURL(this.image.src);
    this.image = image;
    this.frame.style.setProperty(this.name, image ? `url(${image.src})` : EMPTY);
    this.root.hidden = !image;
  }
}

export class View {
  /** @param acts What the buttons do: {undo, redo, clear}. */
  constructor(acts) {
    this.root = element("div", "pentimento-picks");
    this.root.append(this.stage(), this.hint(), this.toleranceRow(), this.statusLine(), this.bar(acts));
  }

  stage() {
    const stage = element("div", "pentimento-stage");
    this.frame = element("div", "pentimento-frame", { hidden: true });
    this.image = element("img", "", { alt: "", draggable: false });
    this.mask = new Layer(this.frame, "mask", element("div", ""));
    this.hover = new Layer(
      this.frame,
      "hover",
      element("div", "pentimento-adds"),
      element("div", "pentimento-removes"),
    );
    this.marks = element("div", "pentimento-marks");
    // An <input>, since the front end leaves the keys of an <input> alone: Delete, letters and its own Ctrl+Z.
    this.keys = element("input", "pentimento-keys", { type: "button", title: "" });
    this.keys.setAttribute("aria-label", t("Picture to pick points on"));
    this.keys.setAttribute(
      "aria-description",
      t(
        "The arrow keys move the cross or the chosen mark by one pixel, with Shift by a twentieth of the picture. " +
          "Enter selects the pixel under the cross, Shift Enter leaves it out, B starts and ends a box. N chooses " +
          "the next mark, Delete removes the chosen mark, Escape goes back to the cross, Control Z undoes.",
      ),
    );
    this.cross = element("div", "pentimento-cross");
    this.note = element("div", "pentimento-note");
    this.frame.append(this.image, this.mask.root, this.hover.root, this.marks, this.keys, this.cross);
    stage.append(this.frame, this.note);
    return stage;
  }

  hint() {
    const text = t(
      "Click to select, Shift-click or right-click to leave out, drag to draw a box. " +
        "Drag a mark to move it, right-click a mark to remove it.",
    );
    return element("div", "pentimento-hint", { textContent: text });
  }

  toleranceRow() {
    this.tolerance = element("label", "pentimento-tolerance", { hidden: true });
    this.range = element("input", "", { type: "range" });
    this.amount = element("output", "");
    this.tolerance.append(element("span", "", { textContent: t("Tolerance") }), this.range, this.amount);
    return this.tolerance;
  }

  statusLine() {
    this.status = element("div", "pentimento-status");
    this.status.setAttribute("role", "status");
    return this.status;
  }

  bar({ undo, redo, clear }) {
    const bar = element("div", "pentimento-bar");
    this.place = element("output", "");
    this.place.setAttribute("aria-live", "off");
    this.undo = button(t("Undo"), undo);
    this.redo = button(t("Redo"), redo);
    this.clear = button(t("Clear"), clear);
    bar.append(this.place, this.undo, this.redo, this.clear);
    return bar;
  }

  /** Shows a note in place of the picture. */
  blank(note) {
    this.frame.hidden = true;
    this.note.textContent = note;
    this.marks.replaceChildren();
  }

  showPicture() {
    this.frame.style.setProperty("--ratio", `${this.image.naturalWidth} / ${this.image.naturalHeight}`);
    this.frame.hidden = false;
    this.note.textContent = "";
  }

  say(status, busy) {
    if (this.status.textContent !== status) this.status.textContent = status;
    this.status.classList.toggle("pentimento-busy", busy);
  }

  /** Shows the slider of a widget, with its value; null hides the slider. */
  showTolerance(widget) {
    this.tolerance.hidden = !widget;
    if (!widget) return;
    const { min = 0, max = 1, step2 = 0.01 } = widget.options;
    Object.assign(this.range, { min, max, step: step2 });
    if (Number(this.range.value) !== widget.value) this.range.value = widget.value;
    const amount = Number(widget.value).toFixed(2);
    if (this.amount.textContent !== amount) this.amount.textContent = amount;
  }

  /** Draws the marks of picks on a picture of a size, the chosen one marked, and the cross at a pixel. */
  drawMarks(picks, { width, height }, chosen, cursor) {
    const at = (x, y) => ({ left: `${(100 * x) / width}%`, top: `${(100 * y) / height}%` });
    const mark = (kind, index) => {
      const drawn = element("div", kind === "boxes" ? "pentimento-box" : "pentimento-point");
      const { x, y, width: w, height: h } = picks[kind][index];
      drawn.dataset.kind = kind;
      drawn.classList.toggle("pentimento-chosen", chosen?.kind === kind && chosen.index === index);
      if (kind === "boxes") {
        Object.assign(drawn.style, at(x, y), { width: `${(100 * w) / width}%`, height: `${(100 * h) / height}%` });
        drawn.append(...handles());
      } else Object.assign(drawn.style, at(x + 0.5, y + 0.5));
      return drawn;
    };
    const kinds = [...KINDS].reverse(); // points lie on boxes
    this.marks.replaceChildren(...kinds.flatMap((kind) => picks[kind].map((_, index) => mark(kind, index))));
    Object.assign(this.cross.style, at(cursor.x + 0.5, cursor.y + 0.5));
  }
}

/** The corners of a box. */
function handles() {
  const corners = [[0, 0], [100, 0], [0, 100], [100, 100]];
  return corners.map(([left, top]) => {
    const handle = element("i", "");
    Object.assign(handle.style, { left: `${left}%`, top: `${top}%` });
    return handle;
  });
}
