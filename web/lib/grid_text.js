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

/** The lines of the axis with this address, [first, end); null where there is none. */
function entry(lines, [first, end], address) {
  const head = lines.slice(first, end).find((line) => !isEmpty(line));
  if (!head) return null;
  const indent = indentation(head);
  const names = [address, JSON.stringify(address), `'${address}'`].map((name) => `${name}:`);
  const at = lines.findIndex(
    (line, i) => i >= first && i < end && indentation(line) === indent && names.some((name) => line.trim().startsWith(name)),
  );
  if (at < 0) return null;
  let last = at + 1;
  while (last < end && (isEmpty(lines[last]) || indentation(lines[last]) > indent)) last++;
  return [at, last];
}

/** The lines of an axis in YAML: values in one text, or a list of texts. */
function written(address, values, indent, isItem) {
  const [head, deeper] = isItem
    ? [[`${indent}- input: ${quoted(address)}`, `${indent}  values:`], `${indent}    `]
    : [[`${indent}${quoted(address)}:`], `${indent}  `];
  if (Array.isArray(values)) return [...head, ...values.map((value) => `${deeper}- ${JSON.stringify(value)}`)];
  return [...head.slice(0, -1), `${head.at(-1)} ${quoted(values)}`];
}

/**
 * The text with the axis of this address, which takes the place of one that is there.
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
  const head = lines.slice(...axes).find((line) => !isEmpty(line));
  const indent = " ".repeat(head ? indentation(head) : 2);
  const [at, end] = entry(lines, axes, address) ?? [axes[1], axes[1]];
  lines.splice(at, end - at, ...written(address, values, indent, Boolean(head?.trim().startsWith("- "))));
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

/** The values of an axis as `withAxis` takes them; null where there is none, or more than values in it. */
export function axisValues(text, address) {
  if (isJson(text)) return null;
  const lines = text.split("\n");
  const axes = block(lines);
  const found = axes && entry(lines, axes, address);
  if (!found) return null;
  const [head, ...rest] = lines.slice(...found).filter((line) => !isEmpty(line));
  const name = [JSON.stringify(address), `'${address}'`, address].find((name) => head.trim().startsWith(name));
  const value = head.trim().slice(name.length + 1).trim();
  const items = rest.map((line) => /^\s*- (".*")$/.exec(line)?.[1]);
  if (!items.every(Boolean) || Boolean(value) === Boolean(items.length)) return null;
  try {
    if (items.length) return items.map((item) => JSON.parse(item));
    return value.startsWith('"') ? JSON.parse(value) : value;
  } catch {
    return null;
  }
}
