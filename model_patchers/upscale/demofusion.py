"""The phases of DemoFusion (Du et al., CVPR 2024, arXiv 2311.16973, section 3.1): a picture at the size that a model
knows, then enlarged, noised and denoised anew, held to what it was, at one size after the other.

Each phase is a run of the host's own sampling, which encodes sizes, areas, masks and ControlNets for that phase.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import comfy.sample
import comfy.utils
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.samplers import Sampler
from torch import Tensor
from torch.nn import functional as F

from ..comfyui import schedule
from ..comfyui.conditioning import Conditioning, Latent, check_now
from ..comfyui.progress import Preview
from ..comfyui.schedule import Interval
from .demofusion_denoiser import NODE, Denoiser, Moments, moments, renormalised
from .iterative_mixing import IterativeMixing, iterative_mixing
from .windows import Plan, in_latent, overlap_error, put_on

LADDERS: dict[str, Callable[[float], list[float]]] = {
    "every multiple": lambda scale: [float(k) for k in range(2, math.ceil(scale))],
    "doubling": lambda scale: [2.0**k for k in range(1, math.ceil(math.log2(scale)))],
    "one": lambda scale: [],
}


class Settings(NamedTuple):
    """The node's inputs of the same names. `window` and `overlap` are in pixels of the picture."""

    scale: float = 2.0
    phases: str = "every multiple"
    window: int = 1024
    overlap: int = 512
    jitter: bool = True
    residual: float = 3.0
    dilated: float = 1.0
    blur: float = 1.0
    sigma: float = 0.8
    skip_below: float = 0.01
    start: float = 1.0

    @property
    def ladder(self) -> list[float]:
        """The phases after the base, by their scale."""
        return [*LADDERS[self.phases](self.scale), self.scale]

    def later(self, sigmas: Tensor) -> Tensor:
        """The part of the schedule that phases after the base run through; at least the last step."""
        steps = len(sigmas) - 1
        return sigmas[min(round(steps * (1 - self.start)), steps - 1) :]

    def problem(self) -> str | None:
        """What is wrong with them, as a sentence."""
        if self.scale < 1:
            return (
                f"scale is {self.scale:g}. {NODE} makes pictures larger, and needs a scale of 1 or more: 2 makes them "
                "twice as wide and high."
            )
        return overlap_error(self.window, self.overlap) if self.overlap >= self.window else None

    def denoiser(self, model: ModelPatcher, scale: float, seed: int) -> Denoiser:
        """
        Raises:
            ValueError: In latent pixels, the overlap is not smaller than the window.
        """
        size, shared = in_latent(model, self.window, self.overlap)
        mix = {"dilated": self.dilated, "blur": self.blur, "sigma": self.sigma, "skip_below": self.skip_below}
        return Denoiser(plan=Plan("average", size, shared, self.jitter, seed), s=math.ceil(scale), **mix)


class Phase(NamedTuple):
    """A phase that is to be sampled.

    Attributes:
        work: Of each step, in latent pixels that the model is shown.
    """

    model: ModelPatcher
    sampler: Sampler
    sigmas: Tensor
    seed: int
    size: tuple[int, int]
    work: list[int]


