"""A stand-in of MediaPipe's face landmarker, in the form that ComfyUI loads."""

from collections.abc import Iterator
from math import cos, pi, sin
from pathlib import Path

import torch
from torch import Tensor

from .layers import Shapes, layer
from .weights import save

POINTS = 478
SHORT = (
    *((24, 24), (24, 28), (28, 32), (32, 36), (36, 42), (42, 48), (48, 56), (56, 64)),
    *((64, 72), (72, 80), (80, 88), (88, 96), (96, 96), (96, 96), (96, 96), (96, 96)),
)
FULL = (
    *((32, 8, 32), (32, 8, 32), (32, 16, 64), (64, 16, 64), (64, 16, 64), (64, 32, 128), (128, 32, 128)),
    *((128, 32, 128), (128, 48, 192), (192, 48, 192), (192, 48, 192), (192, 96, 384)),
    *((384, 96, 384), (384, 96, 384), (384, 96, 384)),
)
DECODER = ((96, 96), (64, 64), (48,))
MESH = (
    *((16, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 128)),
    *((128, 128), (128, 128), (128, 128), (128, 128), (128, 128), (128, 128), (128, 128), (128, 128)),
)
FACE = 225, 127, 100  # centre and side of the face of pentimento_astronaut.png, in its pixels
SIDE = 512  # of that picture
CELL, FULL_CELL = 3.5 / 8, 20 / 48  # centre of the cells that find the face, in the short and in the full detector

# The numbers of MediaPipe's points along its outlines, from the image's left to its right where they are open.
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152)
OVAL += (148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
RIGHT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
LEFT_EYE = (362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398)
RIGHT_IRIS, LEFT_IRIS = (469, 470, 471, 472), (474, 475, 476, 477)
RIGHT_BROW, LEFT_BROW = (46, 53, 52, 65, 55), (285, 295, 282, 283, 276)
UPPER_RIGHT_BROW, UPPER_LEFT_BROW = (70, 63, 105, 66, 107), (336, 296, 334, 293, 300)
NOSE = (168, 6, 197, 195, 5, 4, 1, 19, 94, 2)
PROCRUSTES = (1, 4, 10, 33, 61, 133, 152, 168, 263, 291, 362)


def face_landmarks(path: Path) -> None:
    """mediapipe_face_fp32.safetensors: both detectors, the mesh, the blendshapes, the canonical face, the outlines.

    The weights are chosen, not drawn, because drawn ones find no face. In each picture they find one, with the same
    mesh at the same place: where the astronaut's face is in the picture of the workflows.
    """
    weights = {name: torch.zeros(shape) for name, shape in _shapes()}
    _find_in_short(weights, "detector_short")
    _find_in_full(weights, "detector_full")
    mesh = _mesh()
    weights["mesh.head_presence.bias"] += 10
    weights["mesh.head_landmarks.bias"] = mesh.flatten()
    canonical = (mesh - torch.tensor([96.0, 96, 0])) * torch.tensor([0.12, -0.12, -0.12])  # centimetres, y upwards
    weights["canonical_vertices"] = canonical[:468].contiguous()
    weights["procrustes_indices"] = torch.tensor(PROCRUSTES, dtype=torch.int32)
    weights["procrustes_weights"] = torch.full((len(PROCRUSTES),), 0.1)
    weights |= {f"topology.{name}": torch.tensor(edges, dtype=torch.int32) for name, edges in _topology().items()}
    save(weights, path)


def _find_in_short(weights: dict[str, Tensor], name: str) -> None:
    """One anchor alone finds the face: that of the only cell which zeros from beyond the border do not reach.

    A constant 1 passes to the 8 x 8 cells. Four blocks add each cell's neighbours, three times those on both sides, and
    once those below and to the right. What comes from beyond the border is 0, so that a cell has 16 in the end if it is
    three cells or more from the border above and on the left, and four on the other sides: the cell (3, 3).
    """
    weights[f"{name}.stem.bias"][0] = 1
    for block, taps in zip(range(12, 16), ((0.5, 0, 0.5),) * 3 + ((0, 0, 1),), strict=True):
        weights[f"{name}.blocks.{block}.depthwise.weight"][0, 0] = torch.outer(*torch.tensor([taps, taps]))
        weights[f"{name}.blocks.{block}.pointwise.weight"][0, 0] = 1
    weights[f"{name}.cls_16.bias"] -= 100
    weights[f"{name}.cls_8.bias"] -= 100
    weights[f"{name}.cls_8.weight"][0, 0] = 320  # other cells have 15.9375 at most
    weights[f"{name}.cls_8.bias"][0] = 10 - 320 * 16
    weights[f"{name}.reg_8.bias"][:16] = _box(128, CELL)


def _find_in_full(weights: dict[str, Tensor], name: str) -> None:
    """The same on 6 x 6 cells by three blocks. The cell (2, 2) alone passes the threshold.

    It is enlarged to 48 x 48 cells. The four about its middle share the largest value, 0.5625, and find the same face.
    """
    weights[f"{name}.stem.bias"][0] = 1
    for block in (2, 5, 8, 11, 12, 13, 14):  # the first four only hand on: they have no residual
        for part in ("dw1", "dw2"):
            weights[f"{name}.backbone.{block}.{part}.weight"][0, 0, 1, 1] = 1
            weights[f"{name}.backbone.{block}.pw{part[-1]}.weight"][0, 0] = 1
    for block, taps in ((12, (0.5, 0, 0.5)), (13, (0.5, 0, 0.5)), (14, (0, 0, 1))):
        weights[f"{name}.backbone.{block}.dw1.weight"][0, 0] = torch.outer(*torch.tensor([taps, taps]))
    weights[f"{name}.top_conv.weight"][0, 0] = 4  # the cell has 8, others have 7.75 at most
    weights[f"{name}.top_conv.bias"][0] = 1 - 4 * 8
    for part in ("decoder_reduce_convs.0", "decoder_reduce_convs.1"):
        weights[f"{name}.{part}.weight"][0, 0] = 1
    weights[f"{name}.cls_conv.weight"][:, 0] = 1
    for i, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):  # the map's four halves of rows and columns
        weights[f"{name}.cls_dw.weight"][i, 0, 1 + row, 1 + column] = 600
    weights[f"{name}.cls_dw.bias"] += 10 - 600 * 0.5625  # their neighbours have 0.539
    weights[f"{name}.reg_dw.bias"] = _box(192, FULL_CELL).repeat(4)


