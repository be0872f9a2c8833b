"""What a conditioning is in a window: the same rule for all that follows the latent, be it of the latent's size (masks,
concatenated channels) or of a picture's (ControlNets' hints), and new coordinates for what holds coordinates (areas,
GLIGEN's boxes, SDXL's crop).

Nothing is written into what the host holds: conditionings and ControlNets are copied.
"""

import copy
import uuid
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

Hints = dict[tuple[ControlBase, tuple[int, int]], list[Tensor]]  # as whole_hint makes them, by its arguments

POOLED, EMBEDDED = 1280, 256  # SDXL's vector: pooled text, then height, width, crop_h, crop_w and others, each so wide
ADM = {SDXL: POOLED + 6 * EMBEDDED, SDXLRefiner: POOLED + 5 * EMBEDDED}
CROP = slice(POOLED + 2 * EMBEDDED, POOLED + 4 * EMBEDDED)
PIXELS = 8  # to SDXL's latent pixel


def stack(tensor: Tensor, windows: list[Window], batch: int, scale: int = 1) -> Tensor:
    """What windows show, window after window, each with all of the batch: the host repeats a batch in that order.

    Args:
        tensor: (n, ..., scale H, scale W). n is 1, the batch or what the host would repeat to it.
        scale: As in tiles.gather.

    Returns:
        (n, ..., scale h, scale w) of one window, (len(windows) batch, ..., scale h, scale w) of several.
    """
    if len(windows) == 1:
        return gather(tensor, windows[0], scale)
    tensor = repeat_to_batch_size(tensor, batch)
    return torch.cat([gather(tensor, window, scale) for window in windows])


def with_mask(cond: Cond, x: Tensor, sigma: Tensor) -> Cond:
    """A conditioning with an area gets the soft border that the host gives the area, as a mask. Inside a window, the
    host would draw it anew.
    """
    if "area" not in cond:
        return cond
    alone = {"area": cond["area"], "model_conds": {}, "uuid": None}
    found = get_area_and_mult(alone, x[:1, :1], sigma)
    area = tuple(found.area)
    if "mask" in cond:
        return {**cond, "area": area}
    n = len(area) // 2
    mask = x.new_zeros(1, *x.shape[2:])
    place = tuple(slice(at, at + size) for size, at in zip(area[:n], area[n:], strict=True))
    mask[(slice(None), *place)] = found.mult[0]
    return {**cond, "area": area, "mask": mask}


# Where


class Part(NamedTuple):
    """A conditioning in a window.

    Attributes:
        entry, index: Which it is.
        area: The part of its area that lies in the window, as the host counts, or None.
        boxes: GLIGEN's there: (which, height, width, top, left).
        inside: The part's positions, counted from the corner of the conditioning's area.
    """

    entry: int
    index: int
    area: tuple[int, ...] | None
    boxes: tuple[tuple[int, ...], ...]
    inside: Window


def parts(conds: list[list[Cond] | None], window: Window) -> list[Part]:
    """What there is in a window. A conditioning whose mask is 0 in all of it is left out, as its weight is 0."""
    return [
        Part(entry, index, area, _boxes(cond, inside), inside)
        for entry, some in enumerate(conds)
        for index, cond in enumerate(some or ())
        for area, inside in _areas(cond, window)
        if "default" in cond or _counts(cond, window, area)
    ]


def _areas(cond: Cond, window: Window) -> list[tuple[tuple[int, ...] | None, Window]]:
    """The parts of the conditioning's area in the window: none, one, or up to four where the window holds both ends of
    the picture.
    """
    if "area" not in cond:
        return [(None, window)]
    area = cond["area"]
    n = len(area) // 2
    (h, w), (top, left) = area[n - 2 : n], area[-2:]
    return [
        (
            (*area[: n - 2], rows, columns, *area[n:-2], y, x),
            Window(_inside(window.y, y, rows, top), _inside(window.x, x, columns, left)),
        )
        for (y, rows), (x, columns) in product(window.y.runs(top, h), window.x.runs(left, w))
    ]


