"""Conditionings for a region: its own prompt, and what belongs to the whole picture, cut to the region.

Masks, areas, GLIGEN's boxes and the pictures of ControlNets are cut. The picture that an edit model reads is the crop.
ComfyUI's conditionings and ControlNets are copied, never written to.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from comfy.controlnet import ControlBase
from comfy.sd import CLIP, VAE
from comfy.utils import common_upscale
from torch import Tensor

from ..comfyui.conditioning import Conditioning, Link, ModelCheck
from ..pixels.boxes import Box
from .crop_to_mask import cut, cut_mask, placement

SKIP = "[SKIP]"
# Values of a conditioning that say where or when its own text holds, or that belong to that text
OF_TEXT = {"pooled_output", "attention_mask", "mask", "mask_strength", "set_area_to_bounds", "area", "strength"}
OF_TEXT |= {"gligen", "start_percent", "end_percent", "clip_start_percent", "clip_end_percent"}


# Prompts


def split(prompts: str) -> list[str]:
    """The prompts of the regions: the parts between [SEP], or the lines where there is no [SEP].

    Lines that are empty at the end count for nothing.
    """
    if not prompts.strip():
        return []
    parts = re.split(r"\[SEP\]", prompts) if "[SEP]" in prompts else prompts.rstrip().splitlines()
    return [part.strip() for part in parts]


class Prompts:
    """The regions' own prompts. As in ADetailer, the last one serves all further regions.

    Args:
        texts: An empty text stands for the connected conditioning.
        clip: None where all texts are empty or SKIP.
    """

    def __init__(self, texts: list[str], clip: CLIP | None) -> None:
        self.texts, self.clip = texts, clip
        self.encoded: dict[str, Conditioning] = {}

    def text(self, number: int) -> str:
        """The prompt of a region."""
        return self.texts[min(number, len(self.texts) - 1)] if self.texts else ""

    def skips(self, number: int) -> bool:
        """Whether a region is left as it is."""
        return self.text(number) == SKIP

    def of(self, number: int, positive: Conditioning) -> Conditioning:
        """The positive conditioning of a region: its own prompt, with all that `positive` has beside its text."""
        text = self.text(number)
        if not text:
            return positive
        if text not in self.encoded:
            self.encoded[text] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
        beside = {key: value for key, value in positive[0][1].items() if key not in OF_TEXT} if positive else {}
        return [[tokens, {**beside, **values}] for tokens, values in self.encoded[text]]


# Conditionings of a region


class View(NamedTuple):
    """What a job samples.

    Attributes:
        pictures, boxes: The number of each frame in the batch, and the region in it.
        size: (H, W) of the pictures.
        crops: (T, edge, edge, 3).
        change: (T, edge, edge), 1 = change most.
        samples: The latent of the crops, unscaled.
    """

    pictures: list[int]
    boxes: list[Box]
    size: tuple[int, int]
    crops: Tensor
    change: Tensor
    samples: Tensor
    vae: VAE

    @property
    def edge(self) -> int:
        return self.crops.shape[1]

    def cut_place(self, place: tuple, unit: tuple[float, float]) -> tuple[float, float, float, float] | None:
        """The part of a rectangle (height, width, y, x) in the first frame's region, as fractions of the crop.

        Args:
            unit: The pixels of the picture that 1 stands for, down and across.

        Returns:
            None where the rectangle lies outside the region.
        """
        box = self.boxes[0]
        inner = placement(box, self.edge, self.edge)
        lines = []
        for length, start, scale, (low, side), (at, inner_side) in zip(
            place[:2],
            place[2:],
            unit,
            ((box.y, box.height), (box.x, box.width)),
            ((inner.y, inner.height), (inner.x, inner.width)),
            strict=True,
        ):
            first, last = max(start * scale, low), min((start + length) * scale, low + side)
            if first >= last:
                return None
            grow = inner_side / side / self.edge
            lines.append(((last - first) * grow, at / self.edge + (first - low) * grow))
        (height, y), (width, x) = lines
        return height, width, y, x

    def cut_area(self, area: tuple) -> tuple | None:
        """The part of a conditioning's area, in ComfyUI's form, in the region."""
        percent = area[0] == "percentage"
        values = area[1:] if percent else area
        n = len(values) // 2
        ratio = self.vae.spacial_compression_encode()
        unit = self.size if percent else (ratio, ratio)
        place = self.cut_place((*values[n - 2 : n], *values[-2:]), unit)
        if place is None:
            return None
        if not percent:
            height, width, y, x = (round(at * self.edge / ratio) for at in place)
            place = max(height, 1), max(width, 1), y, x
        cut_values = (*values[: n - 2], *place[:2], *values[n:-2], *place[2:])
        return ("percentage", *cut_values) if percent else cut_values

    def cut_gligen(self, gligen: tuple) -> tuple:
        """GLIGEN's boxes in the region."""
        kind, model, positions = gligen
        cut_boxes = [(embedding, self.cut_area(tuple(box))) for embedding, *box in positions]
        return kind, model, [(embedding, *box) for embedding, box in cut_boxes if box is not None]

    def cut_mask(self, mask: Tensor) -> Tensor:
        """A conditioning's mask (n, h, w) or (h, w): the first frame's region of it, (n, edge, edge)."""
        masks = mask.reshape(-1, *mask.shape[-2:])
        whole = common_upscale(masks[:, None], *self.size[::-1], "bilinear", "none")[:, 0]
        parts = [cut_mask(each, self.boxes[0], self.edge, self.edge) for each in whole]
        return torch.stack(parts).reshape(*mask.shape[:-2], self.edge, self.edge)

    def cut_hint(self, hint: Tensor, algorithm: str) -> Tensor:
        """The picture of a ControlNet, (n, C, h, w): the region of each frame, (T, C, edge, edge)."""
        whole = common_upscale(hint, *self.size[::-1], algorithm, "center").movedim(1, -1)
        frames = zip(self.pictures, self.boxes, strict=True)
        return torch.stack([cut(whole[i % len(whole)], box, self.edge, self.edge) for i, box in frames]).movedim(-1, 1)

    def concat(self, masked: bool) -> dict[str, Tensor]:
        """What core's InstructPix2Pix Conditioning sets, or for `masked` its Inpaint Model Conditioning.

        Raises:
            ValueError: The crops are the frames of a video.
        """
        if len(self.crops) > 1:
            raise ValueError(
                "Detailer: the conditioning has a picture beside the latent (concat_latent_image), as models from "
                "picture to video need it. Detailer cannot cut it out of a video. Remove the node that made this "
                "conditioning, or set batch to 'pictures'."
            )
        if not masked:
            return {"concat_latent_image": self.samples}
        hidden = torch.where(self.change[..., None].round() == 0, self.crops, 0.5)
        return {"concat_latent_image": self.vae.encode(hidden), "concat_mask": self.change[:, None]}


