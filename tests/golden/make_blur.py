"""Makes blur.npz with OpenCV's GaussianBlur, its own choice of sigma and its default border.

    python tests/golden/make_blur.py

in an environment with opencv-python-headless 5.0.0.93 (Apache-2.0). `mask_<name>_<radius>` is what goes in, bytes that
stand for 0 ... 1, and `<name>_<radius>` is what comes out.
"""

from pathlib import Path

import cv2
import numpy as np


def blurred(mask: np.ndarray, radius: int) -> np.ndarray:
    return cv2.GaussianBlur(mask, (2 * radius + 1, 2 * radius + 1), 0)


def keep(height: int, width: int, rows: slice, columns: slice, least: int) -> np.ndarray:
    """uint8 (height, width): 255 on the part of a canvas that is kept, `least` elsewhere."""
    mask = np.full((height, width), least, dtype=np.uint8)
    mask[rows, columns] = 255
    return mask


noise = np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8)
masks = {
    "noise_5": noise,
    "noise_60": noise,  # reaches over the picture, and back
    "line_30": noise[:1, :9],
    "corner_25": keep(102, 114, slice(0, 60), slice(34, 114), 0),  # 90 x 70, 24 px left, 32 px below, overlap 10
}
out = {f"mask_{name}": mask for name, mask in masks.items()}
for name, mask in masks.items():
    out[name] = blurred(mask.astype(np.float32) / 255, int(name.split("_")[1]))
# The outpainting recipe on its own scale and with its own bytes: 768 px kept, 256 px new on the right, overlap 50.
out["recipe_250"] = blurred(keep(1024, 1024, slice(None), slice(0, 718), 50), 250)[512]
np.savez_compressed(Path(__file__).with_name("blur.npz"), **out)
