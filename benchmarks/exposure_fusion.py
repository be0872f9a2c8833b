r"""Exposure Fusion of 8 exposures of 2048 x 2048 pixels, against OpenCV's createMergeMertens.

OpenCV is not among the host's packages, and without it there is nothing to compare with: no row. To have it:

    .host/tools/bin/uv pip install --python .host/venv/bin/python --no-deps --target FOLDER opencv-python-headless
    PENTIMENTO_OPENCV=FOLDER python3 host bench exposure_fusion
"""

import importlib.util
import os
import sys

import _pack

COUNT, SIDE = 8, 2048


def run() -> list[dict]:
    """One comparison, or none without OpenCV."""
    sys.path.append(os.environ.get("PENTIMENTO_OPENCV", ""))
    if not importlib.util.find_spec("cv2"):
        return []
    error = _pack.call(__file__, "error")
    row = _pack.compare(
        __file__,
        title=f"Fuse {COUNT} exposures of {SIDE} x {SIDE} px",
        peer="OpenCV's createMergeMertens",
        note=f"Mean difference {error:.0e} of white. Ours holds one exposure's pyramids at a time, in float32 too.",
        runs=1,
    )
    return [row]


def main(side: str) -> dict | float:
    """A side's time and memory for the stack, or the mean difference of both on a quarter of each side."""
    _pack.load()
    sys.path.append(os.environ.get("PENTIMENTO_OPENCV", ""))
    import cv2
    import numpy as np
    import torch

    from pentimento.nodes.colour.exposure_brackets import ExposureBrackets
    from pentimento.nodes.colour.exposure_fusion import ExposureFusion

    cv2.setNumThreads(torch.get_num_threads())
    side_length = SIDE // 4 if side == "error" else SIDE
    noise = torch.rand(1, 3, side_length // 8, side_length // 8, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(noise, (side_length, side_length), mode="bicubic").clamp(0, 1)
    (exposures,) = ExposureBrackets.execute(picture.movedim(1, -1), COUNT, 1.0).result
    levels = (255 * exposures).round().byte().numpy()
    images = torch.from_numpy(levels * np.float32(1 / 255))

    def ours() -> torch.Tensor:
        return ExposureFusion.execute(images, 1.0, 1.0, 1.0, "keep").result[0][0]

    def peer() -> torch.Tensor:
        return torch.from_numpy(cv2.createMergeMertens(1, 1, 1).process([*levels]))

    if side == "error":
        return float((ours() - peer()).abs().mean())
    return _pack.measure(ours if side == "ours" else peer)
