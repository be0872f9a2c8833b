// Picked points and boxes: the text of Pick Points' `picks`, and what a user can do to them.

import { t } from "./i18n.js";

export const KINDS = ["positive", "negative", "boxes"];

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const empty = () => ({ positive: [], negative: [], boxes: [] });
export const count = (picks) => KINDS.reduce((sum, kind) => sum + picks[kind].length, 0);

/** The picks of a text; null where it is none. */
export function read(text) {
  if (!text.trim()) return empty();
  try {
    const { width, height, positive = [], negative = [], boxes = [] } = JSON.parse(text);
    const numbers = [...positive, ...negative, ...boxes].flatMap((item) => [item.x, item.y]);
    numbers.push(...boxes.flatMap((box) => [box.width, box.height]));
    return numbers.every(Number.isFinite) ? { width, height, positive, negative, boxes } : null;
  } catch {
    return null;
  }
}

/** The text of picks on a picture. */
export function write(picks, { width, height }) {
  return count(picks) ? JSON.stringify({ ...picks, width, height }) : "";
}

/** The picks on a picture of another size, by the rule of the node's `fit`. */
export function fit(picks, width, height) {
  if (!picks.width || (picks.width === width && picks.height === height)) return { ...picks, width, height };
  const point = ({ x, y }) => ({
    x: Math.floor(((2 * x + 1) * width) / (2 * picks.width)),
    y: Math.floor(((2 * y + 1) * height) / (2 * picks.height)),
  });
  const box = (old) => {
    const [x, w] = stretched(old.x, old.width, width, picks.width);
    const [y, h] = stretched(old.y, old.height, height, picks.height);
    return { x, y, width: w, height: h };
  };
  const [positive, negative] = [picks.positive.map(point), picks.negative.map(point)];
  return { width, height, positive, negative, boxes: picks.boxes.map(box) };
}

/** A box's start and length of `old` pixels in `size` pixels: rounded edges, and at least the pixel in the middle. */
function stretched(start, length, size, old) {
  const [from, to] = [start, start + length].map((edge) => Math.floor((2 * edge * size + old) / (2 * old)));
  return from < to ? [from, to - from] : [Math.floor(((2 * start + length) * size) / (2 * old)), 1];
}

/** The box whose opposite corners are these two pixels. */
export function between(a, b) {
  const [x, y] = [Math.min(a.x, b.x), Math.min(a.y, b.y)];
  return { x, y, width: Math.max(a.x, b.x) - x + 1, height: Math.max(a.y, b.y) - y + 1 };
}

/** The picks, which have a size, with one mark moved, or one corner of a box. */
export function moved(picks, { kind, index, corner }, by) {
  const { width, height } = picks;
  const old = picks[kind][index];
  if (corner === undefined) {
    const x = clamp(old.x + by.x, 0, width - (old.width ?? 1));
    const y = clamp(old.y + by.y, 0, height - (old.height ?? 1));
    return { ...picks, [kind]: picks[kind].with(index, { ...old, x, y }) };
  }
  const far = { x: old.x + old.width - 1, y: old.y + old.height - 1 };
  const held = { x: corner & 1 ? far.x : old.x, y: corner & 2 ? far.y : old.y };
  const other = { x: corner & 1 ? old.x : far.x, y: corner & 2 ? old.y : far.y };
  const to = { x: clamp(held.x + by.x, 0, width - 1), y: clamp(held.y + by.y, 0, height - 1) };
  return { ...picks, [kind]: picks[kind].with(index, between(other, to)) };
}

/** "3 points, 1 box". */
export function summary(picks) {
  const points = picks.positive.length + picks.negative.length;
  const boxes = picks.boxes.length;
  const parts = [];
  if (points) parts.push(points === 1 ? t("1 point") : t("{count} points", { count: points }));
  if (boxes) parts.push(boxes === 1 ? t("1 box") : t("{count} boxes", { count: boxes }));
  return parts.join(", ");
}

/** "Box at 20, 30". */
export function describe({ kind, index }, picks) {
  const { x, y } = picks[kind][index];
  if (kind === "positive") return t("Point to select at {x}, {y}", { x, y });
  return kind === "negative" ? t("Point to leave out at {x}, {y}", { x, y }) : t("Box at {x}, {y}", { x, y });
}

/** The mark of the picks near a spot, all in screen pixels: a point, a box's corner or a box's edge; null for none. */
export function markAt(picks, spot, scale, reach) {
  let best = null;
  const offer = (distance, mark) => {
    if (distance <= reach && distance < (best?.distance ?? Infinity)) best = { ...mark, distance };
  };
  for (const kind of ["positive", "negative"]) {
    picks[kind].forEach(({ x, y }, index) =>
      offer(Math.hypot((x + 0.5) * scale.x - spot.x, (y + 0.5) * scale.y - spot.y), { kind, index }),
    );
  }
  if (best) return best;
  picks.boxes.forEach(({ x, y, width, height }, index) => {
    for (const corner of [0, 1, 2, 3]) {
      const [cx, cy] = [(x + (corner & 1) * width) * scale.x, (y + (corner >> 1) * height) * scale.y];
      offer(Math.hypot(cx - spot.x, cy - spot.y), { kind: "boxes", index, corner });
    }
  });
  if (best) return best;
  picks.boxes.forEach(({ x, y, width, height }, index) => {
    const dx = Math.max(x * scale.x - spot.x, spot.x - (x + width) * scale.x);
    const dy = Math.max(y * scale.y - spot.y, spot.y - (y + height) * scale.y);
    offer(2 * Math.abs(Math.max(dx, dy)), { kind: "boxes", index });
  });
  return best;
}
