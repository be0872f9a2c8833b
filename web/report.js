// The report of a node, below its widgets. ComfyUI's front end shows the text of a node while a prompt runs alone.
// A workflow carries the texts of some nodes: also one that is read from a picture, where the server wrote them.

import { app } from "../../scripts/app.js";
import { element } from "./lib/dom.js";

const SAVED = ["PentimentoWildcards"];
const NODES = ["PentimentoInspectModel", "PentimentoScoreImage", ...SAVED];
const PROPERTY = "pentimento_text"; // as in model_patchers/comfyui/saved_text.py
const LEAST = 44; // pixels, of two lines

const CSS = `
.pentimento-report { margin: 0; padding: 4px 8px; box-sizing: border-box; width: 100%; height: 100%; overflow: auto;
  border-radius: 6px; background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd);
  font: 11px/1.4 system-ui, sans-serif; white-space: pre-wrap; user-select: text; }`;

/** The element of a node's report, which the first text makes: until then the node is as large as it was saved. */
function report(node) {
  const present = node.widgets?.find(({ type }) => type === "PENTIMENTO_REPORT");
  if (present) return present.element;
  const root = element("pre", "pentimento-report", { tabIndex: 0 });
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => LEAST };
  node.addDOMWidget("report", "PENTIMENTO_REPORT", root, options).serialize = false; // nor in a saved workflow
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  return root;
}

app.registerExtension({
  name: "pentimento.Report",
  init() {
    document.head.append(element("style", "", { textContent: CSS }));
  },
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const { onConfigure, onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      if (!output?.text) return;
      const text = output.text.join("\n");
      report(node).textContent = text;
      if (SAVED.includes(node.comfyClass)) node.properties[PROPERTY] = text;
    };
    node.onConfigure = function () {
      onConfigure?.apply(this, arguments);
      const text = node.properties[PROPERTY];
      if (text) report(node).textContent = text;
    };
  },
});
