// The notes and titles of the bundled workflows in the language that the front end speaks: `pentimentoGraphs` of
// locales/<language>/main.json, which ComfyUI serves. The front end itself translates only the name of a node without a
// title. A graph whose note was edited, or that was saved in another language, stays as it is.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** The text of a grid with other titles of nodes, where a dot and an input follow. */
function renamed(text, titles) {
  return text.replace(/(^|[\s{,"'])([^\s{,"'.:][^{,"'.:\n]*)(?=\.\w)/gm, (whole, before, title) =>
    Object.hasOwn(titles, title) ? before + titles[title] : whole,
  );
}

app.registerExtension({
  name: "Pentimento.GraphTexts",
  async beforeConfigureGraph(graph) {
    const written = graph.nodes.filter((node) => node.type === "MarkdownNote");
    if (written.length === 0) return;
    const locales = await api.getCustomNodesI18n();
    const texts = locales[app.extensionManager.setting.get("Comfy.Locale")]?.pentimentoGraphs;
    const note = texts && written.find((node) => Object.hasOwn(texts.notes, node.widgets_values?.[0]));
    if (!note) return;
    note.widgets_values = [texts.notes[note.widgets_values[0]]];
    for (const node of graph.nodes) {
      if (node.type === "PentimentoGrid") node.widgets_values = [renamed(node.widgets_values[0], texts.titles)];
      if (Object.hasOwn(texts.titles, node.title)) node.title = texts.titles[node.title];
    }
  },
});
