"""Faces restored by a network for aligned faces: CodeFormer, GFPGAN, RestoreFormer.

Zhou, Chan, Li and Loy, "Towards robust blind face restoration with codebook lookup transformer", NeurIPS 2022. Wang,
Li, Zhang and Shan, "Towards real-world blind face restoration with generative facial prior", CVPR 2021. Wang, Zhang,
Chen, Wang and Luo, "RestoreFormer", CVPR 2022. All three take and give RGB in -1 ... 1.
"""

import inspect
import logging
from collections.abc import Iterator
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np
import torch
from comfy import model_management
from torch import Tensor

from ..comfyui.progress import Progress
from ..pixels import warp
from ..pixels.boxes import Box
from ..pixels.images import put_rgb, to_rgb
from .face_align import SIDE, SMALLEST, faces, inverse, similarity

OUTSIDE = 132 / 255, 133 / 255, 135 / 255  # facexlib's grey round the picture
MEMORY = SIDE * SIDE * 3 * 4 * 384  # bytes; ComfyUI's own estimate for a tile of this size
NEEDED = (
    "A face model is needed: GFPGAN, RestoreFormer or CodeFormer, loaded with Load Upscale Model. CodeFormer needs the "
    "Python package spandrel_extra_arches."
)


class Restored(NamedTuple):
    """What comes of pictures.

    Attributes:
        image: (B, H, W, C).
        faces: (N, 512, 512, 3), those of the first picture first; a black one where there is none.
        mask: (B, H, W), how far each pixel was replaced, 0 ... 1.
    """

    image: Tensor
    faces: Tensor
    mask: Tensor


def restore(image: Tensor, face_model: Any, landmarks: Any, fidelity: float, feather: int) -> Restored:
    """Pictures with their faces restored. All faces are cut from the pictures as they came, and pasted one by one.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        face_model: ComfyUI's UPSCALE_MODEL.
        landmarks: ComfyUI's FACE_LANDMARKS, as `face_align.faces` takes them.
        fidelity: 0 ... 1, of networks that have it.
        feather: In pixels of the aligned face.

    Returns:
        Outside the mask every bit of the pictures stays.

    Raises:
        ValueError: The model is none for faces, or as `face_align.faces` says.
    """
    check(face_model)
    points = _large_enough(faces(landmarks, image))
    result, mask, restored = image.clone(), image.new_zeros(image.shape[:3]), []
    if total := sum(map(len, points)):
        progress = Progress(total)
        load(face_model)
        for number, matrix in _matrices(points):
            aligned = align(image[number], matrix)
            face = run(face_model, aligned, fidelity).to(image)
            restored.append(face)
            paste(result[number], mask[number], face, matrix, feather)
            progress()
    return Restored(result, torch.stack(restored or [image.new_zeros(SIDE, SIDE, 3)]), mask)


def check(face_model: Any) -> None:
    """Refuses a model that is none for faces.

    Raises:
        ValueError: It is none.
    """
    if getattr(face_model, "purpose", None) != "FaceSR":
        architecture = getattr(getattr(face_model, "architecture", None), "name", "another model")
        raise ValueError(f"face_model is {architecture}, which is not made for faces. {NEEDED}")


def load(face_model: Any) -> None:
    """Has ComfyUI load the network, all of it: spandrel's layers cannot fetch weights that wait in other memory."""
    model_management.load_models_gpu([face_model.patcher], memory_required=MEMORY, force_full_load=True)


def _large_enough(points: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Without faces whose eyes are less than SMALLEST pixels apart: nothing could be restored from so few."""
    large = [[face for face in frame if np.hypot(*(face[1] - face[0])) >= SMALLEST] for frame in points]
    if small := sum(map(len, points)) - sum(map(len, large)):
        logging.info("Restore Faces: %d faces are left as they are, their eyes under %d pixels apart.", small, SMALLEST)
    return large


def _matrices(points: list[list[np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """The number of the picture, and the similarity (2, 3) from the picture to the aligned face, for each face."""
    for number, frame in enumerate(points):
        for face in frame:
            yield number, similarity(face)


def align(picture: Tensor, matrix: np.ndarray) -> Tensor:
    """A face as the networks see it: (H, W, C) -> (512, 512, 3) in [0, 1]. Grey surrounds the picture."""
    outside = picture.new_tensor(OUTSIDE)
    return warp.similar(to_rgb(picture), inverse(matrix), (SIDE, SIDE), outside).clamp(0, 1)


def run(face_model: Any, face: Tensor, fidelity: float) -> Tensor:
    """A restored face, in float32 on the network's device: (512, 512, 3) in [0, 1] both.

    spandrel's own call of the descriptor hands GFPGAN and CodeFormer 0 ... 1, so the network itself is called. Faces go
    one by one: none depends on which others there are, and the memory is that of one. GFPGAN adds noise to its
    features. The noise is that of its file, so that the same picture twice gives the same face.
    """
    network = face_model.model
    options = {"weight": fidelity, "randomize_noise": False}
    known = inspect.signature(network.forward).parameters
    x = ((face - 0.5) / 0.5).movedim(-1, 0)[None].to(face_model.patcher.load_device, face_model.dtype)
    with torch.no_grad():
        y, *_ = network(x, **{name: value for name, value in options.items() if name in known})
    return ((y.float().clamp(-1, 1) + 1) / 2)[0].movedim(0, -1)


def paste(picture: Tensor, mask: Tensor, face: Tensor, matrix: np.ndarray, feather: int) -> None:
    """Blends a restored face into a picture (H, W, C) and its share into a mask (H, W); both are written to.

    Args:
        face: (512, 512, 3).
        matrix: (2, 3), from the picture to the face.
        feather: In pixels of the face.
    """
    box = _box(matrix, mask.shape)
    if box is None:
        return
    there = matrix.copy()
    there[:, 2] += matrix[:, :2] @ [box.x, box.y]
    alpha = opacity(there, (box.height, box.width), feather).to(picture)
    new = warp.similar(face, there, alpha.shape).clamp(0, 1)  # bicubic interpolation overshoots at edges
    rgb = torch.lerp(to_rgb(picture[box.slices]), new, alpha[..., None])
    picture[box.slices] = put_rgb(picture[box.slices], rgb, alpha > 0)
    mask[box.slices] = torch.maximum(mask[box.slices], alpha)


def opacity(matrix: np.ndarray, size: tuple[int, int], feather: int) -> Tensor:
    """How much of the face each pixel takes, (height, width): it rises from 0 at the face's edge to 1 inside.

    Args:
        matrix: (2, 3), from these pixels to the face.
        feather: Length of the rise in pixels of the face, along 3 t^2 - 2 t^3.
    """
    x, y = warp.positions(matrix, size)
    depth = (SIDE / 2 - torch.maximum((x - (SIDE - 1) / 2).abs(), (y - (SIDE - 1) / 2).abs())).clamp_min(0)
    if not feather:
        return (depth > 0).float()
    t = (depth / feather).clamp_max(1)
    return (t * t * (3 - 2 * t)).float()


def _box(matrix: np.ndarray, size: tuple[int, int]) -> Box | None:
    """The part of a picture of `size`, (H, W), that holds a face; None: the face lies outside."""
    low, high = -0.5, SIDE - 0.5
    x, y = inverse(matrix) @ [[low, high, low, high], [low, low, high, high], [1, 1, 1, 1]]
    left, top = max(floor(x.min()), 0), max(floor(y.min()), 0)
    right, bottom = min(ceil(x.max()) + 1, size[1]), min(ceil(y.max()) + 1, size[0])
    return Box(left, top, right - left, bottom - top) if left < right and top < bottom else None
