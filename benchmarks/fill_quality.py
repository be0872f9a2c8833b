r"""Fill Without a Model on 20 holes in the demo's photographs, against scikit-image's biharmonic inpainting.

A fill is no copy of what stood in the hole, so no difference to it counts. Two measures compare the fill with the
picture around it:

- statistics: the sliced Wasserstein distance between the 7 x 7 patches of the hole and those around it, over the spread
  of those around it: 0 where the hole looks like its surroundings.
- bends: how far the joints of receding bricks turn away from the direction that perspective gives them there, as a root
  mean square, over the same around the hole: 1 is as straight as the wall.

OpenCV's xphoto is a third side where it can be imported: it is not in the host's packages. To have it:

    .host/tools/bin/uv pip install --python .host/venv/bin/python --no-deps --target FOLDER \
        opencv-contrib-python-headless
    PENTIMENTO_OPENCV=FOLDER python3 host bench fill_quality
"""

import os
import sys
from functools import partial

import _pack

CONTEXT = 64  # pixels around a hole that its patches are compared with
NEAR = 16  # pixels around a hole that the peer is given
PATCH = 7
DIRECTIONS = 128
WINDOW = 13  # pixels: side of the square that a direction is measured on
UPRIGHT = 0.35  # radians: joints that stand more upright than that count as such

# File: holes as left, top, width, height
HOLES = {
    "host/photographs/brick.png": [
        *((180, 180, 150, 150), (60, 200, 100, 120), (330, 60, 110, 90), (200, 320, 130, 120), (40, 40, 80, 80)),
        *((360, 300, 120, 140), (240, 110, 60, 200), (100, 380, 200, 60)),
    ],
    "host/photographs/gravel.png": [(180, 180, 150, 150), (60, 300, 100, 90), (330, 50, 120, 100)],
    "host/photographs/grass.png": [(180, 180, 150, 150), (70, 330, 110, 90), (320, 90, 90, 130)],
    "host/photographs/rocket.jpg": [(290, 110, 60, 200), (110, 60, 60, 40)],
    "workflows/input/pentimento_astronaut.png": [(100, 330, 65, 75), (230, 20, 60, 90)],
    "workflows/input/pentimento_camera.png": [(300, 380, 120, 90), (20, 30, 80, 100)],
}
BRICKS = "host/photographs/brick.png"


def run() -> dict:
    """The time of all 20 fills, and both measures of both sides."""
    quality = _pack.call(__file__, "quality")
    text = ", ".join("{} {statistics:.2f} and {bends:.1f}".format(side, **each) for side, each in quality.items())
    return _pack.compare(
        __file__,
        title="Fill 20 holes in the demo's photographs",
        peer="scikit-image's inpaint_biharmonic",
        note="Distance of the patches' statistics to those around the hole (0 is alike), and bends of joints "
        f"between bricks (1 is as straight as around the hole): {text}.",
        runs=1,
    )


def main(side: str) -> dict:
    """One side's time and memory for all holes, or the measures of both."""
    fills, pictures = sides(), holes()
    if side != "quality":
        return _pack.measure(lambda: [fills[side](picture, hole) for _, picture, hole in pictures])
    return {name: mean(fill, pictures) for name, fill in fills.items()}


def sides() -> dict:
    """Each side's fill: picture (H, W, 3) and hole (H, W) to picture."""
    _pack.load()
    import torch
    from skimage.restoration import inpaint_biharmonic

    from pentimento.nodes.fill.fill_without_model import FillWithoutModel

    def ours(picture, hole):  # noqa: ANN001, ANN202
        return FillWithoutModel.execute(picture[None], hole[None].float(), "patchmatch", 0).result[0][0]

    def peer(picture, hole):  # noqa: ANN001, ANN202
        crop, filled = around(hole, NEAR), picture.clone()
        filled[crop] = torch.from_numpy(inpaint_biharmonic(picture[crop].numpy(), hole[crop].numpy(), channel_axis=-1))
        return filled

    return {"ours": ours, "peer": peer} | xphoto()


def xphoto() -> dict:
    """The fills of OpenCV's xphoto, where it is there."""
    sys.path.append(os.environ.get("PENTIMENTO_OPENCV", ""))
    try:
        import cv2
    except ImportError:
        return {}
    import torch

    def fill(algorithm: int, margin: int, picture, hole):  # noqa: ANN001, ANN202
        crop, filled = around(hole, margin), picture.clone()
        pixels = (255 * picture[crop]).round().byte().numpy()
        known = 255 * (~hole[crop]).byte().numpy()
        result = cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab) if algorithm == cv2.xphoto.INPAINT_SHIFTMAP else pixels.copy()
        cv2.xphoto.inpaint(result.copy(), known, result, algorithm)
        if algorithm == cv2.xphoto.INPAINT_SHIFTMAP:
            result = cv2.cvtColor(result, cv2.COLOR_Lab2RGB)
        filled[crop] = torch.where(hole[crop][..., None], torch.from_numpy(result).float() / 255, picture[crop])
        return filled

    return {
        "OpenCV's shift map": partial(fill, cv2.xphoto.INPAINT_SHIFTMAP, 4096),
        "OpenCV's FSR": partial(fill, cv2.xphoto.INPAINT_FSR_FAST, CONTEXT),
    }


