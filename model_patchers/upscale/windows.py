"""Diffusion in windows: the model denoises a picture of any size in windows of the size that it was trained for, and
the results are fused at every evaluation. Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled
Image Generation", with the gaussian weights of Mixture of Diffusers (Jimenez 2023), or with the windows of
SpotDiffusion (Frolov et al. 2024) that lie side by side and roll from step to step.

The windows are cut around ComfyUI's calc_cond_batch, so that ComfyUI applies areas, masks, ControlNets, hooks and
batching in each window.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from comfy import model_management
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..comfyui.conditioning import Cond
from ..comfyui.kinds import pixels_per_latent
from ..comfyui.patching import Call, attach
from . import tiles
from .tiles import Fusion, Window
from .window_conditioning import Cutter, Hints, Part, parts, stack, with_mask
from .window_patches import Masks, cut_patches, refuse_whole_pictures

KEY = "pentimento_windows"
NODE = "Windowed Diffusion"
METHODS = ("average", "gaussian", "spot")
MAX_WINDOWS = 16  # the most windows in a call where memory decides: more are no faster
MARGIN = 1.5  # times memory_required must be free: ComfyUI's own margin for a call


@dataclass
class RunCache:
    """Values that the calls of one run share.

    Attributes:
        hints: ControlNets' hints for the whole picture.
        masks: Adapters' masks for the whole picture.
        batches: The number of windows in a call, by rows and window size. It stays the same for the whole run, so that
            caches such as EasyCache see the same calls at every step.
    """

    hints: Hints = field(default_factory=dict)
    batches: dict[tuple, int] = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)

    def clear(self) -> None:
        self.hints.clear()
        self.masks.clear()
        self.batches.clear()


def evaluate(
    call: Call, windows: list[Window], weight: Tensor, batch: int = 0, cache: RunCache | None = None
) -> list[Tensor]:
    """The fused results of a call in windows (MultiDiffusion, equation 5): a tensor like x for each prompt.

    D(x) = sum_i F_i^-1(w D(F_i x)) / sum_i F_i^-1(w): F_i cuts window i out of x, and F_i^-1 puts it back.

    Args:
        call: Of a wrapper of CALC_COND_BATCH.
        windows: All of one size; together they cover x.
        weight: w, (h, w), the weights of a window's pixels, above 0.
        batch: Windows in a call; 0 = as many as memory allows.
        cache: Made once for a run, and cleared after it.
    """
    model, x = call.model, call.x
    if len(windows) == 1 and windows[0].size == tuple(x.shape[-2:]) and windows[0].origin == (0, 0):
        return call.run()
    cache = cache or RunCache()
    conds = [prompt and [with_mask(cond, x, call.sigma) for cond in prompt] for prompt in call.conds]
    batch = windows_per_call(model, conds, x, windows[0].size, batch, cache.batches)
    fusions = [Fusion(x) for _ in conds]
    for group, group_parts in grouped(conds, windows, batch):
        model_management.throw_exception_if_processing_interrupted()
        options = cut_patches(call.options, group, tuple(x.shape[-2:]), len(x), cache.masks)
        results = call.run(
            conds=_cut(conds, Cutter(model, x, group, cache.hints), group_parts),
            x=stack(x, group, len(x)),
            sigma=call.sigma.repeat(len(group)),
            options=options if is_unet(model) else shifted(model, options, group[0]),
        )
        for fusion, result in zip(fusions, results, strict=True):
            for window, window_result in zip(group, result.chunk(len(group)), strict=True):
                fusion.add(window, window_result, weight)
    return [fusion.mean for fusion in fusions]


def _cut(conds: list[list[Cond] | None], cutter: Cutter, group_parts: list[list[Part]]) -> list[list[Cond] | None]:
    """The conditionings for the windows of a group, by prompt."""
    cut: list[list[Cond] | None] = [None if prompt is None else [] for prompt in conds]
    for parts_of_cond in zip(*group_parts, strict=True):
        prompt, index = parts_of_cond[0].prompt, parts_of_cond[0].index
        cut[prompt].append(cutter.cut(conds[prompt][index], parts_of_cond))
    return cut


def grouped(
    conds: list[list[Cond] | None], windows: list[Window], batch: int
) -> Iterator[tuple[list[Window], list[list[Part]]]]:
    """Groups of up to `batch` windows for one call, with the parts in each window.

    The windows of a group hold the same conditionings, with the same areas and boxes.
    """
    alike: dict[tuple, list[tuple[Window, list[Part]]]] = {}
    for window in windows:
        window_parts = parts(conds, window)
        alike.setdefault(tuple(part[:-1] for part in window_parts), []).append((window, window_parts))
    for pairs in alike.values():
        for i in range(0, len(pairs), batch):
            group, group_parts = zip(*pairs[i : i + batch], strict=True)
            yield list(group), list(group_parts)


def is_unet(model: torch.nn.Module) -> bool:
    return isinstance(model.diffusion_model, UNetModel)


def windows_per_call(
    model: torch.nn.Module,
    conds: list[list[Cond] | None],
    x: Tensor,
    size: tuple[int, int],
    batch: int,
    batches: dict[tuple, int],
) -> int:
    """The number of windows in a call. For a transformer it is 1, as a call has one shift of positions (`shifted`).

    Args:
        size: (h, w) of a window.
        batch: As in `evaluate`.
        batches: Of the run's cache.
    """
    if not is_unet(model):
        return 1
    if batch:
        return batch
    rows = len(x) * max(1, sum(len(prompt or ()) for prompt in conds))
    if (rows, size) not in batches:
        batches[rows, size] = _windows_that_fit(model, x, size, rows)
    return batches[rows, size]


def _windows_that_fit(model: torch.nn.Module, x: Tensor, size: tuple[int, int], rows: int) -> int:
    """The most windows that memory holds in one call, MAX_WINDOWS or fewer, each with `rows` rows of the batch."""
    free = model.current_patcher.get_free_memory(x.device)
    for count in range(MAX_WINDOWS, 1, -1):
        if model.memory_required([count * rows, *x.shape[1:-2], *size]) * MARGIN < free:
            return count
    return 1


def shifted(model: torch.nn.Module, model_options: dict[str, Any], window: Window) -> dict[str, Any]:
    """Model options with which a transformer's rotary positions are those of the window in the whole picture.

    ComfyUI's transformers give token i of an axis the position shift + scale i, in tokens (`rope_options`). A window
    that begins at latent pixel `at` begins at token at / patch, so its shift is shift + scale at / patch.
    """
    if window.origin == (0, 0):
        return model_options
    patch = getattr(model.diffusion_model, "patch_size", 1)  # latent pixels to a token
    patch = patch if isinstance(patch, int) else patch[-1]
    options = model_options.get("transformer_options", {})
    rope = dict(options.get("rope_options") or {})
    for axis, at in zip("yx", window.origin, strict=True):
        rope[f"shift_{axis}"] = rope.get(f"shift_{axis}", 0.0) + rope.get(f"scale_{axis}", 1.0) * at / patch
    return {**model_options, "transformer_options": {**options, "rope_options": rope}}


# The patch


def in_latent(model: ModelPatcher, window: int, overlap: int) -> tuple[int, int]:
    """A window and its overlap in latent pixels, rounded, from pixels of the picture.

    Raises:
        ValueError: The overlap is not smaller than the window.
    """
    pixels = pixels_per_latent(model)
    latent_window, latent_overlap = max(1, round(window / pixels)), round(overlap / pixels)
    if latent_overlap >= latent_window:
        raise ValueError(overlap_error(window, overlap))
    return latent_window, latent_overlap


class Plan(NamedTuple):
    """A rule for where windows lie on a latent.

    Attributes:
        method: One of METHODS.
        size, overlap: In latent pixels.
        jitter: Whether windows inside the picture move at random.
        seed: Of the jitter, and of the windows of spot.
    """

    method: str
    size: int
    overlap: int
    jitter: bool
    seed: int

    @property
    def moves(self) -> bool:
        """Whether the windows differ from step to step."""
        return self.jitter or self.method == "spot"

    def windows(self, height: int, width: int, sigma: float) -> list[Window]:
        """The windows on a latent of (height, width) at a noise level.

        Moving windows are drawn from the seed and the noise level alone. So every run has the same windows, and so has
        every evaluation of a sampler at the same level.
        """
        digest = hashlib.blake2b(struct.pack("<Qd", self.seed, sigma), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        size = self.size, self.size
        if self.method == "spot":
            return tiles.rolled(height, width, size, generator)
        return tiles.grid(height, width, size, self.overlap, generator if self.jitter else None)


@dataclass
class Windowed:
    """The denoiser of Windowed Diffusion.

    Attributes:
        plan: Of the windows.
        batch: Windows in a call; 0 = as many as memory allows.
        cache: Cleared after each run.
    """

    plan: Plan
    batch: int
    cache: RunCache = field(default_factory=RunCache)

    def wrap(self, *args: Any) -> list[Tensor]:
        """A wrapper of CALC_COND_BATCH."""
        call = Call(*args)
        windows = self.plan.windows(*call.x.shape[-2:], call.sigma[0].item())
        if len(windows) > 1 and self.plan.moves:
            refuse_easycache(call.options, NODE, "Choose the method average or gaussian with jitter off")
        weight = (tiles.gaussian if self.plan.method == "gaussian" else tiles.uniform)(*windows[0].size)
        return evaluate(call, windows, weight, self.batch, self.cache)

    def shown(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) of a window on a latent of (height, width)."""
        return min(height, self.plan.size), min(width, self.plan.size)


