// A badge on nodes that hold a stand-in: a model file with random weights, made by the tool `host` where the real one is
// missing.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { t } from "./lib/i18n.js";

const NONE = new window.LGraphBadge({ text: "" });
let badge = NONE;
let standins = await read();

async function read() {
  const response = await api.fetchApi("/pentimento/standins");
  return new Set(response.ok ? await response.json() : []);
}

app.registerExtension({
  name: "pentimento.Standins",
  setup() {
    const text = t("stand-in: random weights");
    badge = new window.LGraphBadge({ text, fgColor: "#1c1400", bgColor: "#ffb02e" });
  },
  async refreshComboInNodes() {
    standins = await read();
  },
  nodeCreated(node) {
    const files = node.widgets?.filter((widget) => widget.type === "combo") ?? [];
    if (!files.length) return;
    // Nodes 2.0 calls the function again when a value changes that the function reads.
    node.badges.push(() => (files.some(({ value }) => standins.has(value)) ? badge : NONE));
  },
});
