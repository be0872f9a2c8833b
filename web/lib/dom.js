// Small helpers for widgets' elements and nodes' callbacks.

/** A new element with a class and properties. */
export function element(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className, ...properties });
}

/** A callback that calls `first`, if there is one, and then `then`; it returns what `first` returns. */
export function chain(first, then) {
  return function (...args) {
    const result = first?.apply(this, args);
    then();
    return result;
  };
}

/** A function that runs `work` for the newest call alone: one run at a time, and calls in between are forgotten. */
export function newest(work) {
  let running = false;
  let waiting = null;
  return async (...args) => {
    waiting = args;
    if (running) return;
    running = true;
    try {
      while (waiting) {
        const now = waiting;
        waiting = null;
        await work(...now);
      }
    } finally {
      running = false;
    }
  };
}
