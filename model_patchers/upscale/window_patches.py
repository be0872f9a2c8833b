"""Pictures of the whole latent's size in patches of other nodes, under windows.

A patch in the model's transformer options runs inside each window. Masks of IP-Adapters and their relatives are cut to
the window. Other patches that hold a mask or a control picture would squeeze all of it into each window: they are
refused before anything is sampled.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch.nn import functional

from .tiles import Window
from .window_conditioning import stack

PLACES = ("patches", "patches_replace", "optimized_attention_override")  # of patches in transformer options
PICTURES = {"image", "inpaint_image", "control_image", "hint", "hint_latent", "render_video", "ref_target_masks"}
SMALLEST = 4  # a mask's sides: a smaller tensor named mask is one of text tokens
STYLE_MASK = "attention_mask_img_shape"  # in a conditioning whose attention mask has the picture's tokens
DEPTH = 5  # of containers and objects that hold one another
NODES = {  # ComfyUI's nodes by the patches that they set
    "DiffSynthCnetPatch": "Apply Qwen Image DiffSynth ControlNet",
    "ZImageControlPatch": "Apply Z-Image Fun ControlNet",
    "AnimaLLLitePatch": "Apply Anima LLLite",
    "SUPIRPatch": "Apply SUPIR Patch",
    "WanUni3CCnetPatch": "Apply Wan Uni3C ControlNet",
}
Masks = dict[Tensor, Tensor]  # {a patch's mask: the same at the latent's size}


# Masks that are cut


def cut_patches(
    options: dict[str, Any], windows: list[Window], size: tuple[int, int], batch: int, masks: Masks
) -> dict[str, Any]:
    """Model options in which the masks of adapters are those of the windows.

    Args:
        windows: Of one call.
        size: (H, W) of the whole latent.
        batch: Of the latent.
        masks: The run's, which this adds to.
    """
    transformer_options = options.get("transformer_options", {})
    replaced = transformer_options.get("patches_replace", {})
    if not any(_is_adapter(patch) for blocks in replaced.values() for patch in blocks.values()):
        return options
    parts: Masks = {}  # of this call: all layers share a mask

    def part(mask: Tensor) -> Tensor:
        if mask not in parts:
            if mask not in masks:
                masks[mask] = functional.interpolate(mask[:, None], size, mode="bilinear")[:, 0]
            parts[mask] = stack(_for_batch(masks[mask], batch), windows, batch)
        return parts[mask]

    def cut(patch: Any) -> Any:
        if not _is_adapter(patch):
            return patch
        copied = copy.copy(patch)
        copied.kwargs = [
            {**values, "mask": part(values["mask"])} if torch.is_tensor(values.get("mask")) else values
            for values in patch.kwargs
        ]
        return copied

    changed = {name: {block: cut(patch) for block, patch in blocks.items()} for name, blocks in replaced.items()}
    return {**options, "transformer_options": {**transformer_options, "patches_replace": changed}}


def _is_adapter(patch: Any) -> bool:
    """Whether it is IP-Adapter's patch (ComfyUI_IPAdapter_plus, InstantID, PuLID): it calls each of `callback` with the
    keywords of `kwargs`, and resizes a mask (n, H, W) to the layer.
    """
    values = getattr(patch, "kwargs", None)
    return (
        isinstance(getattr(patch, "callback", None), list)
        and isinstance(values, list)
        and all(isinstance(each, dict) for each in values)
    )


def _for_batch(mask: Tensor, batch: int) -> Tensor:
    """A mask (n, H, W) for a batch as IP-Adapter fits it: the last one serves the rest."""
    if len(mask) in (1, batch):
        return mask
    return torch.cat((mask, mask[-1:].expand(max(0, batch - len(mask)), -1, -1)))[:batch]


# Pictures that are not cut


def refuse_whole_pictures(options: dict[str, Any], conds: Sequence[dict[str, Any]], node: str) -> None:
    """Refuses patches and conditionings that hold a mask or a picture which cannot be cut to windows.

    Args:
        options: Of the model.
        conds: The values of the conditionings.
        node: The display name of the node that makes windows.

    Raises:
        ValueError: One holds one.
    """
    if any(cond.get(STYLE_MASK) for cond in conds):
        raise ValueError(
            f"{node} computes the picture in windows, and a conditioning holds an attention mask of the whole picture, "
            "which cannot be cut to windows. Set strength_type of Apply Style Model to multiply, or sample without "
            f"{node}."
        )
    hooked = [hook for cond in conds if cond.get("hooks") is not None for hook in cond["hooks"].hooks]
    on_prompts = [patch for hook in hooked for patch in _patches(getattr(hook, "transformers_dict", {}))]
    on_model = [patch for patch in _patches(options.get("transformer_options", {})) if not _is_adapter(patch)]
    for patch in on_prompts + on_model:
        if (picture := _picture(patch)) is not None:
            raise ValueError(
                f"{node} computes the picture in windows, and {_name(patch)} holds '{picture}' for the whole picture, "
                f"which cannot be cut to windows. Remove that node, or sample without {node}. ControlNets and masked "
                "IP-Adapters on the model are cut."
            )


def _patches(transformer_options: dict[str, Any]) -> Iterator[Any]:
    for place in PLACES:
        patches = transformer_options.get(place)
        groups = patches.values() if isinstance(patches, dict) else [[patches]]
        for group in groups:
            yield from group.values() if isinstance(group, dict) else group


def _picture(value: Any, name: str = "", depth: int = 0) -> str | None:
    """The name of a mask or a picture in a patch; None without one."""
    if torch.is_tensor(value):
        is_picture = name in PICTURES or "mask" in name and value.ndim > 1 and min(value.shape[-2:]) >= SMALLEST
        return name if is_picture else None
    if depth == DEPTH:
        return None
    return next(filter(None, (_picture(each, key, depth + 1) for key, each in _contents(value, name))), None)


def _contents(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    """The named values that a container, a function or an object holds, without networks and models."""
    if isinstance(value, dict):
        return [(key if isinstance(key, str) else name, each) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [(name, each) for each in value]
    if isinstance(value, MethodType):
        return [(name, value.__self__)]
    if isinstance(value, partial):
        return [(name, value.func), *((name, each) for each in value.args), *value.keywords.items()]
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return [(key, cell.cell_contents) for key, cell in cells]
    if isinstance(value, nn.Module | ModelPatcher | ModuleType | type):
        return []
    return vars(value).items() if hasattr(value, "__dict__") else []


def _name(patch: Any) -> str:
    """A patch by ComfyUI's node, or by the place of its code."""
    if isinstance(patch, tuple):
        patch = patch[-1]
    if isinstance(patch, MethodType):
        patch = patch.__self__
    code = patch if isinstance(patch, FunctionType) else type(patch)
    return NODES.get(code.__name__, f"the patch {code.__module__}.{code.__qualname__}")