def holes() -> list:
    """(file, picture (H, W, 3), hole (H, W)) of all holes."""
    import numpy as np
    import torch
    from PIL import Image

    out = []
    for file, boxes in HOLES.items():
        pixels = np.array(Image.open(_pack.PACK / file).convert("RGB"))
        for left, top, width, height in boxes:
            hole = torch.zeros(pixels.shape[:2], dtype=torch.bool)
            hole[top : top + height, left : left + width] = True
            out.append((file, torch.from_numpy(pixels).float() / 255, hole))
    return out


def around(hole, margin: int) -> tuple:  # noqa: ANN001
    """Rows and columns of the box around a hole, grown by a margin."""
    (top, bottom), (left, right) = (places.aminmax() for places in hole.nonzero().T)
    start = max(int(top) - margin, 0), max(int(left) - margin, 0)
    return slice(start[0], int(bottom) + 1 + margin), slice(start[1], int(right) + 1 + margin)


def mean(fill, pictures) -> dict:  # noqa: ANN001
    """The mean of each measure over the holes that it is taken on."""
    filled = [(file, fill(picture, hole), picture, hole) for file, picture, hole in pictures]
    far = [statistics(result, hole) for _, result, _, hole in filled]
    bent = [bends(result, picture, hole) for file, result, picture, hole in filled if file == BRICKS]
    return {"statistics": sum(far) / len(far), "bends": sum(bent) / len(bent)}


def statistics(filled, hole) -> float:  # noqa: ANN001
    """The sliced Wasserstein distance of the hole's patches to those around it, in spreads of those around it."""
    import torch
    import torch.nn.functional as F

    crop = around(hole, CONTEXT)
    patches = F.unfold(filled[crop].movedim(-1, 0)[None], PATCH)[0].T  # (N, 3 * 7 * 7)
    share = F.avg_pool2d(hole[crop].float()[None], PATCH, 1).flatten()
    directions = torch.randn(patches.shape[1], DIRECTIONS, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=0)
    patches = (patches - patches[share == 0].mean(0)) @ directions
    levels = torch.linspace(0.01, 0.99, 99)
    inside, outside = (
        torch.quantile(part[:: len(part) // 20000 + 1], levels, 0)
        for part in (patches[share == 1], patches[share == 0])
    )
    return float(((inside - outside).abs().mean(0) / outside.std(0)).mean())


def bends(filled, picture, hole) -> float:  # noqa: ANN001
    """How far upright edges turn from their direction in perspective, in the hole over around the hole."""
    import torch
    import torch.nn.functional as F

    def angles(pixels):  # noqa: ANN001, ANN202
        """Each pixel's direction of the gradient, over WINDOW x WINDOW pixels, and how strong and how uniform it is."""
        dy, dx = torch.gradient(pixels.mean(-1))
        products = torch.stack((dx * dx, dy * dy, dx * dy))[:, None]
        xx, yy, xy = F.avg_pool2d(products, WINDOW, 1, WINDOW // 2)[:, 0]
        return torch.atan2(2 * xy, xx - yy) / 2, torch.hypot(xx - yy, 2 * xy)

    def upright(angle, weight):  # noqa: ANN001, ANN202
        return weight * (angle.abs() < UPRIGHT)

    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in hole.shape), indexing="ij")
    terms = torch.stack((torch.ones_like(x), x, y, x * y), -1)
    angle, weight = angles(picture)
    root = upright(angle, weight).sqrt()[~hole]
    model = torch.linalg.lstsq(terms[~hole] * root[:, None], (angle[~hole] * root)[:, None]).solution[:, 0]

    def turn(angle, weight, place):  # noqa: ANN001, ANN202
        weight = upright(angle, weight)[place]
        return ((angle - terms @ model).square()[place] * weight).sum().div(weight.sum()).sqrt()

    inner = hole & (F.avg_pool2d(hole.float()[None], 9, 1, 4)[0] == 1)  # off the border, which may have a seam
    return float(turn(*angles(filled), inner) / turn(angle, weight, ~hole))
