// The widget of Infinite Grid: a form that writes the text of the grid, and buttons that check, run, pause and show it.
//
// Its only state is the text of the node's `grid`. The grid runs in the server, which tells every tab how far it is: a
// tab may be closed, and another one opened later shows the same.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { chain, element, newest } from "./lib/dom.js";
import { changing, places, settable, untitled } from "./lib/grid_inputs.js";
import { CSS } from "./lib/grid_style.js";
import { axisValues, withAxis } from "./lib/grid_text.js";
import { t } from "./lib/i18n.js";

const ROUTE = "/pentimento/grid";
const PAUSE = 400; // ms without a change before the cells are counted
const MANY = 12; // choices, beyond which they can be searched
const ACTIVE = ["waiting", "running", "pausing"]; // states of a run

/** The values of the form's field: a short list, or of texts a list with one on each line. */
function fromField(field, isText) {
  const lines = field.split("\n").map((line) => line.trim()).filter(Boolean);
  return isText ? lines : lines.join(" ");
}

function toField(values) {
  return Array.isArray(values) ? values.join("\n") : (values ?? "");
}

/** Choices as a short list, which has another comma where a choice holds one. */
function listed(chosen) {
  if (!chosen.some((choice) => choice.includes(","))) return chosen.join(", ");
  return chosen.length > 1 ? chosen.join(" || ") : `${chosen[0]} ||`;
}

function unlisted(field) {
  return field.split(field.includes("||") ? "||" : ",").map((item) => item.trim()).filter(Boolean);
}

