"""Cuts conditionings to windows.

Tensors that follow the latent are cut by one rule, at the latent's size (masks, concatenated channels) and at a
picture's size (ControlNets' hints). Coordinates are recomputed (areas, GLIGEN's boxes, SDXL's crop).

ComfyUI's conditionings and ControlNets are copied, never written to.
"""

import copy
import uuid
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from comfy import model_management
from comfy.conds import CONDConstant, CONDList
from comfy.controlnet import ControlBase
from comfy.model_base import SDXL, SDXLRefiner
from comfy.samplers import get_area_and_mult
from comfy.utils import common_upscale, repeat_to_batch_size
from torch import Tensor

from ..comfyui.conditioning import Cond
from .tiles import Line, Window, gather

Hints = dict[tuple[ControlBase, tuple[int, int]], list[Tensor]]  # the results of whole_hint, by its arguments

# SDXL's vector y: the pooled text, then embeddings of height, width, crop_h, crop_w and one or two others
POOLED, EMBEDDED = 1280, 256
ADM = {SDXL: POOLED + 6 * EMBEDDED, SDXLRefiner: POOLED + 5 * EMBEDDED}  # length of y
CROP = slice(POOLED + 2 * EMBEDDED, POOLED + 4 * EMBEDDED)  # crop_h and crop_w in y
PIXELS_PER_LATENT = 8  # of SDXL


def stack(tensor: Tensor, windows: list[Window], batch: int, scale: int = 1) -> Tensor:
    """The parts of a tensor that windows show, one window after another, each with the whole batch.

    ComfyUI repeats a batch in this order.

    Args:
        tensor: (n, ..., scale H, scale W). Where n is not the batch, it is repeated to the batch, as ComfyUI does.
        scale: As in tiles.gather.

    Returns:
        (n, ..., scale h, scale w) of one window, (len(windows) batch, ..., scale h, scale w) of several.
    """
    if len(windows) == 1:
        return gather(tensor, windows[0], scale)
    tensor = repeat_to_batch_size(tensor, batch)
    return torch.cat([gather(tensor, window, scale) for window in windows])


def with_mask(cond: Cond, x: Tensor, sigma: Tensor) -> Cond:
    """The conditioning with the soft border of its area as a mask, and with its area clipped to x.

    ComfyUI fades an area at its borders, unless it has a mask. In a window it would fade the borders of the area's part
    in the window instead.
    """
    if "area" not in cond:
        return cond
    only_area = {"area": cond["area"], "model_conds": {}, "uuid": None}
    clipped = get_area_and_mult(only_area, x[:1, :1], sigma)
    area = tuple(clipped.area)
    if "mask" in cond:
        return {**cond, "area": area}
    n = len(area) // 2
    mask = x.new_zeros(1, *x.shape[2:])
    place = tuple(slice(at, at + size) for size, at in zip(area[:n], area[n:], strict=True))
    mask[(slice(None), *place)] = clipped.mult[0]
    return {**cond, "area": area, "mask": mask}


# Parts of conditionings in a window


class Part(NamedTuple):
    """A part of a conditioning's area in a window, or the whole window where the conditioning has no area.

    Attributes:
        prompt, index: The conditioning is conds[prompt][index].
        area: The part in the window's coordinates, in ComfyUI's form (..., height, width, ..., y, x); None without one.
        boxes: GLIGEN's boxes in the part: (number of the box, height, width, top, left).
        inside: The part's positions, counted from the corner of the conditioning's area.
    """

    prompt: int
    index: int
    area: tuple[int, ...] | None
    boxes: tuple[tuple[int, ...], ...]
    inside: Window


def parts(conds: list[list[Cond] | None], window: Window) -> list[Part]:
    """The parts of all conditionings in a window. Parts whose mask is 0 everywhere are left out: their weight is 0."""
    return [
        Part(number, index, area, _boxes(cond, inside), inside)
        for number, prompt in enumerate(conds)
        for index, cond in enumerate(prompt or ())
        for area, inside in _areas(cond, window)
        if "default" in cond or _has_weight(cond, window, area)
    ]


def _areas(cond: Cond, window: Window) -> list[tuple[tuple[int, ...] | None, Window]]:
    """The parts of a conditioning's area in a window: (area, inside) of each, as in Part.

    There may be none, one, or up to four in a window that shows both ends of the picture.
    """
    if "area" not in cond:
        return [(None, window)]
    n = len(cond["area"]) // 2
    sizes, corner = cond["area"][:n], cond["area"][n:]  # (..., height, width), (..., y, x)
    (height, width), (top, left) = sizes[-2:], corner[-2:]
    areas = []
    for (y, rows), (x, columns) in product(window.y.runs(top, height), window.x.runs(left, width)):
        area = *sizes[:-2], rows, columns, *corner[:-2], y, x
        inside = Window(_inside(window.y, y, rows, top), _inside(window.x, x, columns, left))
        areas.append((area, inside))
    return areas


