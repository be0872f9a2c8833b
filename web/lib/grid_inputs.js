// What of a graph a grid may vary: the inputs with a value in the prompt that ComfyUI would queue. So the nodes of
// subgraphs are among them, and what reroutes, bypassed nodes and primitive nodes stand for is resolved.

import { app } from "../../../scripts/app.js";
import { setter } from "./graph.js";

const GRID = "PentimentoGrid";

const definition = (type) => LiteGraph.registered_node_types[type]?.nodeData?.input ?? {};
const title = (node) => node._meta?.title || node.class_type;

/** What a node's class says of an input: [type, options]; undefined where it says nothing. */
function declared(node, name) {
  const { required, optional } = definition(node.class_type);
  return required?.[name] ?? optional?.[name];
}

/** The values that a widget offers; null where it takes any. */
function choices(node, name) {
  const [type, options] = declared(node, name) ?? [];
  if (type === "BOOLEAN") return ["true", "false"];
  const list = Array.isArray(type) ? type : type === "COMBO" ? options?.options : null;
  return list?.map(String) ?? null;
}

/** Whether a grid can set an input: it has a value of its own, and is no matter of the front end alone. */
function isWidget(node, name) {
  const value = node.inputs[name];
  const known = declared(node, name) || name.includes("."); // a dot: of a dynamic input, which the class does not list
  return ["string", "number", "boolean"].includes(typeof value) && Boolean(known);
}

/** Whether a node has no title but the name of its class in the front end's language. */
function isUntitled(id) {
  const { node } = placeOf(id) ?? {};
  return Boolean(node) && node.title === node.constructor.title;
}

/** The nodes of a prompt without a title of their own. */
export const untitled = (prompt) => Object.keys(prompt).filter(isUntitled);

/**
 * An input's address: by the node's title where no other node has it, else by the node's number. A name that another
 * language has another word for gives way to the class.
 */
function address(prompt, id, name) {
  const translated = app.extensionManager.setting.get("Comfy.Locale") !== "en" && isUntitled(id);
  const called = (node) => (translated ? node.class_type : title(node));
  const own = called(prompt[id]);
  const alone = Object.values(prompt).filter((node) => called(node) === own || title(node) === own).length === 1;
  return `${alone && !Object.hasOwn(prompt, own) ? own : id}.${name}`;
}

/**
 * The nodes of a prompt with inputs that a grid can set, in the prompt's order.
 *
 * @returns [{id, name, inputs: [{name, address, value, choices, isText}]}]
 */
export function settable(prompt) {
  const titles = Object.values(prompt).map(title);
  return Object.entries(prompt)
    .filter(([, node]) => node.class_type !== GRID)
    .map(([id, node]) => ({
      id,
      name: titles.filter((other) => other === title(node)).length > 1 ? `${title(node)} (${id})` : title(node),
      inputs: Object.keys(node.inputs)
        .filter((name) => isWidget(node, name))
        .map((name) => ({
          name,
          address: address(prompt, id, name),
          value: node.inputs[name],
          choices: choices(node, name),
          isText: typeof node.inputs[name] === "string" && !choices(node, name),
        })),
    }))
    .filter(({ inputs }) => inputs.length);
}

/** How many ways lead from a graph to one inside it: of a subgraph that is used twice there are two. */
function ways(from, to) {
  if (from === to) return 1;
  return from.nodes.reduce((sum, node) => sum + (node.subgraph ? ways(node.subgraph, to) : 0), 0);
}

/** The place of a node of a prompt, as in graph.js; null where the graph has none. */
function placeOf(id) {
  const ids = id.split(":");
  const around = [];
  let graph = app.rootGraph ?? app.graph;
  for (const outer of ids.slice(0, -1)) {
    const node = graph.getNodeById(outer);
    if (!node?.subgraph) return null;
    around.push(node);
    graph = node.subgraph;
  }
  const node = graph.getNodeById(ids.at(-1));
  return node && { node, around };
}

/**
 * Where a saved workflow holds the values of a prompt, so that a cell's picture can carry the cell's workflow.
 *
 * @returns {node of the prompt: {input: [a subgraph's id or "", a node's id, index of its widget]}}, without what a
 *   subgraph holds that is used more than once: its workflow has one value for all.
 */
export function places(prompt) {
  const root = app.rootGraph ?? app.graph;
  const of = (id, name) => {
    const at = placeOf(id);
    const set = at && setter(at, name);
    const { graph, widgets, id: owner } = set?.node ?? {};
    if (!set || ways(root, graph) !== 1) return [];
    return [[name, [graph === root ? "" : graph.id, String(owner), widgets.indexOf(set.widget)]]];
  };
  const nodes = settable(prompt).map(({ id, inputs }) => [id, Object.fromEntries(inputs.flatMap(({ name }) => of(id, name)))]);
  return Object.fromEntries(nodes);
}

/** Whether the front end changes a widget's value after each run. */
function isChanging({ node, widget }) {
  const control = node.widgets[node.widgets.indexOf(widget) + 1];
  return control?.name === "control_after_generate" && control.value !== "fixed";
}

/** The addresses of inputs that change after each ordinary run, without those ("<node>.<input>") that axes set. */
export function changing(prompt, set) {
  return settable(prompt).flatMap(({ id, inputs }) =>
    inputs.filter(({ name }) => !set.includes(`${id}.${name}`)).flatMap(({ name, address }) => {
      const at = placeOf(id);
      const found = at && setter(at, name);
      return found && isChanging(found) ? [address] : [];
    }),
  );
}
