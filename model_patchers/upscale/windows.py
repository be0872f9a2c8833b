"""Diffusion in windows: the denoiser sees a picture of any size in windows of the size it knows, and what it makes of
them is fused at every evaluation. Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image
Generation", with the gaussian weights of Mixture of Diffusers (Jimenez 2023) or the windows of SpotDiffusion (Frolov et
al. 2024) that lie side by side and roll from step to step.

The windows are cut where the host computes its conditionings, so areas, masks, ControlNets, hooks and batching are the
host's own in each window.
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

KEY = "pentimento_windows"
NODE = "Windowed Diffusion"
METHODS = ("average", "gaussian", "spot")
LARGEST = 16  # windows in a call where memory decides: more make it no faster
SPARE = 1.5  # the host's own margin for what a call takes


@dataclass
class Kept:
    """What is kept from call to call, for one run.

    Attributes:
        hints: ControlNets' hints, as large as the whole picture.
        numbers: How many windows go into a call, by rows and size: the same all along, for the sake of caches.
    """

    hints: Hints = field(default_factory=dict)
    numbers: dict[tuple, int] = field(default_factory=dict)

    def clear(self) -> None:
        self.hints.clear()
        self.numbers.clear()


def evaluate(
    call: Call, windows: list[Window], weight: Tensor, batch: int = 0, kept: Kept | None = None
) -> list[Tensor]:
    """The mean of what the model makes of each window (MultiDiffusion, equation 5): a tensor like x for each prompt.

    `D(x) = sum_i F_i^-1(w D(F_i x)) / sum_i F_i^-1(w)`, F_i x what window i shows of x.

    Args:
        call: Of a wrapper of CALC_COND_BATCH.
        windows: All of one size, and together all of x.
        weight: w, (h, w) of a window's pixels in the mean, above 0.
        batch: Windows in a call; 0 = as many as memory allows.
        kept: Made once for a run, and cleared after it.
    """
    model, x = call.model, call.x
    if len(windows) == 1 and windows[0].size == tuple(x.shape[-2:]) and windows[0].origin == (0, 0):
        return call.run()
    kept = kept or Kept()
    conds = [prompt and [with_mask(cond, x, call.sigma) for cond in prompt] for prompt in call.conds]
    number = per_call(model, conds, x, windows[0].size, batch, kept.numbers)
    fusions = [Fusion(x) for _ in conds]
    for group, group_parts in grouped(conds, windows, number):
        model_management.throw_exception_if_processing_interrupted()
        cutter = Cutter(model, x, group, kept.hints)
        cut: list[list[Cond] | None] = [None if prompt is None else [] for prompt in conds]
        for same in zip(*group_parts, strict=True):
            entry, index = same[0].entry, same[0].index
            cut[entry].append(cutter.cut(conds[entry][index], same))
        options = call.options if is_unet(model) else shifted(model, call.options, group[0])
        results = call.run(conds=cut, x=stack(x, group, len(x)), sigma=call.sigma.repeat(len(group)), options=options)
        for fusion, result in zip(fusions, results, strict=True):
            for window, part in zip(group, result.chunk(len(group)), strict=True):
                fusion.add(window, part, weight)
    return [fusion.value for fusion in fusions]


def grouped(
    conds: list[list[Cond] | None], windows: list[Window], number: int
) -> Iterator[tuple[list[Window], list[list[Part]]]]:
    """Windows for one call, with the parts of each: as many as `number`, in which the same conditionings lie alike."""
    alike: dict[tuple, list[tuple[Window, list[Part]]]] = {}
    for window in windows:
        found = parts(conds, window)
        alike.setdefault(tuple(part[:-1] for part in found), []).append((window, found))
    for some in alike.values():
        for i in range(0, len(some), number):
            group, found = zip(*some[i : i + number], strict=True)
            yield list(group), list(found)


def is_unet(model: torch.nn.Module) -> bool:
    return isinstance(model.diffusion_model, UNetModel)


def per_call(
    model: torch.nn.Module,
    conds: list[list[Cond] | None],
    x: Tensor,
    size: tuple[int, int],
    batch: int,
    known: dict[tuple, int],
) -> int:
    """How many windows go into a call. One into that of a transformer, which is told where its window lies."""
    if batch or not is_unet(model):
        return batch if is_unet(model) else 1
    rows = len(x) * max(1, sum(len(some or ()) for some in conds))
    if (rows, size) not in known:
        free = model.current_patcher.get_free_memory(x.device)
        fits = (
            v for v in range(LARGEST, 1, -1) if model.memory_required([v * rows, *x.shape[1:-2], *size]) * SPARE < free
        )
        known[rows, size] = next(fits, 1)
    return known[rows, size]


def shifted(model: torch.nn.Module, model_options: dict[str, Any], window: Window) -> dict[str, Any]:
    """Has a transformer with rotary positions count the window's from where it lies in the picture."""
    if window.origin == (0, 0):
        return model_options
    patch = getattr(model.diffusion_model, "patch_size", 1)
    patch = patch if isinstance(patch, int) else patch[-1]
    options = model_options.get("transformer_options", {})
    rope = dict(options.get("rope_options") or {})
    for axis, at in zip("yx", window.origin, strict=True):
        rope[f"shift_{axis}"] = rope.get(f"shift_{axis}", 0.0) + rope.get(f"scale_{axis}", 1.0) * at / patch
    return {**model_options, "transformer_options": {**options, "rope_options": rope}}