def cut_to(view: View, prompts: dict[str, Conditioning]) -> dict[str, Conditioning]:
    """A guider's conditionings for a region.

    A conditioning whose area lies outside the region is left out, unless all areas do: then all hold everywhere.
    """
    controls: dict[tuple[ControlBase, bool], ControlBase] = {}
    return {name: _cut_prompt(view, prompt, controls) for name, prompt in prompts.items()}


def _cut_prompt(view: View, prompt: Conditioning, controls: dict) -> Conditioning:
    entries = [[text, _cut_values(view, values, controls)] for text, values in prompt]
    inside = [entry for entry in entries if "area" not in entry[1] or entry[1]["area"] is not None]
    if inside:
        return inside
    return [[text, {key: value for key, value in values.items() if key != "area"}] for text, values in entries]


def _cut_values(view: View, values: dict[str, Any], controls: dict) -> dict[str, Any]:
    cutters: dict[str, Callable[[Any], Any]] = {
        "mask": view.cut_mask,
        "area": view.cut_area,
        "gligen": view.cut_gligen,
        "reference_latents": lambda latents: [view.samples, *latents[1:]],
    }
    new = {key: cutter(values[key]) for key, cutter in cutters.items() if values.get(key) is not None}
    edits = values.get("concat_latent_image") is not None
    if edits:
        new |= view.concat(values.get("concat_mask") is not None)
    if values.get("control") is not None:
        new["control"] = _cut_control(view, values["control"], edits, controls)
    return {**values, **new}


def _cut_control(view: View, control: ControlBase | None, edits: bool, controls: dict) -> ControlBase | None:
    """A copy of a chain of ControlNets with the region's pictures.

    Args:
        edits: The conditioning's picture is the region's crop, so that it needs no other size of latent.
        controls: The copies of this region. ComfyUI batches conditionings whose ControlNets are one object.
    """
    if control is None:
        return None
    if (control, edits) not in controls:
        before = _cut_control(view, control.previous_controlnet, edits, controls)
        if isinstance(control, ModelCheck) and edits:
            copied = ModelCheck(control.needs._replace(size=None, pictures=1), before)
        else:
            copied = control.copy().set_previous_controlnet(before)
        if not isinstance(control, Link) and control.cond_hint_original is not None:
            copied.cond_hint_original = view.cut_hint(control.cond_hint_original, control.upscale_algorithm)
            copied.extra_concat_orig = [
                view.cut_hint(extra, control.upscale_algorithm) for extra in control.extra_concat_orig
            ]
        controls[control, edits] = copied
    return controls[control, edits]


# Several regions in one batch


def signature(value: Any) -> Any:
    """Equal for values that `merged` can merge."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype) if len(value) == 1 else id(value)
    if isinstance(value, dict):
        return tuple((key, signature(value[key])) for key in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(map(signature, value))
    return value if isinstance(value, str | int | float | bool | None) else id(value)


def merged(values: list[Any]) -> Any:
    """One value of those of several regions, with equal signatures: tensors become a batch."""
    first = values[0]
    if isinstance(first, Tensor):
        return first if all(value is first for value in values) else torch.cat(values)
    if isinstance(first, dict):
        return {key: merged([value[key] for value in values]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(map(merged, map(list, zip(*values, strict=True))))
    return first
