"use strict";
// Animated GIF 89a: frames with palettes of their own, by median cut (P. Heckbert, SIGGRAPH 1982), with the error of
// each pixel spread over its neighbours (R. Floyd and L. Steinberg, 1976), compressed by LZW with codes of 12 bits.
const MOST_COLOURS = 256;

/** The bytes of a GIF of frames, each RGBA of width * height pixels, that are shown for these seconds. */
async function gif(frames, width, height, seconds) {
  const bytes = new Bytes();
  bytes.text("GIF89a").word(width).word(height).put(0, 0, 0);
  bytes.put(0x21, 0xff, 11).text("NETSCAPE2.0").put(3, 1).word(0).put(0); // for ever
  for await (const pixels of frames) {
    const { palette, indices } = paletted(pixels, width, height);
    const bits = Math.max(1, Math.ceil(Math.log2(palette.length)));
    bytes.put(0x21, 0xf9, 4, 0).word(Math.max(2, Math.round(seconds * 100))).put(0, 0);
    bytes.put(0x2c).word(0).word(0).word(width).word(height).put(0x80 | (bits - 1));
    for (let entry = 0; entry < 1 << bits; entry++) bytes.put(...(palette[entry] ?? [0, 0, 0]));
    compress(bytes, indices, Math.max(2, bits));
    await new Promise((go) => setTimeout(go)); // the page stays alive
  }
  return bytes.put(0x3b).done();
}

class Bytes {
  constructor() { this.data = new Uint8Array(1 << 16); this.length = 0; }
  put(...values) {
    if (this.length + values.length > this.data.length) {
      const larger = new Uint8Array(2 * this.data.length);
      larger.set(this.data);
      this.data = larger;
    }
    for (const value of values) this.data[this.length++] = value;
    return this;
  }
  word(value) { return this.put(value & 255, value >> 8); }
  text(text) { return this.put(...[...text].map((letter) => letter.charCodeAt(0))); }
  done() { return this.data.subarray(0, this.length); }
}

/** {palette: [[r, g, b]], indices}: exact where a frame has few colours. */
function paletted(pixels, width, height) {
  const places = new Map(), indices = new Uint8Array(width * height);
  for (let i = 0; i < indices.length; i++) {
    const colour = (pixels[4 * i] << 16) | (pixels[4 * i + 1] << 8) | pixels[4 * i + 2];
    if (!places.has(colour)) {
      if (places.size === MOST_COLOURS) return dithered(pixels, width, height, indices);
      places.set(colour, places.size);
    }
    indices[i] = places.get(colour);
  }
  return { palette: [...places.keys()].map((colour) => [colour >> 16, (colour >> 8) & 255, colour & 255]), indices };
}

function dithered(pixels, width, height, indices) {
  const palette = medianCut(pixels), nearest = new Int16Array(1 << 15).fill(-1);
  let errors = new Float32Array(3 * (width + 2)), below = new Float32Array(3 * (width + 2));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = 3 * (x + 1), wanted = [0, 1, 2].map((c) => Math.min(255, Math.max(0, pixels[4 * (y * width + x) + c] + errors[at + c])));
      const key = ((wanted[0] >> 3) << 10) | ((wanted[1] >> 3) << 5) | (wanted[2] >> 3);
      if (nearest[key] < 0) nearest[key] = nearestOf(palette, wanted);
      const chosen = palette[indices[y * width + x] = nearest[key]];
      for (let c = 0; c < 3; c++) {
        const error = (wanted[c] - chosen[c]) / 16;
        errors[at + 3 + c] += 7 * error;
        below[at - 3 + c] += 3 * error;
        below[at + c] += 5 * error;
        below[at + 3 + c] += error;
      }
    }
    [errors, below] = [below, errors.fill(0)];
  }
  return { palette, indices };
}

function nearestOf(palette, [r, g, b]) {
  let best = 0, least = Infinity;
  palette.forEach((colour, index) => {
    const distance = (colour[0] - r) ** 2 + (colour[1] - g) ** 2 + (colour[2] - b) ** 2;
    if (distance < least) [best, least] = [index, distance];
  });
  return best;
}

/** 256 colours: the box of colours with the largest spread is halved at its median until there are enough boxes. */
function medianCut(pixels) {
  const counts = new Uint32Array(1 << 15), sums = new Float64Array(3 << 15);
  for (let i = 0; i < pixels.length; i += 4) {
    const key = ((pixels[i] >> 3) << 10) | ((pixels[i + 1] >> 3) << 5) | (pixels[i + 2] >> 3);
    counts[key] += 1;
    for (let c = 0; c < 3; c++) sums[3 * key + c] += pixels[i + c];
  }
  const bins = [...counts.keys()].filter((key) => counts[key]);
  const colour = (key, c) => sums[3 * key + c] / counts[key];
  const boxOf = (keys) => {
    const spreads = [0, 1, 2].map((c) => {
      const values = keys.map((key) => colour(key, c));
      return values.reduce((a, b) => Math.max(a, b)) - values.reduce((a, b) => Math.min(a, b));
    });
    const total = keys.reduce((sum, key) => sum + counts[key], 0), axis = spreads.indexOf(Math.max(...spreads));
    return { keys, total, axis, weight: keys.length > 1 ? spreads[axis] * Math.sqrt(total) : -1 };
  };
  const boxes = [boxOf(bins)];
  while (boxes.length < MOST_COLOURS) {
    const place = boxes.reduce((best, box, index) => (box.weight > boxes[best].weight ? index : best), 0);
    const { keys, total, axis, weight } = boxes[place];
    if (weight <= 0) break;
    keys.sort((a, b) => colour(a, axis) - colour(b, axis));
    let half = 0, cut = 0;
    while (cut < keys.length - 1 && half < total / 2) half += counts[keys[cut++]];
    boxes.splice(place, 1, boxOf(keys.slice(0, cut)), boxOf(keys.slice(cut)));
  }
  return boxes.map(({ keys, total }) => [0, 1, 2].map((c) => Math.round(keys.reduce((sum, key) => sum + sums[3 * key + c], 0) / total)));
}

function compress(bytes, indices, bits) {
  const clear = 1 << bits, end = clear + 1, block = [];
  let codes = new Map(), size = bits + 1, next = end + 1, buffer = 0, filled = 0;
  const flush = () => { bytes.put(block.length, ...block.splice(0)); };
  const emit = (code) => {
    buffer |= code << filled;
    filled += size;
    while (filled >= 8) {
      block.push(buffer & 255);
      buffer >>>= 8;
      filled -= 8;
      if (block.length === 255) flush();
    }
  };
  bytes.put(bits);
  emit(clear);
  let prefix = indices[0];
  for (let i = 1; i < indices.length; i++) {
    const key = (prefix << 8) | indices[i], known = codes.get(key);
    if (known !== undefined) {
      prefix = known;
      continue;
    }
    emit(prefix);
    if (next < 4096) {
      codes.set(key, next);
      if (next === 1 << size) size += 1;
      next += 1;
    } else {
      emit(clear);
      codes = new Map();
      size = bits + 1;
      next = end + 1;
    }
    prefix = indices[i];
  }
  emit(prefix);
  emit(end);
  if (filled) block.push(buffer & 255);
  if (block.length) flush();
  bytes.put(0);
}
