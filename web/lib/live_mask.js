// The live mask of Pick Points: the mask that the node which gets the picks will make, asked of the server.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { newest } from "./dom.js";
import { control, inputIndex, place, source, targets } from "./graph.js";
import { t } from "./i18n.js";
import { KINDS } from "./picks.js";

export const LIVE_MASK = "pentimento.LiveMask"; // the setting
const NEARLY_ALL = 0.9; // share of the picture; model_patchers/pixels/masks.py has the same
const PAUSE = 120; // ms without a change before SAM is asked
const INPUTS = { positive: "positive_coords", negative: "negative_coords", boxes: "bboxes" }; // of Pick Points' outputs

/** The server's refusal of a mask, in a sentence. */
class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/**
 * The first node with a live mask that a Pick Points node leads to; null for none.
 *
 * It has the `route` and the `settings` of its requests, the `kinds` of picks that it uses, its `model`, which tells
 * whose encoding of a picture it shares, the widget of its `tolerance`, or a sentence why there is no mask, `obstacle`.
 */
function consumer(pickPoints) {
  const here = place(pickPoints);
  const wires = Object.entries(INPUTS).flatMap(([kind, input], slot) =>
    targets(here, slot).map((at) => ({ ...at, kind, fits: at.node.inputs[at.index].name === input })),
  );
  const at = wires.find(({ node, kind, fits }) => fits && MASKS[node.comfyClass]?.needs.includes(kind));
  if (!at) return null;
  const kinds = wires.filter(({ node, fits }) => fits && node === at.node).map(({ kind }) => kind);
  const mask = MASKS[at.node.comfyClass].of(at, kinds);
  return mask && { ...mask, kinds, obstacle: obstacle(mask, at, here) };
}

function wand(at, kinds) {
  const tolerance = control(at, "tolerance");
  const settings = { tolerance: tolerance?.value, contiguous: control(at, "contiguous")?.value };
  if (!kinds.includes("negative")) settings.negative_coords = control(at, "negative_coords")?.value;
  return { route: "/pentimento/wand/preview", settings, tolerance };
}

function sam(at) {
  const loader = source(at, inputIndex(at.node, "sam"));
  if (loader?.node.comfyClass !== "PentimentoLoadSAM") return null;
  const model = { sam_name: control(loader, "sam_name")?.value, precision: control(loader, "precision")?.value };
  const settings = { ...model, choice: control(at, "choice")?.value };
  settings.refine_iterations = control(at, "refine_iterations")?.value;
  return { route: "/pentimento/sam/preview", settings, model: JSON.stringify(model) };
}

/** The nodes that make masks, and the kinds of picks of which they need one. */
const MASKS = {
  PentimentoMagicWand: { of: wand, needs: ["positive"] },
  PentimentoSAMSegment: { of: sam, needs: ["positive", "boxes"] },
};

function obstacle({ settings }, at, here) {
  const computed = Object.keys(settings).find((name) => settings[name] === undefined);
  if (computed) return t("No live mask: another node computes {input}.", { input: computed });
  const [theirs, ours] = [source(at, inputIndex(at.node, "image")), source(here, 0)];
  const same = theirs?.node === ours?.node && theirs?.slot === ours?.slot;
  return same ? "" : t("No live mask: {node} gets another picture.", { node: at.node.title });
}

/** The mask of a request, {image, picks, client, ...}, as a PNG, and the number that comes with it. */
async function fetchMask(route, request, signal) {
  const response = await api.fetchApi(route, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({ error: response.statusText }));
    throw new Refusal(response.status, t(error));
  }
  const number = (name) => Number(response.headers.get(`X-Pentimento-${name}`));
  return { png: await response.blob(), score: number("Score"), selected: number("Selected") };
}

const scored = ({ score }) => t("Mask score {score}", { score: score.toFixed(2) });
const selected = (mask) => {
  const percent = (100 * mask.selected).toFixed(1);
  if (mask.selected > NEARLY_ALL)
    return t("{percent} % selected, nearly the whole picture: lower the tolerance", { percent });
  return t("{percent} % selected", { percent });
};

export class LiveMask {
  /**
   * @param picker The widget: its node, the picture that it shows, and its picks.
   * @param view What it shows.
   * @param changed Called when `text` or `busy` has changed.
   */
  constructor(picker, view, changed) {
    Object.assign(this, { picker, view, changed });
    this.text = ""; // for the status line
    this.busy = false;
    this.askWand = newest((request) => this.fetch(request));
    this.askHover = newest((request, route) => this.fetchHover(request, route));
  }

