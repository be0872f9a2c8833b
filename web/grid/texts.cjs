"use strict";
// Texts in the language of the browser, or in the one that the user chose. The page may stand on a disk, where no server
// knows the language, so all texts stand in the page: the keys of zh.json are the English texts.
const CHINESE = JSON.parse(document.getElementById("zh").textContent);
const $ = (selector) => document.querySelector(selector);
let language = ofTheBrowser();

function ofTheBrowser() {
  return /^zh\b/i.test(navigator.language) ? "zh" : "en";
}

/** A text in the page's language; each `{name}` in it becomes `values.name`. */
function t(text, values = {}) {
  const translated = language === "zh" ? CHINESE[text] ?? text : text;
  return translated.replace(/\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);
}

/** An element with a text, which is never read as markup, and with attributes. */
function element(tag, text = "", { role, tabIndex, ...attributes } = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (role) made.setAttribute("role", role);
  if (tabIndex !== undefined) made.tabIndex = tabIndex;
  return Object.assign(made, attributes);
}

function button(text, act, attributes = {}) {
  const made = element("button", text, { type: "button", ...attributes });
  made.addEventListener("click", act);
  return made;
}

function labelled(text, control) {
  const label = element("label", `${text} `);
  label.append(control);
  return label;
}

function select(options, value, change, attributes = {}) {
  const made = element("select", "", attributes);
  for (const [key, text] of options) made.append(element("option", text, { value: key }));
  made.value = value;
  made.addEventListener("change", () => change(made.value));
  return made;
}
