// The texts of widgets in the language that the front end speaks: `pentimento` of locales/<language>/main.json, which
// ComfyUI serves. The keys are the English texts, and a text that has no translation is shown in English.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const locales = await api.getCustomNodesI18n();

/** A text in the front end's language; each `{name}` in it becomes `values.name`. */
export function t(text, values = {}) {
  const language = app.extensionManager.setting.get("Comfy.Locale");
  const translated = locales[language]?.pentimento?.[text] ?? text;
  return translated.replace(/\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);
}
