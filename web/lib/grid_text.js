// The text of a grid: writes an axis into it, and reads an axis that the form has written.
//
// The text is YAML, whose axes are lines below `axes:`, or JSON. All that the user wrote stays as it is.

const PLAIN = /^[\p{L}\p{N}_][\p{L}\p{N}_ .,|()/+-]*$/u; // what YAML takes without quotation marks
const WORDS = /^(true|false|null|~)$/i; // no texts in YAML

const isPlain = (text) => PLAIN.test(text) && !WORDS.test(text) && text === text.trim();
const quoted = (text) => (isPlain(text) ? text : JSON.stringify(text)); // a string of JSON is one of YAML, too
const isJson = (text) => text.trimStart().startsWith("{");
const indentation = (line) => /^ */.exec(line)[0].length;
const isEmpty = (line) => /^\s*(#.*)?$/.test(line);

/** The lines below `axes:`, [first, end); null where the text has no such line, or more in it. */
function block(lines) {
  const at = lines.findIndex((line) => /^axes\s*:/.test(line));
  if (at < 0 || !/^axes\s*:\s*(#.*)?$/.test(lines[at])) return null;
  let end = at + 1;
  for (let i = at + 1; i < lines.length && (isEmpty(lines[i]) || /^( |- )/.test(lines[i])); i++) {
    if (!isEmpty(lines[i])) end = i + 1;
  }
  return [at + 1, end];
}

/** The lines of each axis, [first, end). */
function entries(lines, [first, end]) {
  const starts = [];
  for (let i = first; i < end; i++) {
    const base = indentation(lines[starts[0] ?? i]);
    const begins = !isEmpty(lines[i]) && indentation(lines[i]) === base;
    if (begins && (!starts.length || !isItem(lines[starts[0]]) || isItem(lines[i]))) starts.push(i);
  }
  return starts.map((start, i) => {
    let stop = starts[i + 1] ?? end;
    while (isEmpty(lines[stop - 1])) stop--; // a comment above an axis is of that axis
    return [start, stop];
  });
}

const isItem = (line) => line.trim().startsWith("- ");
const spelled = (address) => [address, JSON.stringify(address), `'${address}'`];

/** The lines of the axis over an input, [first, end): the axis has its address as name or in a field; null for none. */
function entry(lines, axes, address) {
  const names = spelled(address);
  const isOf = ([first, end]) =>
    names.some((name) => lines[first].trim().startsWith(`${name}:`)) ||
    lines.slice(first, end).some((line) => names.some((name) => line.trim().replace(/^- /, "") === `input: ${name}`));
  return entries(lines, axes).find(isOf) ?? null;
}

/** The lines of an axis that hold its values, [first, end): the field values, or the axis itself where it has none. */
function valuesOf(lines, [first, end]) {
  const at = lines.findIndex((line, i) => i > first && i < end && /^\s+values\s*:/.test(line));
  if (at < 0) return [first, end];
  const deep = indentation(lines[at]);
  let last = at + 1;
  const isPart = (line) => isEmpty(line) || indentation(line) > deep || (indentation(line) === deep && isItem(line));
  while (last < end && isPart(lines[last])) last++;
  return [at, last];
}

/** Lines in YAML of what a name stands for: values in one text, or a list of texts. */
function written(head, values) {
  if (!Array.isArray(values)) return [`${head} ${quoted(values)}`];
  return [head, ...values.map((value) => `${" ".repeat(indentation(head) + 2)}- ${JSON.stringify(value)}`)];
}

/**
 * The text with the axis of this address, whose values take the place of those that are there.
 *
 * @param values A short list such as "5, 7", or a list of texts.
 * @throws SyntaxError The text is JSON with a fault.
 * @returns null where the axes stand in one line, in which the form does not write.
 */
export function withAxis(text, address, values) {
  if (isJson(text)) return withAxisInJson(JSON.parse(text), address, values);
  const lines = text.trimEnd() ? text.trimEnd().split("\n") : [];
  if (!lines.some((line) => /^axes\s*:/.test(line))) lines.push("axes:");
  const axes = block(lines);
  if (!axes) return null;
  const own = entry(lines, axes, address);
  if (own) {
    const [at, end] = valuesOf(lines, own);
    const name = at === own[0] ? `${quoted(address)}:` : "values:";
    lines.splice(at, end - at, ...written(" ".repeat(indentation(lines[at])) + name, values));
    return `${lines.join("\n")}\n`;
  }
  const head = lines.slice(...axes).find((line) => !isEmpty(line));
  const indent = " ".repeat(head ? indentation(head) : 2);
  const isList = head && isItem(head);
  const lead = isList ? [`${indent}- input: ${quoted(address)}`] : [];
  lines.splice(axes[1], 0, ...lead, ...written(isList ? `${indent}  values:` : `${indent}${quoted(address)}:`, values));
  return `${lines.join("\n")}\n`;
}

function withAxisInJson(grid, address, values) {
  grid.axes ??= {};
  if (Array.isArray(grid.axes)) {
    const at = grid.axes.findIndex((axis) => axis.input === address);
    grid.axes.splice(at < 0 ? grid.axes.length : at, at < 0 ? 0 : 1, { input: address, values });
  } else grid.axes[address] = values;
  return `${JSON.stringify(grid, null, 2)}\n`;
}

/** The values of an axis as `withAxis` takes them; "" where they are more than texts, and null where there is none. */
export function axisValues(text, address) {
  if (isJson(text)) return null;
  const lines = text.split("\n");
  const axes = block(lines);
  const own = axes && entry(lines, axes, address);
  if (!own) return null;
  const [head, ...rest] = lines.slice(...valuesOf(lines, own)).filter((line) => !isEmpty(line));
  const name = ["values", ...spelled(address).reverse()].find((name) => head.trim().startsWith(`${name}:`));
  const value = name ? head.trim().slice(name.length + 1).trim() : "";
  const items = rest.map((line) => /^\s*- (".*")$/.exec(line)?.[1]);
  if (!items.every(Boolean) || Boolean(value) === Boolean(items.length)) return "";
  try {
    if (items.length) return items.map((item) => JSON.parse(item));
    return value.startsWith('"') ? JSON.parse(value) : value;
  } catch {
    return "";
  }
}
