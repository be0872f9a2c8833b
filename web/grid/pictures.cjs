"use strict";
// Pictures, videos and other files of a cell. A thumbnail is a script that holds a small picture, since from the disk a
// page may show the pictures beside it but not read them, and may run the scripts beside it.
const VIDEOS = /\.(mp4|webm|mov|m4v|mkv)$/i, SOUNDS = /\.(flac|mp3|wav|ogg|opus|m4a)$/i;
const PICTURES = /\.(png|apng|jpe?g|webp|gif|avif|bmp|svg)$/i;
const THUMB = 256; // px of a thumbnail's longer side; THUMB in folder.py
const SHARP = 1.3; // a thumbnail may be shown this much larger
const AT_ONCE = 6; // thumbnails that are loaded side by side
const A_FRAME = 6, CALM = 100; // thumbnails that a frame may begin to load, until so many ms after the last scrolling
const MOST_THUMBS = 3000; // in memory: about 40 MB
const thumbs = new Map(); // file -> data URL, the oldest first
const arrivals = new Map(); // file -> {promise, take}, of the thumbnails that are being loaded
const queue = []; // [image, file]: pictures that wait for their thumbnails
let loading = 0, scrolled = -Infinity, begun = 0;

const pathOf = (file) => `./${file.split("/").map(encodeURIComponent).join("/")}`;
const nameOf = (file) => file.split("/").pop();

/** Called by the thumbnail's script. */
function pentimentoThumb(file, url) {
  arrivals.get(file)?.take(url);
}

/** The small picture of a file as a data URL. */
function thumb(file) {
  if (thumbs.has(file)) return Promise.resolve(thumbs.get(file));
  if (arrivals.has(file)) return arrivals.get(file).promise;
  const promise = new Promise((take, refuse) => {
    arrivals.set(file, { take });
    const script = element("script", "", { src: `${pathOf(file.replace(/^cells\//, "thumbs/"))}.js` });
    script.onload = script.onerror = () => {
      script.remove();
      arrivals.delete(file);
      refuse(new Error(file)); // does nothing where the script has called pentimentoThumb
    };
    document.body.append(script);
  }).then((url) => {
    thumbs.set(file, url);
    if (thumbs.size > MOST_THUMBS) thumbs.delete(thumbs.keys().next().value);
    return url;
  });
  arrivals.get(file).promise = promise;
  return promise;
}

/** Loads the thumbnails that wait: those of the last pictures first, and none of pictures that are gone. */
function pump() {
  const calm = performance.now() - scrolled > CALM;
  while (loading < AT_ONCE && queue.length && (calm || begun < A_FRAME)) {
    const [image, file] = queue.pop();
    if (!image.isConnected) continue;
    loading += 1;
    begun += 1;
    thumb(file).then((url) => { image.src = url; }, () => { image.src = pathOf(file); }).finally(() => {
      loading -= 1;
      pump();
    });
  }
}

/** A cell's picture, small where the small one is sharp enough. */
function small(file, record, width) {
  const image = element("img", "", { alt: nameOf(file), decoding: "async", draggable: false });
  if (!record.thumbs || width * devicePixelRatio > THUMB * SHARP) image.src = pathOf(file);
  else if (thumbs.has(file)) image.src = thumbs.get(file);
  else queue.push([image, file]);
  return image;
}

/** A file as the open cell shows it. */
function large(file) {
  const src = pathOf(file);
  if (PICTURES.test(file)) return element("img", "", { src, alt: nameOf(file) });
  if (VIDEOS.test(file)) return element("video", "", { src, muted: true, loop: true, autoplay: !still(), controls: true });
  if (SOUNDS.test(file)) return element("audio", "", { src, controls: true });
  return element("a", nameOf(file), { href: src, download: nameOf(file), className: "file" });
}

/** A file as a cell of the table shows it: a video plays while the pointer is over it. */
function preview(file, record, width) {
  if (PICTURES.test(file)) return small(file, record, width);
  if (!VIDEOS.test(file)) return element("p", nameOf(file), { className: "file" });
  const video = element("video", "", { src: pathOf(file), muted: true, loop: true, preload: "metadata", playsInline: true });
  video.addEventListener("pointerenter", () => video.play());
  video.addEventListener("pointerleave", () => video.pause());
  return video;
}

/** Whether the user asked for less motion. */
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