  /** Looks where the picks go to, and asks for another mask if the request has changed. */
  follow() {
    this.consumer = consumer(this.picker.node);
    this.view.showTolerance(this.consumer?.tolerance);
    const request = this.request(this.picker.picks);
    const key = JSON.stringify([request, this.consumer?.obstacle]);
    if (key !== this.key) {
      this.key = key;
      this.ask(request);
    }
  }

  /** What to ask for these picks; null where there is nothing to ask. */
  request(picks) {
    const { consumer } = this;
    const off = app.extensionManager.setting.get(LIVE_MASK) === false;
    if (off || !consumer || consumer.obstacle || !this.picker.picture) return null;
    const unused = KINDS.filter((kind) => !consumer.kinds.includes(kind));
    const used = { ...picks, ...Object.fromEntries(unused.map((kind) => [kind, []])) };
    if (!used.positive.length && !used.boxes.length) return null;
    return { image: this.picker.picture, picks: JSON.stringify(used), ...consumer.settings };
  }

  /** The encoding that a request needs, if it needs one: of a picture by a model. */
  get encoding() {
    return this.consumer.model && JSON.stringify(this.picker.picture) + this.consumer.model;
  }

  ask(request) {
    this.stop();
    this.wanted = request;
    if (!request || (this.encoding && !this.picker.touched)) return this.clear(this.consumer?.obstacle);
    if (!this.encoding) return this.askWand(request);
    if (this.encoded !== this.encoding) this.tell(t("Encoding the picture"), true);
    this.timer = setTimeout(() => this.fetch(request), PAUSE);
  }

  /** Asks no longer for what has not been answered yet. */
  stop() {
    clearTimeout(this.timer);
    this.abort?.abort();
    this.wanted = null;
    this.waiting = false;
    this.leave();
  }

  async fetch(request) {
    if (!this.wanted) return;
    const { encoding, consumer } = this;
    const abort = new AbortController();
    if (encoding) this.abort = abort; // the wand is quick, and shows all masks on the way
    try {
      const mask = await fetchMask(consumer.route, { ...request, client: this.client }, abort.signal);
      if (this.wanted?.image !== request.image) return;
      this.encoded = encoding;
      this.failure = "";
      this.view.mask.show(mask.png);
      this.tell(encoding ? scored(mask) : selected(mask));
    } catch (error) {
      if (!abort.signal.aborted && this.wanted) this.fail(error);
    }
  }

  fail(error) {
    this.waiting = error.status === 409;
    if (error.status === 429) return;
    const sentence = error instanceof Refusal ? error.message : t("No live mask: {reason}.", { reason: error.message });
    const repeated = sentence === this.failure;
    this.clear(sentence);
    this.failure = sentence;
    if (this.waiting || repeated) return;
    app.extensionManager.toast.add({ severity: "error", summary: t("Pick Points"), detail: sentence, life: 10000 });
  }

  /** Asks again once the queue is empty, if it was too busy before. */
  idle(status) {
    if (this.waiting && status?.exec_info?.queue_remaining === 0) this.ask(this.request(this.picker.picks));
  }

  // ---- what a click would select

  /** Shows the mask that these picks would have; SAM's only where it costs a pass of the decoder alone. */
  hover(picks) {
    const request = this.request(picks);
    if (!request || (this.encoding && this.encoding !== this.encoded)) return this.leave();
    const key = JSON.stringify(request);
    if (key === this.hovered) return;
    this.hovered = key;
    const cheap = this.encoding && { hover: true };
    this.askHover({ ...request, ...cheap, client: `${this.client} hover` }, this.consumer.route);
  }

  async fetchHover(request, route) {
    if (!this.hovered) return;
    const mask = await fetchMask(route, request).catch(() => null); // a hint that does not come is not missed
    if (!this.hovered) return;
    if (mask) this.view.hover.show(mask.png);
    else this.leave();
  }

  leave() {
    this.hovered = "";
    this.view.hover.show(null);
  }

  // ---- what it shows

  /** A name for the server, by which a newer request ends an older one: of this tab and this node. */
  get client() {
    return [api.clientId, this.picker.node.graph?.id, this.picker.node.id].join(" ");
  }

  tell(text, busy = false) {
    Object.assign(this, { text, busy });
    this.changed();
  }

  clear(text = "") {
    this.view.mask.show(null);
    this.tell(text);
  }
}
