"""Pictures in ComfyUI's temp folder, for the front end to show."""

import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from PIL import Image
from torch import Tensor

from ..pixels.images import to_levels


def save_picture(image: Tensor) -> dict[str, Any]:
    """Saves the first picture of a batch (B, H, W, C) in ComfyUI's temp folder, where /view serves it, without alpha.

    The file is named by its content, so that a picture is written once however often it is picked on.

    Returns:
        The picture's reference, as /view takes it.
    """
    return _save(to_levels(image[0]))


def save_pictures(images: Tensor, progress: Callable[[int], None]) -> list[dict[str, Any]]:
    """The same for every picture of a batch, with its alpha.

    Args:
        progress: Called with 1 after each picture.
    """
    references = []
    for picture in images:
        levels = to_levels(picture)
        if picture.shape[-1] == 4:
            levels = np.concatenate((levels, to_levels(picture[..., 3:])[..., :1]), axis=-1)
        references.append(_save(levels))
        progress(1)
    return references


def _save(pixels: np.ndarray) -> dict[str, Any]:
    name = f"pentimento_{hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()[:24]}.png"
    folder = Path(folder_paths.get_temp_directory())
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{name}.{secrets.token_hex(4)}.part"  # of its own: two may save at once
        Image.fromarray(pixels).save(part, format="PNG", compress_level=1)
        try:
            part.replace(folder / name)
        except PermissionError:  # on Windows, where another has saved the same picture and /view reads it
            if not (folder / name).exists():
                raise
            part.unlink()
    return {"filename": name, "subfolder": "", "type": "temp"}