function duration(seconds) {
  if (seconds < 90) return t("{count} s", { count: Math.round(seconds) });
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return t("{count} min", { count: minutes });
  return t("{hours} h {minutes} min", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}

const cells = (count) => (count === 1 ? t("1 cell") : t("{count} cells", { count }));

class GridWidget {
  constructor(node) {
    this.node = node;
    this.nodes = []; // that the form offers
    this.run = {}; // the state of the node's last run, as the server tells it
    this.place = {}; // the folder of the results
    this.count = newest(() => this.countNow());
    this.build();
    this.listen();
    this.draw();
  }

  build() {
    const labelled = (made, label) => (made.setAttribute("aria-label", label), made);
    this.root = element("div", "pentimento-grid");
    this.nodeList = labelled(element("select", ""), t("Node"));
    this.inputList = labelled(element("select", ""), t("Input"));
    this.nodeList.append(new Option(t("Node"), "")); // until the form is touched
    this.inputList.append(new Option(t("Input"), ""));
    this.field = labelled(element("textarea", "pentimento-grid-wide", { placeholder: t("Values"), rows: 1, spellcheck: false }), t("Values"));
    this.search = element("input", "pentimento-grid-wide", { type: "search", hidden: true, placeholder: t("Search") });
    this.choices = labelled(element("div", "pentimento-grid-choices", { hidden: true }), t("Values to choose"));
    this.choices.setAttribute("role", "group");
    const form = element("div", "pentimento-grid-form");
    const row = element("div", "pentimento-grid-bar pentimento-grid-wide");
    this.add = this.button(t("Add axis"), () => this.addAxis());
    row.append(this.add);
    form.append(this.nodeList, this.inputList, this.field, this.search, this.choices, row);

    this.area = labelled(element("textarea", "pentimento-grid-text", { spellcheck: false }), t("Text of the grid"));
    this.area.placeholder = t("The axes and their values stand here. Choose a node, an input and values above.");

    const bar = element("div", "pentimento-grid-bar");
    this.check = this.button(t("Check"), () => this.checkNow());
    this.go = this.button(t("Run"), () => this.runNow());
    this.go.classList.add("pentimento-grid-go");
    this.stop = this.button(t("Pause"), () => this.pauseNow());
    this.view = element("a", "", { textContent: t("View"), target: "_blank", rel: "noopener" });
    this.total = element("output", "");
    bar.append(this.check, this.go, this.stop, this.view, this.total);
    this.bar = element("progress", "", { hidden: true });
    this.said = element("div", "pentimento-grid-say");
    this.said.setAttribute("role", "status");
    this.root.append(form, this.area, bar, this.bar, this.said);
  }

  button(name, act) {
    return element("button", "", { type: "button", textContent: name, onclick: act });
  }

  listen() {
    const on = (target, type, act) => target.addEventListener(type, act.bind(this));
    on(this.nodeList, "pointerdown", this.offer);
    on(this.nodeList, "focus", this.offer);
    on(this.nodeList, "change", this.chooseNode);
    on(this.inputList, "change", this.chooseInput);
    on(this.field, "input", this.tick);
    on(this.search, "input", this.filter);
    on(this.area, "input", () => this.write(this.area.value));
    on(this.area, "change", this.settle);
    on(this.root, "pointerdown", (event) => event.button === 0 && event.stopPropagation());
    on(this.root, "pointerenter", this.refresh);
    on(this.root, "wheel", this.wheel);
    for (const name of ["onAdded", "onConfigure"]) {
      this.node[name] = chain(this.node[name], () => setTimeout(() => this.refresh())); // the graph has its id by then
    }
    this.node.onRemoved = chain(this.node.onRemoved, () => this.close());
    const event = ({ detail }) => detail.key === this.key && this.take(detail);
    this.events = { "pentimento.grid": event, reconnected: () => this.ask(), graphChanged: () => (this.stale = true) };
    for (const [name, act] of Object.entries(this.events)) api.addEventListener(name, act);
  }

  close() {
    clearTimeout(this.timer);
    for (const [name, act] of Object.entries(this.events)) api.removeEventListener(name, act);
  }

  /** A list or a text scrolls; elsewhere the wheel zooms the canvas. */
  wheel(event) {
    const scrolls = event.target.closest("textarea, .pentimento-grid-choices, .pentimento-grid-say");
    if (scrolls && scrolls.scrollHeight > scrolls.clientHeight && !event.ctrlKey) event.stopPropagation();
    else app.canvas.processMouseWheel(event);
  }

  // ---- the node

  /** A name of the node for the server: the same as long as the workflow and the node live. */
  get key() {
    const { graph, id } = this.node;
    const root = app.rootGraph ?? app.graph;
    return [root.id, ...(graph && graph !== root ? [graph.id] : []), id].join(":");
  }

  /** Looks what became of the grid, after the workflow was opened or changed. */
  refresh() {
    remount(this);
    if (!this.node.graph) return;
    if (this.key !== this.known) {
      this.known = this.key;
      this.ask();
      this.stale = true;
    }
    if (this.stale) this.changed();
  }

  /** Asks how far the grid is. */
  async ask() {
    const { key } = this;
    const response = await api.fetchApi(`${ROUTE}?${new URLSearchParams({ key })}`);
    if (response.ok && key === this.key) this.take(await response.json());
  }

  take(run) {
    this.run = run;
    if (run.folder && run.state !== "waiting") this.place = { folder: run.folder, page: true };
    this.draw();
  }

  // ---- the text

  get text() {
    return this.area.value;
  }

  /** Takes a value from outside: a loaded workflow, the front end's undo, a script. */
  set(text) {
    if (text === this.area.value && text === this.counted) return;
    this.area.value = text;
    this.changed();
  }

  /** Makes a text the node's value. */
  write(text) {
    this.widget.value = text;
    this.changed();
  }

  /** Makes the text a step of the front end's undo. */
  settle() {
    app.canvas.emitBeforeChange();
    app.canvas.emitAfterChange();
  }

  changed() {
    this.stale = false;
    this.counted = this.text;
    clearTimeout(this.timer);
    this.timer = setTimeout(this.count, PAUSE);
  }

  /** Counts the cells, or says what is wrong with the text. */
  async countNow() {
    if (!this.node.graph) return;
    if (!this.text.trim()) return this.tell({ cells: 0 });
    const answer = await this.post("check", { quick: true });
    this.tell(answer, answer.faults ? [] : this.advice(answer));
  }

  // ---- the form

  /** Offers the nodes that are in the graph now. */
  async offer() {
    const { output } = await app.graphToPrompt();
    const nodes = settable(output);
    if (JSON.stringify(nodes) === JSON.stringify(this.nodes)) return;
    const chosen = this.nodeList.value;
    this.nodes = nodes;
    this.nodeList.replaceChildren(...nodes.map(({ id, name }) => new Option(name, id)));
    this.nodeList.value = nodes.some(({ id }) => id === chosen) ? chosen : (nodes[0]?.id ?? "");
    this.chooseNode();
  }

  get chosenNode() {
    return this.nodes.find(({ id }) => id === this.nodeList.value);
  }

  get input() {
    return this.chosenNode?.inputs.find(({ name }) => name === this.inputList.value);
  }

  chooseNode() {
    const inputs = this.chosenNode?.inputs ?? [];
    const chosen = this.inputList.value;
    this.inputList.replaceChildren(...inputs.map(({ name }) => new Option(name)));
    if (inputs.some(({ name }) => name === chosen)) this.inputList.value = chosen;
    this.chooseInput();
  }

  chooseInput() {
    const { input } = this;
    this.field.value = input ? toField(axisValues(this.text, input.address)) : "";
    this.field.rows = input?.isText ? 3 : 1;
    this.field.placeholder = this.hint(input);
    this.search.hidden = !(input?.choices?.length > MANY);
    this.search.value = "";
    this.choices.hidden = !input?.choices;
    this.choices.replaceChildren(...(input?.choices ?? []).map((choice) => this.choice(choice)));
    this.tick();
  }

  hint(input) {
    if (!input) return t("Values");
    if (input.isText) return t("A text on each line, or a word => another word");
    if (input.choices) return t("The values that you tick below");
    return t("Such as {value}, or 1, 2, ..., 10", { value: input.value });
  }

  choice(name) {
    const label = element("label", "");
    const box = element("input", "", { type: "checkbox", value: name });
    box.addEventListener("change", () => {
      const boxes = [...this.choices.querySelectorAll("input")];
      const others = unlisted(this.field.value).filter((item) => !boxes.some(({ value }) => value === item));
      this.field.value = listed([...boxes.filter(({ checked }) => checked).map(({ value }) => value), ...others]);
      this.draw();
    });
    label.append(box, name);
    return label;
  }

  /** Ticks the choices that the field names. */
  tick() {
    const names = unlisted(this.field.value);
    for (const box of this.choices.querySelectorAll("input")) box.checked = names.includes(box.value);
    this.draw();
  }

  filter() {
    const words = this.search.value.toLowerCase();
    for (const label of this.choices.children) label.hidden = !label.textContent.toLowerCase().includes(words);
  }

  addAxis() {
    const { address, isText } = this.input;
    let text = null;
    try {
      text = withAxis(this.text, address, fromField(this.field.value, isText));
    } catch (error) {
      return this.say([t("The text is no JSON: {reason}", { reason: error.message })], true);
    }
    if (text === null) {
      return this.say([t("The form cannot write into axes that share a line. Put each axis on a line of its own.")], true);
    }
    app.canvas.emitBeforeChange();
    this.write(text);
    app.canvas.emitAfterChange();
    this.draw();
  }

  // ---- the buttons

  /** The server's answer: what it was asked for, or {faults: sentences}. */
  async post(path, more = {}) {
    const { output, workflow } = await app.graphToPrompt();
    this.prompt = output;
    const name = app.extensionManager.workflow.activeWorkflow?.filename ?? "";
    const graph = { prompt: output, workflow, places: places(output), untitled: untitled(output) };
    return this.send(path, { key: this.key, name, text: this.text, ...graph, ...more });
  }

  async send(path, body) {
    try {
      const headers = { "Content-Type": "application/json" };
      const response = await api.fetchApi(`${ROUTE}/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
      const answer = await response.json().catch(() => ({ error: response.statusText }));
      return answer.error ? { faults: [t(answer.error)] } : answer;
    } catch (error) {
      return { faults: [t("ComfyUI does not answer: {reason}", { reason: error.message })] };
    }
  }

  async checkNow() {
    const answer = await this.busy(this.check, () => this.post("check"));
    this.tell(answer, answer.faults ? [] : [...this.estimate(answer), ...this.advice(answer)]);
  }

  /** Sentences on seeds that would make other cells of a grid that goes on. */
  advice({ inputs }) {
    return changing(this.prompt, inputs).map((input) =>
      t("{input} changes after each ordinary run, and then all cells are new: set its control to fixed, or vary it.", { input }),
    );
  }

  async runNow() {
    const answer = await this.busy(this.go, () => this.post("run"));
    if (answer.faults) return this.tell(answer);
    this.say([]);
    if (!ACTIVE.includes(this.run.state) || this.run.state === "waiting") this.take(answer); // else an event came first
  }

  async pauseNow() {
    const answer = await this.busy(this.stop, () => this.send("pause", { key: this.key }));
    if (answer.faults) this.tell(answer);
  }

  /** What `work` gives, while the button takes no further press. */
  async busy(button, work) {
    this.pressed = button;
    this.draw();
    try {
      return await work();
    } finally {
      this.pressed = null;
      this.draw();
    }
  }

  /** Sentences on a grid's cells and cost. */
  estimate({ cells: count, missing, axes, runs, nodes, loads, seconds, folder }) {
    const counts = axes.map(({ title, count }) => `${title}: ${count}`).join(", ");
    const sentences = [t("{cells} ({axes}; the last axis changes first).", { cells: cells(count), axes: counts })];
    const done = count - missing;
    if (done) sentences.push(t("{done} of them are there, and {left} are left.", { done, left: missing }));
    sentences.push(t("All cells run {runs} of {nodes} nodes: ComfyUI keeps what does not change.", { runs, nodes }));
    const list = Object.entries(loads).map(([name, times]) => `${name}: ${times}`).join(", ");
    if (list) sentences.push(t("So often models are loaded: {list}.", { list }));
    if (missing && seconds === null) sentences.push(t("No cell has run yet, so the time is not known."));
    if (missing && seconds) {
      sentences.push(t("The cells that are left take about {time}.", { time: duration(missing * seconds) }));
    }
    sentences.push(t("The results go to the folder {folder} of ComfyUI's output folder.", { folder }));
    return sentences;
  }

  // ---- what is shown

  /** Shows an answer: its faults, or the count of cells and these sentences. */
  tell(answer, sentences = []) {
    this.total.textContent = answer.faults || !answer.cells ? "" : cells(answer.cells);
    if (answer.folder) this.place = answer;
    this.say(answer.faults ?? sentences, Boolean(answer.faults));
  }

  say(sentences, wrong = false) {
    this.sentences = sentences;
    this.wrong = wrong;
    this.draw();
  }

  /** Sentences on the run. */
  report() {
    const { state, done, total, failed, seconds_left: left, sentence } = this.run;
    if (!state) return [];
    const counts = [t("{done} of {total} cells done", { done, total })];
    if (failed) counts.push(t("{failed} failed", { failed }));
    if (ACTIVE.includes(state) && left !== null) counts.push(t("{time} left", { time: duration(left) }));
    const says = {
      waiting: t("Waits for the end of another grid."),
      pausing: t("Pauses after the cell that runs."),
      paused: t("Paused. Run goes on."),
      stopped: sentence,
      done: failed ? t("The grid is done. Run tries again what failed.") : t("The grid is done."),
    };
    return [`${counts.join(", ")}.`, says[state]].filter(Boolean);
  }

  draw() {
    const { state, total, done, failed, failures = [] } = this.run;
    const active = ACTIVE.includes(state);
    const { input, place } = this;
    this.add.disabled = !input || !fromField(this.field.value, input.isText).length;
    this.add.textContent = input && axisValues(this.text, input.address) !== null ? t("Replace axis") : t("Add axis");
    this.check.disabled = Boolean(this.pressed) || !this.text.trim();
    this.go.disabled = this.check.disabled || active;
    this.stop.disabled = Boolean(this.pressed) || !active || state === "pausing";
    const path = place.page && `${ROUTE}/view/${place.folder.split("/").map(encodeURIComponent).join("/")}/index.html`;
    if (path) this.view.href = api.apiURL(path);
    else this.view.removeAttribute("href");
    this.bar.hidden = !state;
    this.bar.max = total || 1;
    this.bar.value = (done ?? 0) + (failed ?? 0);
    const line = (text, wrong) => element("p", wrong ? "pentimento-grid-wrong" : "", { textContent: text });
    const lines = (this.sentences ?? []).map((text) => line(text, this.wrong));
    lines.push(...this.report().map((text, i) => line(text, i === 1 && state === "stopped")));
    lines.push(...failures.map((text) => line(text, true)));
    this.said.replaceChildren(...lines);
  }
}

/** Nodes 2.0 goes on showing a node's old elements when undo has made the node anew: takes their place. */
function remount({ node, root }) {
  const old = document.querySelector(`[data-node-id="${node.id}"] .pentimento-grid`);
  if (old && !root.isConnected && node.graph === app.canvas.graph) old.replaceWith(root);
}

app.registerExtension({
  name: "pentimento.Grid",
  init() {
    document.head.append(element("style", "", { textContent: CSS }));
  },
  getCustomWidgets() {
    return {
      PENTIMENTO_GRID(node, name) {
        const grid = new GridWidget(node);
        grid.widget = node.addDOMWidget(name, "PENTIMENTO_GRID", grid.root, {
          hideOnZoom: false,
          getMinHeight: () => 340,
          getValue: () => grid.text,
          setValue: (text) => grid.set(String(text ?? "")),
          onDraw: () => grid.refresh(),
        });
        // The properties panel draws every widget in its own width and leaves that on it; in the node the node's holds.
        Object.defineProperty(grid.widget, "width", { get: () => undefined, set: () => {} });
        return { widget: grid.widget, minWidth: 380, minHeight: 480 };
      },
    };
  },
});