def _inside(line: Line, start: int, length: int, origin: int) -> Line:
    return Line(line.at[start : start + length] - origin, line.step, length)


def _has_weight(cond: Cond, window: Window, area: tuple[int, ...] | None) -> bool:
    if "mask" not in cond:
        return True
    mask = gather(cond["mask"], window)
    if area is not None:
        n = len(area) // 2
        (h, w), (y, x) = area[n - 2 : n], area[-2:]
        mask = mask[..., y : y + h, x : x + w]
    return bool(mask.any())


def _boxes(cond: Cond, inside: Window) -> tuple[tuple[int, ...], ...]:
    if "gligen" not in cond:
        return ()
    return tuple(
        (number, rows, columns, y, x)
        for number, (_, h, w, top, left) in enumerate(cond["gligen"][2])
        for (y, rows), (x, columns) in product(inside.y.runs(top, h), inside.x.runs(left, w))
    )


# Conditionings cut to windows


class Cutter:
    """Cuts conditionings to windows that are computed together.

    Args:
        model: ComfyUI's BaseModel.
        x: (B, ..., H, W), the whole latent.
        windows: All of one size.
        hints: The run's hints for the whole picture, which this adds to.
    """

    def __init__(self, model: torch.nn.Module, x: Tensor, windows: list[Window], hints: Hints) -> None:
        self.model, self.size, self.batch = model, tuple(x.shape[-2:]), x.shape[0]
        self.windows, self.hints = windows, hints
        self.copies: dict[tuple, ControlBase] = {}  # one copy for all conditionings: ComfyUI batches them by identity

    def cut(self, cond: Cond, window_parts: Sequence[Part]) -> Cond:
        """The conditioning for the windows.

        Args:
            window_parts: Its part in each window, with equal areas and boxes.
        """
        area, boxes = window_parts[0].area, window_parts[0].boxes
        model_conds = {key: self.cut_value(value) for key, value in cond["model_conds"].items()}
        if "y" in model_conds:
            model_conds["y"] = self.crop_coordinates(cond, model_conds["y"])
        cut = {**cond, "model_conds": model_conds, "uuid": self.window_uuid(cond, area)}
        if "mask" in cond:
            cut["mask"] = stack(cond["mask"][: self.batch], self.windows, self.batch)
        if area is not None:
            cut["area"] = area
        if "gligen" in cond:
            kind, gligen, positions = cond["gligen"]
            cut["gligen"] = (kind, gligen, [(positions[number][0], *box) for number, *box in boxes])
        if cond.get("control") is not None:
            insides = [part.inside for part in window_parts]
            whole = cond["area"][len(area) // 2 - 2 : len(area) // 2] if area else self.size
            cut["control"] = self.cut_control(cond["control"], tuple(whole), insides, (cond.get("area"), area))
        return cut

    def window_uuid(self, cond: Cond, area: tuple[int, ...] | None) -> uuid.UUID:
        """An id that is the same at every step and differs between windows: caches look conditionings up by it."""
        places = [(int(line.at[0]), line.step, len(line.at)) for window in self.windows for line in window]
        return uuid.uuid5(cond["uuid"], f"{places} {area}")

    def cut_value(self, value: Any) -> Any:
        """One of ComfyUI's COND... objects, cut to the windows where it follows the latent."""
        if isinstance(value, CONDList):
            return value._copy_with([self.cut_tensor(each) for each in value.cond])
        if not torch.is_tensor(value.cond):
            return value
        if isinstance(value, CONDConstant) and not self.follows(value.cond):
            return value
        return value._copy_with(self.cut_tensor(value.cond))

    def cut_tensor(self, tensor: Tensor) -> Tensor:
        if self.follows(tensor):
            return stack(tensor, self.windows, self.batch)
        return tensor if len(tensor) == 1 else repeat_to_batch_size(tensor, self.batch)

    def follows(self, tensor: Tensor) -> bool:
        return tensor.ndim >= 4 and tuple(tensor.shape[-2:]) == self.size

    def crop_coordinates(self, cond: Cond, y: Any) -> Any:
        """SDXL's vector with the crop coordinates of the windows (Podell et al. 2023, section 2.2).

        SDXL learnt where its picture was cut out of a larger one, in pixels: c_crop = (crop_h, crop_w). A window whose
        first latent pixel is (y, x) is cut out at c_crop + 8 (y, x).
        """
        length = next((length for kind, length in ADM.items() if isinstance(self.model, kind)), None)
        origins = [window.origin for window in self.windows]
        if y.cond.shape[-1] != length or not any(map(any, origins)):
            return y
        rows = [self._cropped_at(origin, cond, y.cond) for origin in origins]
        return y._copy_with(torch.cat([repeat_to_batch_size(row, self.batch) for row in rows]))

    def _cropped_at(self, origin: tuple[int, int], cond: Cond, y: Tensor) -> Tensor:
        if origin == (0, 0):
            return y
        crop = [cond.get(key, 0) + PIXELS_PER_LATENT * at for key, at in zip(("crop_h", "crop_w"), origin, strict=True)]
        y = y.clone()
        y[:, CROP] = self.model.embedder(torch.Tensor(crop)).flatten().to(y)
        return y

    # ControlNets

    def cut_control(
        self, control: ControlBase | None, whole: tuple[int, int], insides: list[Window], place: tuple
    ) -> ControlBase | None:
        """A copy of a chain of ControlNets, with hints cut to the windows.

        Args:
            whole: The size in latent pixels for which the hint is made: of the latent, or of the conditioning's area.
            insides: Part.inside of each window.
            place: The areas of the conditioning and of its part. Conditionings with equal ones share copies.
        """
        if control is None:
            return None
        if (control, place) not in self.copies:
            copied = copy.copy(control)  # its own copy() would drop the results of pre_run
            copied.previous_controlnet = self.cut_control(control.previous_controlnet, whole, insides, place)
            clones = control.multigpu_clones.items()
            copied.multigpu_clones = {gpu: self.cut_control(clone, whole, insides, place) for gpu, clone in clones}
            self.cut_hint(copied, control, whole, insides)
            self.copies[control, place] = copied
        return self.copies[control, place]

    def cut_hint(
        self, copied: ControlBase, control: ControlBase, whole: tuple[int, int], insides: list[Window]
    ) -> None:
        """Gives a copied ControlNet the windows' parts of the hint for `whole`."""
        copied.cond_hint = copied.extra_concat = None
        if control.cond_hint_original is None:
            return
        scale = control.compression_ratio
        if (control, whole) not in self.hints:
            self.hints[control, whole] = whole_hint(control, whole)
        hint, *extras = (stack(tensor, insides, self.batch, scale) for tensor in self.hints[control, whole])
        if control.vae is None:
            copied.cond_hint_original, copied.extra_concat_orig = hint, extras
        else:
            dtype = control.manual_cast_dtype or control.control_model.dtype
            copied.cond_hint = hint.to(control.load_device, dtype)


def whole_hint(control: ControlBase, size: tuple[int, int]) -> list[Tensor]:
    """A ControlNet's hint for a whole latent, resized as ComfyUI's get_control does, then the pictures beside it.

    For a ControlNet that reads latents, the hint is encoded, and its extra channels are concatenated to it.

    Args:
        size: (H, W) in latent pixels.

    Returns:
        [(n, C, r H, r W), ...], r the ControlNet's compression_ratio.
    """
    r = control.compression_ratio * (1 if control.vae is None else control.vae.spacial_compression_encode())
    hint = _resized(control, control.cond_hint_original, r * size[0], r * size[1])
    if control.vae is not None:
        return [_encoded(control, hint)]
    return [hint, *(_resized(control, extra, *hint.shape[-2:]) for extra in control.extra_concat_orig)]


def _resized(control: ControlBase, tensor: Tensor, height: int, width: int) -> Tensor:
    return common_upscale(tensor, width, height, control.upscale_algorithm, "center")


def _encoded(control: ControlBase, hint: Tensor) -> Tensor:
    """The hint as a latent of the ControlNet, with its extra channels."""
    loaded = model_management.loaded_models(only_currently_used=True)
    hint = control.vae.encode(control.preprocess_image(hint).movedim(1, -1))
    model_management.load_models_gpu(loaded)
    if control.latent_format is not None:
        hint = control.latent_format.process_in(hint)
    channels = [hint]
    for extra in control.extra_concat_orig:
        extra = _resized(control, extra.to(hint.device), *hint.shape[-2:])
        if extra.ndim < hint.ndim:
            extra = repeat_to_batch_size(extra.unsqueeze(2), hint.shape[2], dim=2)
        channels.append(repeat_to_batch_size(extra, len(hint)))
    return torch.cat(channels, dim=1)