def _box(scale: int, cell: float) -> Tensor:
    """What a detector says of the face, relative to a cell: the box and six points, the first two the eyes."""
    x, y, side = (value / SIDE for value in FACE)
    eyes = (x - 0.2 * side, y - 0.2 * side, x + 0.2 * side, y - 0.2 * side)
    others = (x, y, x, y + 0.2 * side, x - 0.4 * side, y, x + 0.4 * side, y)
    points = [value - cell for value in eyes + others]
    return scale * torch.tensor([x - cell, y - cell, side, side, *points])


def _mesh() -> Tensor:
    """A frontal face in the 192 pixels that the network sees, (478, 3). Points without an outline fill the oval."""
    mesh = torch.full((POINTS, 3), torch.nan)
    for i in range(POINTS):  # seeds of a sunflower
        radius, angle = (i / POINTS) ** 0.5, i * pi * (3 - 5**0.5)
        mesh[i, :2] = torch.tensor([97 + 54 * radius * cos(angle), 100 + 58 * radius * sin(angle)])
    for points, place in _outlines():
        mesh[list(points), :2] = torch.tensor(place)
    across, down = (mesh[:, 0] - 97) / 60, (mesh[:, 1] - 100) / 68
    mesh[:, 2] = -50 * (1 - across**2 - down**2).clamp_min(0).sqrt()
    return mesh


def _outlines() -> Iterator[tuple[tuple[int, ...], list[tuple[float, float]]]]:
    yield OVAL, _ellipse(len(OVAL), 97, 100, 58, 66, start=-pi / 2)
    yield LIPS, _ellipse(len(LIPS), 95, 115, 24, 10)
    yield INNER_LIPS, _ellipse(len(INNER_LIPS), 95, 115, 19, 5)
    for eye, iris, brows, x in (
        (RIGHT_EYE, (468, *RIGHT_IRIS), (RIGHT_BROW, UPPER_RIGHT_BROW), 68.5),
        (LEFT_EYE, (473, *LEFT_IRIS), (LEFT_BROW, UPPER_LEFT_BROW), 124.5),
    ):
        yield eye, _ellipse(len(eye), x, 64, 12, 5)
        yield iris, [(x, 64), *_ellipse(4, x, 64, 4, 4)]
        yield brows[0], _line(5, (x - 14, 54), (x + 14, 54))
        yield brows[1], _line(5, (x - 14, 50), (x + 14, 50))
    yield NOSE, _line(7, (96, 64), (95, 93)) + _line(3, (95, 97), (95, 103))


def _ellipse(count: int, x: float, y: float, a: float, b: float, start: float = pi) -> list[tuple[float, float]]:
    """Points from `start` on, the image's left, downwards; from the top, clockwise."""
    turn = -1 if start == pi else 1
    angles = [start + turn * 2 * pi * i / count for i in range(count)]
    return [(x + a * cos(angle), y + b * sin(angle)) for angle in angles]


