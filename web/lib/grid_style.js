// The style of Infinite Grid.

export const CSS = `
.pentimento-grid { display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%; min-height: 320px;
  box-sizing: border-box; font: 11px/1.4 system-ui, sans-serif; color: var(--input-text, #ddd); }
.pentimento-grid [hidden] { display: none !important; }
.pentimento-grid-form { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.pentimento-grid-wide { grid-column: 1 / -1; }
.pentimento-grid select, .pentimento-grid input, .pentimento-grid textarea { box-sizing: border-box; width: 100%;
  min-width: 0; margin: 0; padding: 3px 6px; border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px;
  font: inherit; color: inherit; background: var(--comfy-input-bg, #222); }
.pentimento-grid textarea { resize: none; }
.pentimento-grid-text { flex: 1 1 90px; min-height: 70px; font-family: ui-monospace, monospace !important;
  white-space: pre; overflow: auto; }
.pentimento-grid-choices { grid-column: 1 / -1; max-height: 110px; overflow: auto; padding: 2px 6px;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; background: var(--comfy-input-bg, #222); }
.pentimento-grid-choices > label { display: flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.pentimento-grid-choices input { width: auto; flex: none; accent-color: #2f7bff; }
.pentimento-grid-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; }
.pentimento-grid-bar > output { flex: 1; text-align: right; color: var(--descrip-text, #999);
  font-variant-numeric: tabular-nums; }
.pentimento-grid button, .pentimento-grid a { padding: 2px 10px; border: 0; border-radius: 4px; font: inherit;
  color: inherit; background: var(--comfy-input-bg, #333); cursor: pointer; white-space: nowrap; text-decoration: none; }
.pentimento-grid button.pentimento-grid-go { background: #2f7bff; color: #fff; }
.pentimento-grid button:disabled, .pentimento-grid a:not([href]) { opacity: 0.4; cursor: default; }
.pentimento-grid :focus-visible { outline: 2px solid #4c9ffe; outline-offset: 1px; }
.pentimento-grid progress { flex: none; width: 100%; height: 6px; appearance: none; border: 0; border-radius: 3px;
  overflow: hidden; background: var(--comfy-input-bg, #333); }
.pentimento-grid progress::-webkit-progress-bar { background: none; }
.pentimento-grid progress::-webkit-progress-value { background: #2f7bff; }
.pentimento-grid progress::-moz-progress-bar { background: #2f7bff; }
.pentimento-grid-say { flex: none; max-height: 130px; overflow: auto; overflow-wrap: anywhere; user-select: text; }
.pentimento-grid-say > p { margin: 0 0 2px; }
.pentimento-grid-wrong { color: var(--error-text, #ff7a7a); }
`;