# The patch


def in_latent(model: ModelPatcher, window: int, overlap: int) -> tuple[int, int]:
    """A window and its overlap, given in pixels, in whole latent pixels.

    Raises:
        ValueError: The overlap is not smaller than the window.
    """
    pixels = pixels_per_latent(model)
    size, shared = max(1, round(window / pixels)), round(overlap / pixels)
    if shared >= size:
        raise ValueError(overlap_error(window, overlap))
    return size, shared


class Plan(NamedTuple):
    """Where the windows lie.

    Attributes:
        size, overlap: In latent pixels.
        seed: Of jitter, and of spot's windows.
    """

    method: str
    size: int
    overlap: int
    jitter: bool
    seed: int

    @property
    def moves(self) -> bool:
        return self.jitter or self.method == "spot"

    def windows(self, height: int, width: int, sigma: float) -> list[Window]:
        """The windows at a noise level.

        Where they move, they are drawn from the seed and the level, so that they are the same in every run and, in
        every sampler, whenever it evaluates at that level.
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
        batch: Windows in a call; 0 = as many as memory allows.
        kept: For the run alone.
    """

    plan: Plan
    batch: int
    kept: Kept = field(default_factory=Kept)

    def wrap(self, *args: Any) -> list[Tensor]:
        """A wrapper of CALC_COND_BATCH."""
        call = Call(*args)
        windows = self.plan.windows(*call.x.shape[-2:], call.sigma[0].item())
        if len(windows) > 1 and self.plan.moves:
            refuse_easycache(call.options, NODE, "Choose the method average or gaussian with jitter off")
        weight = (tiles.gaussian if self.plan.method == "gaussian" else tiles.uniform)(*windows[0].size)
        return evaluate(call, windows, weight, self.batch, self.kept)

    def shown(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the model is shown of a latent."""
        return min(height, self.plan.size), min(width, self.plan.size)


def put_on(model: ModelPatcher, denoiser: Windowed) -> ModelPatcher:
    """The model with a denoiser in windows, in the place of any that it had.

    Args:
        denoiser: With wrap, shown, batch and kept as Windowed has them.
    """
    wrappers = {
        WrappersMP.CALC_COND_BATCH: denoiser.wrap,
        WrappersMP.PREPARE_SAMPLING: partial(_prepare, denoiser),
        WrappersMP.OUTER_SAMPLE: partial(_sample, denoiser.kept),
    }
    return attach(model, KEY, wrappers)


def _prepare(
    denoiser: Windowed, executor: WrapperExecutor, model: ModelPatcher, noise_shape: Any, *args: Any, **kwargs: Any
) -> Any:
    """A wrapper of PREPARE_SAMPLING: memory is made free for the windows of one call, and not for all of x."""
    batch, *channels, height, width = noise_shape
    shape = [batch * max(1, denoiser.batch), *channels, *denoiser.shown(height, width)]
    return executor(model, shape, *args, **kwargs)


def _sample(kept: Kept, executor: WrapperExecutor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A wrapper of OUTER_SAMPLE. The windows come after all other wrappers, so that a cache is asked once for all
    windows of a step and what is computed for a step is computed once.
    """
    if noise.ndim not in (4, 5):
        raise ValueError(
            f"{NODE} got a latent of shape {tuple(noise.shape)}, and needs one of pictures or of a video: (batch, "
            "channels, height, width) or (batch, channels, frames, height, width). Sample this latent without it."
        )
    wrappers = executor.class_obj.model_options["transformer_options"]["wrappers"][WrappersMP.CALC_COND_BATCH]
    wrappers[KEY] = wrappers.pop(KEY)  # in the run's own copy of the options
    try:
        return executor(noise, *args, **kwargs)
    finally:
        kept.clear()


def refuse_easycache(model_options: dict[str, Any], node: str, advice: str) -> None:
    """
    Args:
        node: The node's display name, for the message.
        advice: What to do, for the message.

    Raises:
        ValueError: The host's EasyCache is on the model. It keeps a result for each window, and these never come back.
    """
    cache = model_options.get("transformer_options", {}).get("easycache")
    if getattr(cache, "name", None) == "EasyCache":
        raise ValueError(
            f"{node} moves its windows at each step, and EasyCache on the same model reuses what it knows of windows "
            f"that stay. {advice}, or use LazyCache."
        )


def apply(
    model: ModelPatcher, method: str, window: int, overlap: int, jitter: bool, seed: int, batch: int
) -> ModelPatcher:
    """The model, computed in windows. A second one on the same model takes its place.

    Args:
        method: One of METHODS.
        window, overlap: In pixels of the picture; they are rounded to whole latent pixels.

    Raises:
        ValueError: The overlap is not smaller than the window.
    """
    size, shared = in_latent(model, window, 0 if method == "spot" else overlap)
    return put_on(model, Windowed(Plan(method, size, shared, jitter, seed), batch))


def overlap_error(window: int, overlap: int) -> str:
    return (
        f"overlap is {overlap} px and window {window} px. The overlap must be smaller than the window: a quarter of it "
        "is usual, half of it the most that helps."
    )