def _inside(line: Line, start: int, length: int, origin: int) -> Line:
    return Line(line.at[start : start + length] - origin, line.step, length)


def _counts(cond: Cond, window: Window, area: tuple[int, ...] | None) -> bool:
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
        (which, rows, columns, y, x)
        for which, (_, h, w, top, left) in enumerate(cond["gligen"][2])
        for (y, rows), (x, columns) in product(inside.y.runs(top, h), inside.x.runs(left, w))
    )


# What


class Cutter:
    """Cuts conditionings to windows that are computed together.

    Args:
        model: The host's BaseModel.
        x: (B, ..., H, W), the whole latent.
        windows: All of one size.
        hints: Whole hints, kept from call to call.
    """

    def __init__(self, model: torch.nn.Module, x: Tensor, windows: list[Window], hints: Hints) -> None:
        self.model, self.size, self.batch = model, tuple(x.shape[-2:]), x.shape[0]
        self.windows, self.hints = windows, hints
        self.copies: dict[tuple, ControlBase] = {}  # one for all conditionings, else the host does not batch them

    def cut(self, cond: Cond, found: list[Part]) -> Cond:
        """
        Args:
            found: The conditioning's part in each window; their areas and boxes are equal.
        """
        area, boxes = found[0].area, found[0].boxes
        model_conds = {key: self.follow(value) for key, value in cond["model_conds"].items()}
        if "y" in model_conds:
            model_conds["y"] = self.crop_coordinates(cond, model_conds["y"])
        cut = {**cond, "model_conds": model_conds, "uuid": self.name(cond, area)}
        if "mask" in cond:
            cut["mask"] = stack(cond["mask"][: self.batch], self.windows, self.batch)
        if area is not None:
            cut["area"] = area
        if "gligen" in cond:
            kind, gligen, positions = cond["gligen"]
            cut["gligen"] = (kind, gligen, [(positions[which][0], *box) for which, *box in boxes])
        if cond.get("control") is not None:
            insides = [part.inside for part in found]
            whole = cond["area"][len(area) // 2 - 2 : len(area) // 2] if area else self.size
            cut["control"] = self.control(cond["control"], tuple(whole), insides, (cond.get("area"), area))
        return cut

    def name(self, cond: Cond, area: tuple[int, ...] | None) -> uuid.UUID:
        """The same at every step, and another for other windows: caches tell conditionings by it."""
        places = [(int(line.at[0]), line.step, len(line.at)) for window in self.windows for line in window]
        return uuid.uuid5(cond["uuid"], f"{places} {area}")

    def follow(self, value: Any) -> Any:
        """One of the host's COND... objects, for the windows."""
        if isinstance(value, CONDList):
            return value._copy_with([self.follow_tensor(each) for each in value.cond])
        if not torch.is_tensor(value.cond):
            return value
        if isinstance(value, CONDConstant) and not self.follows(value.cond):
            return value
        return value._copy_with(self.follow_tensor(value.cond))

    def follow_tensor(self, tensor: Tensor) -> Tensor:
        if self.follows(tensor):
            return stack(tensor, self.windows, self.batch)
        return tensor if len(tensor) == 1 else repeat_to_batch_size(tensor, self.batch)

    def follows(self, tensor: Tensor) -> bool:
        return tensor.ndim >= 4 and tuple(tensor.shape[-2:]) == self.size

    def crop_coordinates(self, cond: Cond, y: Any) -> Any:
        """SDXL is told where its picture was cut out of a larger one (Podell et al. 2023, sec. 2.2): here it was."""
        width = next((width for kind, width in ADM.items() if isinstance(self.model, kind)), None)
        origins = [window.origin for window in self.windows]
        if y.cond.shape[-1] != width or not any(map(any, origins)):
            return y
        rows = [self._at(cond, y.cond, origin) for origin in origins]
        return y._copy_with(torch.cat([repeat_to_batch_size(row, self.batch) for row in rows]))

    def _at(self, cond: Cond, y: Tensor, origin: tuple[int, int]) -> Tensor:
        if origin == (0, 0):
            return y
        crop = [cond.get(key, 0) + PIXELS * at for key, at in zip(("crop_h", "crop_w"), origin, strict=True)]
        y = y.clone()
        y[:, CROP] = self.model.embedder(torch.Tensor(crop)).flatten().to(y)
        return y

    # ControlNets

    def control(
        self, control: ControlBase | None, whole: tuple[int, int], insides: list[Window], place: tuple
    ) -> ControlBase | None:
        """A chain of ControlNets with the windows' parts of its hints.

        Args:
            whole: What the hint is resized to, in latent pixels: the latent, or the conditioning's area.
            insides: The windows, as in Part.
            place: Tells conditionings with other insides apart.
        """
        if control is None:
            return None
        if (control, place) not in self.copies:
            copied = copy.copy(control)  # and not its copy(), which forgets what pre_run made
            copied.previous_controlnet = self.control(control.previous_controlnet, whole, insides, place)
            copied.multigpu_clones = {
                device: self.control(clone, whole, insides, place) for device, clone in control.multigpu_clones.items()
            }
            self.cut_hint(copied, control, whole, insides)
            self.copies[control, place] = copied
        return self.copies[control, place]

    def cut_hint(
        self, copied: ControlBase, control: ControlBase, whole: tuple[int, int], insides: list[Window]
    ) -> None:
        copied.cond_hint = copied.extra_concat = None
        if control.cond_hint_original is None:
            return
        scale = control.compression_ratio
        if (control, whole) not in self.hints:
            self.hints[control, whole] = whole_hint(control, whole)
        hint, *more = (stack(part, insides, self.batch, scale) for part in self.hints[control, whole])
        if control.vae is None:
            copied.cond_hint_original, copied.extra_concat_orig = hint, more
        else:
            dtype = control.manual_cast_dtype or control.control_model.dtype
            copied.cond_hint = hint.to(control.load_device, dtype)


def whole_hint(control: ControlBase, size: tuple[int, int]) -> list[Tensor]:
    """The hint for all of a latent, resized (and encoded, where the ControlNet reads latents) as the host's get_control
    does it, and what is concatenated to it.

    Args:
        size: (H, W) in latent pixels.

    Returns:
        [(n, C, r H, r W), ...], r the ControlNet's compression_ratio.
    """
    r = control.compression_ratio * (1 if control.vae is None else control.vae.spacial_compression_encode())

    def resized(tensor: Tensor, height: int, width: int) -> Tensor:
        return common_upscale(tensor, width, height, control.upscale_algorithm, "center")

    hint = resized(control.cond_hint_original, r * size[0], r * size[1])
    more = [resized(each, *hint.shape[-2:]) for each in control.extra_concat_orig if control.vae is None]
    return [hint, *more] if control.vae is None else [_encoded(control, hint, resized)]


def _encoded(control: ControlBase, hint: Tensor, resized: Any) -> Tensor:
    loaded = model_management.loaded_models(only_currently_used=True)
    hint = control.vae.encode(control.preprocess_image(hint).movedim(1, -1))
    model_management.load_models_gpu(loaded)
    if control.latent_format is not None:
        hint = control.latent_format.process_in(hint)
    parts = [hint]
    for part in control.extra_concat_orig:
        part = resized(part.to(hint.device), *hint.shape[-2:])
        if part.ndim < hint.ndim:
            part = repeat_to_batch_size(part.unsqueeze(2), hint.shape[2], dim=2)
        parts.append(repeat_to_batch_size(part, len(hint)))
    return torch.cat(parts, dim=1)
