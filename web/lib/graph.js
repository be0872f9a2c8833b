// Ways through the graph: what feeds an input, where an output leads, and which widget sets an input, through reroutes,
// bypassed nodes and the borders of subgraphs.
//
// A place is a node and the subgraph nodes around it, the innermost last: {node, around}.

import { app } from "../../../scripts/app.js";

const SUBGRAPH_INPUT = -10; // LiteGraph's ids of the nodes that stand for a subgraph's inputs and outputs
const SUBGRAPH_OUTPUT = -20;
const MUTED = 2; // LiteGraph's modes
const BYPASSED = 4;
const PRIMITIVES = /^Primitive(Node|Int|Float|Boolean|String|StringMultiline)$/; // their first widget is their value

/** The place of a node. Of several subgraph nodes of one subgraph the first counts. */
export function place(node) {
  return { node, around: holders(app.rootGraph ?? app.graph, node.graph) ?? [] };
}

/** The subgraph nodes that lead from a graph to a graph inside it; null where there is no way. */
function holders(from, to) {
  if (from === to) return [];
  for (const node of from.nodes) {
    const inner = node.subgraph && holders(node.subgraph, to);
    if (inner) return [node, ...inner];
  }
  return null;
}

const outside = ({ around }) => ({ node: around.at(-1), around: around.slice(0, -1) });

/** The name of a node's outputs in `app.nodeOutputs`. */
export function outputName({ node, around }) {
  return around.length ? `${node.graph.id}:${node.id}` : String(node.id);
}

export function inputIndex(node, name) {
  return node.inputs.findIndex((input) => input.name === name);
}

/** The link into an input; nothing for none. Subgraph nodes have a getInputLink of another meaning. */
function linkInto(node, index) {
  return node.inputs[index] && LGraphNode.prototype.getInputLink.call(node, index);
}

/** The links out of an output; none where the node is in no graph. */
function linksOutOf(node, slot) {
  return [...(node.graph?.links.values() ?? [])].filter((link) => link.origin_id === node.id && link.origin_slot === slot);
}

/** The place and the output slot that feed an input; null for none. */
export function source({ node, around }, index) {
  const link = linkInto(node, index);
  return link ? start(node.graph, around, link) : null;
}

/** Where a link of a graph starts. */
function start(graph, around, link) {
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    return around.length ? source(outside({ around }), link.origin_slot) : null;
  }
  const node = graph.getNodeById(link.origin_id);
  if (!node || node.mode === MUTED) return null;
  if (node.type === "Reroute") return source({ node, around }, 0);
  if (node.mode === BYPASSED) {
    return source({ node, around }, node.inputs.findIndex((input) => input.type === link.type));
  }
  if (!node.subgraph) return { node, around, slot: link.origin_slot };
  const inner = node.subgraph.getLink(node.subgraph.outputs[link.origin_slot]?.linkIds[0]);
  return inner ? start(node.subgraph, [...around, node], inner) : null;
}

/** The places that an output leads to, each with the index of its input. */
export function targets({ node, around }, slot) {
  return linksOutOf(node, slot).flatMap((link) => ends(node.graph, around, link));
}

/** Where a link of a graph ends. */
function ends(graph, around, link) {
  if (!link) return [];
  if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
    return around.length ? targets(outside({ around }), link.target_slot) : [];
  }
  const node = graph.getNodeById(link.target_id);
  if (!node || node.mode === MUTED) return [];
  if (node.type === "Reroute") return targets({ node, around }, 0);
  if (node.mode === BYPASSED) {
    const slots = node.outputs.flatMap((output, slot) => (output.type === link.type ? [slot] : []));
    return slots.flatMap((slot) => targets({ node, around }, slot));
  }
  if (!node.subgraph) return [{ node, around, index: link.target_slot }];
  const inner = node.subgraph.inputs[link.target_slot]?.linkIds ?? [];
  return inner.flatMap((id) => ends(node.subgraph, [...around, node], node.subgraph.getLink(id)));
}

/** {node, widget} whose value an input has: its own, one on a subgraph node around it, or a primitive node's; or null. */
export function setter(at, name) {
  const { node, around } = at;
  const index = inputIndex(node, name);
  const input = node.inputs[index];
  const link = linkInto(node, index);
  if (!link) {
    const widget = node.widgets?.find((widget) => widget.name === (input?.widget?.name ?? name));
    return widget ? { node, widget } : null;
  }
  if (Number(link.origin_id) === SUBGRAPH_INPUT && around.length) {
    const outer = outside(at);
    return setter(outer, outer.node.inputs[link.origin_slot].name);
  }
  const from = source(at, index);
  return PRIMITIVES.test(from?.node.type) ? { node: from.node, widget: from.node.widgets[0] } : null;
}

/** The widget whose value an input has. */
export const control = (at, name) => setter(at, name)?.widget ?? null;