def attach_denoiser(model: ModelPatcher, denoiser: Windowed, node: str = NODE) -> ModelPatcher:
    """A clone of the model with a denoiser in windows, which replaces an earlier one.

    Args:
        denoiser: An object with Windowed's wrap, shown, batch and cache.
        node: The node's display name, for messages.
    """
    wrappers = {
        WrappersMP.CALC_COND_BATCH: denoiser.wrap,
        WrappersMP.PREPARE_SAMPLING: partial(_prepare, denoiser),
        WrappersMP.OUTER_SAMPLE: partial(_sample, denoiser, node),
    }
    return attach(model, KEY, wrappers)


def _prepare(
    denoiser: Windowed, executor: WrapperExecutor, model: ModelPatcher, noise_shape: Any, *args: Any, **kwargs: Any
) -> Any:
    """A wrapper of PREPARE_SAMPLING: ComfyUI frees memory for the windows of one call instead of the whole latent."""
    batch, *channels, height, width = noise_shape
    shape = [batch * max(1, denoiser.batch), *channels, *denoiser.shown(height, width)]
    return executor(model, shape, *args, **kwargs)


def _sample(
    denoiser: Windowed, node: str, executor: WrapperExecutor, noise: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """A wrapper of OUTER_SAMPLE: moves the windows after all other wrappers of CALC_COND_BATCH.

    So other wrappers run once for a step, not once for a window: a cache decides once for all windows.
    """
    if noise.ndim not in (4, 5):
        raise ValueError(
            f"{node} got a latent of shape {tuple(noise.shape)}, and needs one of pictures or of a video: (batch, "
            "channels, height, width) or (batch, channels, frames, height, width). Sample this latent without it."
        )
    guider, size = executor.class_obj, tuple(noise.shape[-2:])
    if denoiser.shown(*size) != size:
        refuse_whole_pictures(guider.model_options, [cond for conds in guider.conds.values() for cond in conds], node)
    wrappers = guider.model_options["transformer_options"]["wrappers"][WrappersMP.CALC_COND_BATCH]
    wrappers[KEY] = wrappers.pop(KEY)  # the options are the run's own copy
    try:
        return executor(noise, *args, **kwargs)
    finally:
        denoiser.cache.clear()


def refuse_easycache(model_options: dict[str, Any], node: str, advice: str) -> None:
    """Refuses ComfyUI's EasyCache, which stores a result for each window: windows that move never come back to it.

    Args:
        node: The node's display name, for the message.
        advice: What to do, for the message.

    Raises:
        ValueError: EasyCache is on the model.
    """
    cache = model_options.get("transformer_options", {}).get("easycache")
    if getattr(cache, "name", None) == "EasyCache":
        raise ValueError(
            f"{node} moves its windows at each step, but EasyCache on the same model reuses results of windows that "
            f"stay. {advice}, or use LazyCache."
        )


def apply(
    model: ModelPatcher, method: str, window: int, overlap: int, jitter: bool, seed: int, batch: int
) -> ModelPatcher:
    """A clone of the model that denoises in windows. Patching twice replaces the first patch.

    Args:
        method: One of METHODS.
        window, overlap: In pixels of the picture; they are rounded to whole latent pixels.
        jitter, seed: As in Plan.
        batch: Windows in a call; 0 = as many as memory allows.

    Raises:
        ValueError: The overlap is not smaller than the window.
    """
    size, latent_overlap = in_latent(model, window, 0 if method == "spot" else overlap)
    return attach_denoiser(model, Windowed(Plan(method, size, latent_overlap, jitter, seed), batch))


def overlap_error(window: int, overlap: int) -> str:
    """The sentence for an overlap that is not smaller than the window. Both in pixels of the picture."""
    return (
        f"overlap is {overlap} px and window {window} px. The overlap must be smaller than the window: a quarter of it "
        "is usual, half of it the most that helps."
    )
