// The report of a node, below its widgets. ComfyUI's front end shows the text of a node while a prompt runs alone.

import { app } from "../../scripts/app.js";
import { element } from "./lib/dom.js";

const NODES = ["PentimentoInspectModel", "PentimentoScoreImage"];
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
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      if (output?.text) report(node).textContent = output.text.join("\n");
    };
  },
});