def resized(x: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """(..., H, W) -> (..., *size), each channel and frame alone."""
    return F.interpolate(x.reshape(-1, 1, *x.shape[-2:]), size=size, mode=mode).reshape(*x.shape[:-2], *size)


@dataclass
class Run:
    """What all phases have in common.

    Attributes:
        given: The latent that went in, at the base's size.
    """

    positive: Conditioning
    negative: Conditioning
    cfg: float
    given: Tensor
    batch_index: list[int] | None
    mask: Tensor | None
    preview: Preview

    def sample(self, phase: Phase, x: Tensor) -> Tensor:
        """A whole run of the host's from x, (B, C, H, W) or (B, C, 1, H, W), as SamplerCustom does it."""
        noise = comfy.sample.prepare_noise(x, phase.seed, self.batch_index)
        return comfy.sample.sample_custom(
            phase.model,
            noise,
            self.cfg,
            phase.sampler,
            phase.sigmas,
            self.positive,
            self.negative,
            x,
            noise_mask=self.mask,
            callback=self.preview.run(phase.work),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=phase.seed,
        )

    def enlarge(self, phase: Phase, x: Tensor, anchor: Moments) -> Tensor:
        """The next larger picture. What the mask keeps is the given latent, enlarged at once and by nothing else."""
        x = resized(x.float(), phase.size)
        if self.mask is None:
            return renormalised(self.sample(phase, x).float(), anchor)
        mask = comfy.utils.reshape_mask(self.mask, x.shape).to(x)
        x = torch.lerp(resized(self.given.float(), phase.size), x, mask)
        x = self.sample(phase, x).float()
        return torch.lerp(x, renormalised(x, anchor), mask)


def pictures(model: ModelPatcher, latent: Latent) -> Tensor:
    """The latent's samples, an empty one's shaped as the model needs them, as the host's samplers do.

    Raises:
        ValueError: They are no pictures.
    """
    samples = latent["samples"]
    if not samples.is_nested:
        ratios = (latent.get(f"downscale_ratio_{which}") for which in ("spacial", "temporal"))
        samples = comfy.sample.fix_empty_latent_channels(model, samples, *ratios)
        if samples.ndim == 4 or samples.ndim == 5 and samples.shape[2] == 1:
            return samples
    found = "several latents in one" if samples.is_nested else f"one of shape {tuple(samples.shape)}"
    raise ValueError(
        f"latent is {found}, of a video or of sound. {NODE} enlarges pictures: give it a latent of (batch, channels, "
        "height, width), or of one frame."
    )


def plan(
    model: ModelPatcher, sampler: Sampler, sigmas: Tensor, noise_seed: int, settings: Settings, given: Tensor
) -> list[Phase]:
    """The phases to sample. The base is among them where the given latent is empty.

    Raises:
        ValueError: As Settings.denoiser and iterative_mixing.
    """
    held = iterative_mixing(sampler, settings.residual, Interval(0, 1), NODE)
    size, empty = tuple(given.shape[-2:]), not given.any()
    phases = []
    if empty:
        free = sampler.base if isinstance(sampler, IterativeMixing) else sampler
        phases.append(Phase(model, free, sigmas, noise_seed, size, [math.prod(size)] * (len(sigmas) - 1)))
    later, sampling = settings.later(sigmas), model.get_model_object("model_sampling")
    lefts = [schedule.left(sampling, sigma[None]) for sigma in later[:-1]]
    for index, scale in enumerate(settings.ladder, 1):
        if scale == 1 and empty:
            continue
        seed = (noise_seed + index) % 2**64
        denoiser = settings.denoiser(model, scale, seed)
        larger = tuple(math.floor(side * scale + 0.5) for side in size)
        work = [denoiser.work(*larger, left) for left in lefts]
        phases.append(Phase(put_on(model, denoiser), held, later, seed, larger, work))
    return phases


def demofusion(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    sampler: Sampler,
    sigmas: Tensor,
    latent: Latent,
    cfg: float,
    noise_seed: int,
    settings: Settings,
) -> list[Latent]:
    """The latents of all phases, of which the first is the base and the last the result.

    Args:
        sigmas: (steps + 1,), of every phase.
        latent: A picture's is the base; from an empty one the base is sampled as by the host.
        noise_seed: Of the base. Each later phase has the next.

    Raises:
        ValueError: The settings, the sampler or the latent cannot be used, there are no steps, or a conditioning holds
            a picture for one size alone.
    """
    if problem := settings.problem():
        raise ValueError(problem)
    if len(sigmas) < 2:
        raise ValueError(f"sigmas has no steps. {NODE} needs a schedule of one or more, such as BasicScheduler's.")
    given = pictures(model, latent).to(model_management.intermediate_device())  # where sampling leaves its results
    phases = plan(model, sampler, sigmas, noise_seed, settings, given)
    for phase in phases:
        for prompt in (positive, negative):
            check_now(model, prompt, torch.Size((*given.shape[:-2], *phase.size)))
    preview = Preview(model, sum(sum(phase.work) for phase in phases), tuple(given.shape[-2:]))
    run = Run(positive, negative, cfg, given, latent.get("batch_index"), latent.get("noise_mask"), preview)
    found = [given if given.any() else run.sample(phases.pop(0), given)]
    anchor = moments(found[0].float())
    for phase in phases:
        found.append(run.enlarge(phase, found[-1], anchor))
    rest = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
    return [{**rest, "samples": x.to(model_management.intermediate_dtype())} for x in found]
