// The style of Pick Points.

export const CSS = `
.pentimento-picks { display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%; min-height: 240px;
  box-sizing: border-box; font: 11px/1.4 system-ui, sans-serif; color: var(--input-text, #ddd); }
.pentimento-stage { position: relative; flex: 1 0 120px; display: grid; place-items: center;
  container-type: size; overflow: hidden; border-radius: 6px; background: var(--comfy-input-bg, #222); }
.pentimento-frame { position: relative; width: min(100cqw, 100cqh * var(--ratio)); aspect-ratio: var(--ratio); }
.pentimento-frame > img, .pentimento-mask, .pentimento-hover, .pentimento-keys {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; padding: 0; border: 0; }
.pentimento-frame > img { user-select: none; }
.pentimento-keys { background: none; cursor: crosshair; touch-action: none; border-radius: 0; appearance: none; }
.pentimento-keys:focus { outline: none; }
.pentimento-by-key .pentimento-keys { outline: 2px solid #4c9ffe; outline-offset: -2px; }
.pentimento-mask { opacity: 0.55; filter: drop-shadow(0 0 1px #fff) drop-shadow(0 0 1px #fff); }
.pentimento-hover { opacity: 0.65; }
.pentimento-mask > div, .pentimento-hover > div { position: absolute; inset: 0; mask: var(--mask) 0 0 / 100% 100%; }
.pentimento-mask > div { background: #2f7bff; }
.pentimento-hover > div { mask: var(--hover) 0 0 / 100% 100%, var(--mask) 0 0 / 100% 100%; mask-composite: subtract; }
.pentimento-adds { background: #ffab1a; }
.pentimento-hover > .pentimento-removes { background: #d6304a; mask-image: var(--mask), var(--hover); }
.pentimento-point, .pentimento-cross { position: absolute; width: 15px; height: 15px; margin: -7.5px 0 0 -7.5px;
  box-sizing: border-box; border-radius: 50%; border: 1.5px solid #fff; box-shadow: 0 0 3px #000a; }
.pentimento-point { background: linear-gradient(#fff, #fff) center / 7px 1.5px no-repeat, var(--fill); }
.pentimento-point[data-kind="positive"] { --fill: #18945a; background:
  linear-gradient(#fff, #fff) center / 7px 1.5px no-repeat, linear-gradient(#fff, #fff) center / 1.5px 7px no-repeat,
  var(--fill); }
.pentimento-point[data-kind="negative"] { --fill: #d6304a; }
.pentimento-box { position: absolute; box-sizing: border-box; border: 1.5px solid #ffd23f; box-shadow: 0 0 2px #000c,
  inset 0 0 2px #000c; }
.pentimento-box > i { position: absolute; width: 7px; height: 7px; margin: -3.5px; background: #ffd23f;
  box-shadow: 0 0 2px #000c; }
.pentimento-point.pentimento-chosen { outline: 2px solid #4c9ffe; outline-offset: 1px; }
.pentimento-box.pentimento-chosen { border-color: #4c9ffe; }
.pentimento-chosen > i { background: #4c9ffe; }
.pentimento-cross { display: none; border-color: #4c9ffe; background:
  linear-gradient(#fff, #fff) center / 1px 100% no-repeat, linear-gradient(#fff, #fff) center / 100% 1px no-repeat; }
.pentimento-by-key .pentimento-cross { display: block; }
.pentimento-note { max-width: 80%; text-align: center; color: var(--descrip-text, #999); }
.pentimento-hint { color: var(--descrip-text, #999); }
.pentimento-status { min-height: 1.4em; overflow-wrap: anywhere; user-select: text; }
.pentimento-tolerance { display: flex; align-items: center; gap: 8px; }
.pentimento-tolerance[hidden] { display: none; }
.pentimento-tolerance > input { flex: 1; min-width: 0; accent-color: #2f7bff; }
.pentimento-tolerance > output { min-width: 4ch; text-align: right; font-variant-numeric: tabular-nums; }
.pentimento-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; }
.pentimento-bar > output { flex: 1; color: var(--descrip-text, #999); font-variant-numeric: tabular-nums; }
.pentimento-bar > button { padding: 2px 8px; border: 0; border-radius: 4px; font: inherit; color: inherit;
  background: var(--comfy-input-bg, #333); cursor: pointer; }
.pentimento-bar > button:disabled { opacity: 0.4; cursor: default; }
.pentimento-bar > button:focus-visible { outline: 2px solid #4c9ffe; }
.pentimento-busy::after { content: ""; display: inline-block; width: 8px; height: 8px; margin-left: 6px;
  border-radius: 50%; border: 1.5px solid; border-top-color: transparent;
  animation: pentimento-turn 0.9s linear infinite; }
@keyframes pentimento-turn { to { transform: rotate(1turn); } }
`;
