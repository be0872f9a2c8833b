"""Makes exposure_fusion.npz with OpenCV's createMergeMertens.

    python tests/golden/make_exposure_fusion.py

in an environment with opencv-python-headless 5.0.0.93 (Apache-2.0) and scikit-image, whose photograph of an astronaut
(NASA, public domain) the exposures are made of. OpenCV's MergeMertens takes bytes, which it multiplies by 1 / 255 in
float32. `stack_<name>` is what goes in, bytes (N, H, W, 3), or (N, H, W) for grey. `<name>_<weights>` is what comes
out, float32, with the weights of contrast, saturation and exposure, which are digits.
"""

from pathlib import Path

import cv2
import numpy as np
import skimage.data

SIZES = {  # (number, height, width, stops between neighbours)
    "two": (2, 35, 23, 2.5),
    "three": (3, 40, 57, 1.6),
    "five": (5, 33, 30, 1.0),
    "nine": (9, 17, 31, 0.8),
    "column": (3, 7, 1, 1.0),
    "row": (3, 2, 9, 1.0),
}
WEIGHTS = ["110", "111", "001"]


def exposures(number: int, height: int, width: int, stops: float) -> np.ndarray:
    """uint8 (number, height, width, 3): a part with the face, the black of the neck ring, and white, made darker and
    brighter by gains in sRGB values.
    """
    part = skimage.data.astronaut()[60:, 150:][: 4 * height : 4, : 4 * width : 4].astype(np.float64)
    gains = 2 ** (stops * (np.arange(number) - (number - 1) / 2))
    return np.rint(part * gains[:, None, None, None]).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    stacks = {name: exposures(*size) for name, size in SIZES.items()}
    stacks["grey"] = np.ascontiguousarray(stacks["five"][..., 1])
    out = {f"stack_{name}": stack for name, stack in stacks.items()}
    for name, stack in stacks.items():
        for weights in WEIGHTS:
            out[f"{name}_{weights}"] = cv2.createMergeMertens(*map(int, weights)).process([*stack])
    np.savez_compressed(Path(__file__).with_name("exposure_fusion.npz"), **out)