def _line(count: int, start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    shares = [i / (count - 1) for i in range(count)]
    return [(start[0] + s * (end[0] - start[0]), start[1] + s * (end[1] - start[1])) for s in shares]


def _topology() -> dict[str, list[tuple[int, int]]]:
    return {
        "face_oval": _ring(OVAL),
        "lips": _ring(LIPS) + _ring(INNER_LIPS),
        "left_eye": _ring(LEFT_EYE),
        "right_eye": _ring(RIGHT_EYE),
        "left_eyebrow": _path(LEFT_BROW) + _path(UPPER_LEFT_BROW),
        "right_eyebrow": _path(RIGHT_BROW) + _path(UPPER_RIGHT_BROW),
        "irises": _ring(LEFT_IRIS) + _ring(RIGHT_IRIS),
        "nose": _path(NOSE),
        "tesselation": [(i, i + 1) for i in range(467)],
    }


def _path(points: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(points[:-1], points[1:], strict=True))


def _ring(points: tuple[int, ...]) -> list[tuple[int, int]]:
    return _path((*points, points[0]))


def _shapes() -> Shapes:
    yield from _short("detector_short")
    yield from _full("detector_full")
    yield from _mesh_network("mesh")
    yield from _blendshapes("blendshapes")


def _depthwise(name: str, width: int) -> Shapes:
    yield from layer(name, width, 1, 3, 3)


def _short(name: str) -> Shapes:
    yield from layer(f"{name}.stem", 24, 3, 5, 5)
    for i, (into, out) in enumerate(SHORT):
        yield from _depthwise(f"{name}.blocks.{i}.depthwise", into)
        yield from layer(f"{name}.blocks.{i}.pointwise", out, into, 1, 1)
    for head, out, into in (("cls_16", 2, 88), ("cls_8", 6, 96), ("reg_16", 32, 88), ("reg_8", 96, 96)):
        yield from layer(f"{name}.{head}", out, into, 1, 1)


def _full(name: str) -> Shapes:
    yield from layer(f"{name}.stem", 32, 3, 3, 3)
    blocks = [(f"backbone.{i}", *widths) for i, widths in enumerate(FULL)]
    for level, widths in enumerate(DECODER):
        blocks += [(f"decoder_levels.{level}.{i}", width, width // 2, width) for i, width in enumerate(widths)]
    for block, into, middle, out in blocks:
        yield from _depthwise(f"{name}.{block}.dw1", into)
        yield from layer(f"{name}.{block}.pw1", middle, into, 1, 1)
        yield from _depthwise(f"{name}.{block}.dw2", middle)
        yield from layer(f"{name}.{block}.pw2", out, middle, 1, 1)
    for i, (into, out) in enumerate(((64, 48), (128, 64), (192, 96))):
        yield from layer(f"{name}.lateral_convs.{i}", out, into, 1, 1)
    yield from layer(f"{name}.top_conv", 96, 384, 1, 1)
    yield from layer(f"{name}.decoder_reduce_convs.0", 64, 96, 1, 1)
    yield from layer(f"{name}.decoder_reduce_convs.1", 48, 64, 1, 1)
    for head, out in (("cls", 4), ("reg", 64)):
        yield from layer(f"{name}.{head}_conv", out, 48, 1, 1)
        yield from _depthwise(f"{name}.{head}_dw", out)


def _mesh_network(name: str) -> Shapes:
    yield from layer(f"{name}.stem", 16, 3, 3, 3)
    yield f"{name}.prelu_stem.weight", (16,)
    blocks = [(f"blocks.{i}", *widths) for i, widths in enumerate(MESH)]
    for block, into, out in (*blocks, ("head_block", 8, 8)):
        yield from _depthwise(f"{name}.{block}.depthwise", into)
        yield f"{name}.{block}.prelu_dwise.weight", (into,)
        yield from layer(f"{name}.{block}.pointwise", out, into, 1, 1)
        yield f"{name}.{block}.prelu_out.weight", (out,)
    yield from layer(f"{name}.head_reduce", 8, 128, 1, 1)
    yield f"{name}.prelu_head_reduce.weight", (8,)
    yield from layer(f"{name}.head_presence", 1, 8, 3, 3)
    yield from layer(f"{name}.head_landmarks", POINTS * 3, 8, 3, 3)


def _blendshapes(name: str) -> Shapes:
    yield f"{name}.cls_token", (1, 1, 64)
    yield from layer(f"{name}.token_reduce", 96, 146)
    yield from layer(f"{name}.token_embed", 64, 2)
    for i in range(4):
        block = f"{name}.blocks.{i}"
        yield f"{block}.ln1.weight", (64,)
        yield f"{block}.ln2.weight", (64,)
        for mlp, out, into in (
            ("token_mlp1", 384, 97),
            ("token_mlp2", 97, 384),
            ("channel_mlp1", 256, 64),
            ("channel_mlp2", 64, 256),
        ):
            yield from layer(f"{block}.{mlp}", out, into)
    yield from layer(f"{name}.head", 52, 64)
