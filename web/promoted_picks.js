// Pick Points of a blueprint on the subgraph node itself: the front end puts a promoted widget's value there, but of
// widgets with an element of their own it shows nothing.
//
// The subgraph node gets the element of the Pick Points node inside. Its value is the subgraph node's, as for every
// promoted widget, and goes on to the node inside, which draws it.

import { app } from "../../scripts/app.js";
import { chain } from "./lib/dom.js";

const { DOMWidgetImpl, addWidget } = window.comfyAPI.domWidget;
const PICKS = "PENTIMENTO_PICKS"; // the type of the widget
const HEIGHT = 420; // of the widget, at least, in pixels

/** The widget inside a subgraph that one of its inputs sets; undefined for none. */
function inner(subgraph, slot) {
  for (const id of subgraph.inputs[slot]?.linkIds ?? []) {
    const link = subgraph.getLink(id);
    const node = subgraph.getNodeById(link?.target_id);
    const widget = node?.widgets?.find(({ name }) => name === node.inputs[link.target_slot]?.widget?.name);
    if (widget?.type === PICKS && widget.element) return widget;
  }
}

/** Shows the picks inside a subgraph on the node that holds it. */
function show(host, slot) {
  const input = host.inputs[slot];
  const promoted = input._widget; // as the front end made it: the value that is saved and queued
  const source = inner(host.subgraph, slot);
  if (!source || !promoted || promoted.element) return;
  const widget = new DOMWidgetImpl({
    node: host,
    name: input.name,
    type: PICKS,
    element: source.element,
    options: {
      ...source.options,
      getMinHeight: () => HEIGHT,
      getValue: () => promoted.value ?? "",
      setValue: (text) => {
        promoted.value = text;
        if (source.value !== text) source.value = text;
      },
    },
  });
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} }); // the node's, as inside
  source.element.style.minHeight = `${HEIGHT - 2 * widget.margin}px`; // Nodes 2.0 gives promoted widgets no more
  source.callback = chain(source.callback, () => (widget.value = source.value));
  input._widget = widget; // in the promoted one's place, where the front end puts a promoted text field
  addWidget({ graph: host.graph, addCustomWidget() {} }, widget); // shows the element; the node has the widget by now
  queueMicrotask(() => (widget.value = promoted.value ?? "")); // a loaded workflow's values come after its widgets
  const refresh = () => requestAnimationFrame(() => (mount(host, source.element), source.options.onDraw()));
  host.onConnectionsChange = chain(host.onConnectionsChange, refresh);
  refresh(); // the rest of the graph is there by then
}

/** Nodes 2.0 goes on showing a node's old elements when undo has made the node anew: takes their place. */
function mount(host, root) {
  const old = document.querySelector(`[data-node-id="${host.id}"] .pentimento-picks`);
  if (old && !root.isConnected && host.graph === app.canvas.graph) old.replaceWith(root);
}

/** Ends the picks inside a subgraph that went with its graph: the front end tells only the nodes outside. */
function close(subgraph) {
  if (subgraph.rootGraph.subgraphs.has(subgraph.id)) return;
  for (const node of subgraph.nodes) if (node.comfyClass === "PentimentoPickPoints") node.onRemoved?.();
}

app.registerExtension({
  name: "pentimento.PromotedPicks",
  nodeCreated(host) {
    const events = host.subgraph?.events;
    if (!events) return;
    const promoted = ({ detail: { subgraphNode, widget } }) => {
      const settled = host.graph?.getNodeById(host.id) === host; // and not a copy on its way into a graph
      if (subgraphNode !== host || widget.type !== PICKS || !settled) return;
      host.inputs.forEach((_, slot) => show(host, slot));
    };
    events.addEventListener("widget-promoted", promoted);
    host.onRemoved = chain(host.onRemoved, () => {
      events.removeEventListener("widget-promoted", promoted);
      close(host.subgraph);
    });
  },
});
