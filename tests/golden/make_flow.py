"""Makes flow.npz with FGVC's get_flowNN and regionfill: what hidden pixels are filled with along given flows.

    python tests/golden/make_flow.py path/to/FGVC

in an environment with opencv-python-headless 5.0.0.93, SciPy and Pillow. FGVC (MIT) is github.com/vt-vl-lab/FGVC at
its only branch. Its bilinear interpolation is OpenCV's, which rounds places to 1/32 pixel: `weights` and `colours` are
made with SciPy's in its stead, `rounded_weights` and `rounded_colours` with OpenCV's.

`video` is (n, H, W, 3) uint8, `mask` bool (n, H, W), `forward` and `backward` (n - 1, 2, H, W) in 1/256 pixel. Per
hidden pixel, in the order of `mask`, and per direction (back in time, forth in time): `places` (2, N, 3), x, y and
frame; `found` (2, N); `weights` (2, N). Per hidden pixel: `left` (N,), `colours` (N, 3). `raw` (2, h, w) is a flow in
1/256 pixel, `hole` (h, w) a mask, `untrusted` (h, w) that mask grown and closed, `completed` (2, h, w) the flow with
Laplace's equation solved there.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from scipy import ndimage

N, HEIGHT, WIDTH = 6, 44, 56
folder = Path(__file__).parent


def smooth(rng: np.random.Generator, *shape: int, sigma: float = 6, size: float = 1) -> np.ndarray:
    """Noise of two dimensions with a standard deviation of `size`."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0,) * (len(shape) - 2) + (sigma, sigma))
    return size * noise / noise.std()


def inputs() -> dict[str, np.ndarray]:
    """The clip, the holes and the flows. The flows there and back nearly agree, at some places not."""
    rng = np.random.default_rng(0)
    video = np.rint(255 * (0.5 + smooth(rng, 3, N, HEIGHT, WIDTH, sigma=1.5, size=0.15)).clip(0, 1)).astype(np.uint8)
    mask = np.zeros((N, HEIGHT, WIDTH), bool)
    for t in range(N):
        mask[t, 12 + t : 26 + t, 8 + 4 * t : 24 + 4 * t] = True
    mask[1:4, 36:, 40:] = True  # touches the border
    base = np.array([-1.3, 0.6]).reshape(1, 2, 1, 1) + smooth(rng, N - 1, 2, HEIGHT, WIDTH, size=0.8)
    forward = np.rint(256 * base).astype(np.int16)
    backward = np.rint(-256 * (base + smooth(rng, N - 1, 2, HEIGHT, WIDTH, sigma=3, size=0.08))).astype(np.int16)
    return {"video": np.moveaxis(video, 0, -1), "mask": mask, "forward": forward, "backward": backward}


def exact_remap(image: np.ndarray, x: np.ndarray, y: np.ndarray, _: int) -> np.ndarray:
    planes = np.moveaxis(np.atleast_3d(image), -1, 0).astype(np.float64)
    values = [ndimage.map_coordinates(plane, (y, x), order=1, mode="nearest") for plane in planes]
    return np.moveaxis(np.stack(values), 0, -1).reshape(*x.shape, *image.shape[2:])


def along(values: dict[str, np.ndarray], get_flow_nn: object) -> dict[str, np.ndarray]:
    """What get_flowNN returns and holds when it returns."""
    mask = np.moveaxis(values["mask"], 0, -1)
    flows = [np.transpose(values[name] / np.float32(256), (2, 3, 1, 0)) for name in ("forward", "backward")]
    video = np.moveaxis(values["video"] / 255, 0, -1)
    held = {}

    def keep(frame: object, event: str, _: object) -> None:
        if event == "return" and frame.f_code.co_name == "get_flowNN":
            held.update(frame.f_locals)

    settings = SimpleNamespace(Nonlocal=False, consistencyThres=np.inf, alpha=0.1)
    sys.setprofile(keep)
    filled, left, have = get_flow_nn(settings, video, mask, *flows, None, None)
    sys.setprofile(None)
    t, y, x = values["mask"].nonzero()
    index = held["numPixInd"][y, x, t].astype(int)
    found = have[y, x, t].T == 1
    worth = held["consistencyMap"][y, x, :, t].T * found
    total = worth.sum(0)
    shares = np.where(total, worth, found) / np.maximum(np.where(total, total, found.sum(0)), 1e-300)
    places = np.moveaxis(held["flowNN"][index][:, [1, 0, 2]], -1, 0)
    return {"places": places, "found": found, "left": left[y, x, t], "weights": shares, "colours": filled[y, x, :, t]}


def main(source: str) -> None:
    sys.path.insert(0, source)
    sys.modules["torch"] = SimpleNamespace(nn=None)
    sys.modules["torch.nn"] = SimpleNamespace(Module=object)
    sys.modules["torch"].nn = sys.modules["torch.nn"]
    np.bool = bool
    from tool.get_flowNN import get_flowNN
    from utils.region_fill import regionfill

    values = inputs()
    rounded = along(values, get_flowNN)
    cv2.remap = exact_remap
    exact = along(values, get_flowNN)
    values |= exact | {"rounded_weights": rounded["weights"], "rounded_colours": rounded["colours"]}
    rng = np.random.default_rng(1)
    raw = np.rint(256 * smooth(rng, 2, 72, 88, size=2)).astype(np.int16)
    hole = np.zeros((72, 88), bool)
    hole[30:36, 30:40] = hole[50:56, 62:70] = hole[4:6, 80:88] = True
    untrusted = ndimage.binary_dilation(hole, iterations=15)  # as tool/video_completion.py has it
    untrusted = cv2.morphologyEx(untrusted.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((21, 21), np.uint8)).astype(bool)
    untrusted = ndimage.binary_fill_holes(untrusted)
    completed = np.stack([regionfill(plane, untrusted) for plane in raw / np.float32(256)])
    values |= {"raw": raw, "hole": hole, "untrusted": untrusted, "completed": completed}
    values = {
        key: value.astype(np.float32) if value.dtype == float and key != "places" else value
        for key, value in values.items()
    }
    np.savez_compressed(folder / "flow.npz", **values)


if __name__ == "__main__":
    main(sys.argv[1])
