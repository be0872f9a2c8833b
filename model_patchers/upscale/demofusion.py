"""The phases of DemoFusion (Du et al., CVPR 2024, arXiv 2311.16973, section 3.1).

The first phase samples a picture at the size that the model was trained for. Each later phase enlarges the picture,
adds noise and denoises it again, held to the enlarged picture by the skip residual.

Each phase is a run of ComfyUI's own sampling, which encodes sizes, areas, masks and ControlNets for the phase.
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
from ..pixels import checks
from .demofusion_denoiser import NODE, Denoiser, Moments, moments, renormalised
from .iterative_mixing import IterativeMixing, iterative_mixing
from .window_patches import refuse_whole_pictures
from .windows import Plan, attach_denoiser, in_latent, overlap_error

LADDERS: dict[str, Callable[[float], list[float]]] = {
    "every multiple": lambda scale: [float(k) for k in range(2, math.ceil(scale))],
    "doubling": lambda scale: [2.0**k for k in range(1, math.ceil(math.log2(scale)))],
    "one": lambda scale: [],
}


class Settings(NamedTuple):
    """The inputs of DemoFusion Upscale with the same names. `window` and `overlap` are in pixels of the picture."""

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
        """The scales of the phases after the base."""
        return [*LADDERS[self.phases](self.scale), self.scale]

    def later(self, sigmas: Tensor) -> Tensor:
        """The part of the schedule that each phase after the base samples: at least the last step."""
        steps = len(sigmas) - 1
        return sigmas[min(round(steps * (1 - self.start)), steps - 1) :]

    def problem(self) -> str | None:
        """A sentence about settings that cannot be used."""
        if self.scale < 1:
            return (
                f"scale is {self.scale:g}. {NODE} enlarges pictures and needs a scale of 1 or more: 2 makes them twice "
                "as wide and high."
            )
        return overlap_error(self.window, self.overlap) if self.overlap >= self.window else None

    def denoiser(self, model: ModelPatcher, scale: float, seed: int) -> Denoiser:
        """The denoiser of the phase of this scale.

        Raises:
            ValueError: In latent pixels, the overlap is not smaller than the window.
        """
        size, latent_overlap = in_latent(model, self.window, self.overlap)
        return Denoiser(
            plan=Plan("average", size, latent_overlap, self.jitter, seed),
            s=math.ceil(scale),
            dilated=self.dilated,
            blur=self.blur,
            sigma=self.sigma,
            skip_below=self.skip_below,
        )


class Phase(NamedTuple):
    """A phase to sample.

    Attributes:
        size: (H, W) of its latent.
        work: The latent pixels that the model computes in each step.
    """

    model: ModelPatcher
    sampler: Sampler
    sigmas: Tensor
    seed: int
    size: tuple[int, int]
    work: list[int]


def relocated(conditioning: Conditioning, base: tuple[int, int], size: tuple[int, int]) -> Conditioning:
    """A conditioning whose areas and GLIGEN boxes cover the same part of a larger latent.

    ComfyUI computes areas in percent and masks for the latent that it samples. Areas and boxes in latent pixels would
    stay where they were.

    Args:
        base: (H, W) of the latent for which the areas and boxes were made.
        size: (H, W) of the latent that is sampled.
    """

    def area(place: tuple) -> tuple:
        """A place (..., height, width, ..., top, left), rounded as ComfyUI rounds an area in percent."""
        n, scale = len(place) // 2, [(new, old) for old, new in zip(base, size, strict=True)]
        sides = [max(1, round(at / old * new)) for at, (new, old) in zip(place[n - 2 : n], scale, strict=True)]
        corner = [round(at / old * new) for at, (new, old) in zip(place[-2:], scale, strict=True)]
        return (*place[: n - 2], *sides, *place[n:-2], *corner)

    def values_for(values: dict) -> dict:
        changed = {}
        if "area" in values and values["area"][0] != "percentage":
            changed["area"] = area(values["area"])
        if "gligen" in values:
            kind, gligen, boxes = values["gligen"]
            changed["gligen"] = (kind, gligen, [(embedding, *area(box)) for embedding, *box in boxes])
        return {**values, **changed}

    return [[text, values_for(values)] for text, values in conditioning]


def resized(x: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resizes each channel and frame: (..., H, W) -> (..., *size)."""
    return F.interpolate(x.reshape(-1, 1, *x.shape[-2:]), size=size, mode=mode).reshape(*x.shape[:-2], *size)


@dataclass
class Run:
    """The sampling of all phases, with the inputs that they share.

    Attributes:
        base: The node's latent, of the base's size.
    """

    positive: Conditioning
    negative: Conditioning
    cfg: float
    base: Tensor
    batch_index: list[int] | None
    mask: Tensor | None
    preview: Preview

    def sample(self, phase: Phase, x: Tensor) -> Tensor:
        """Samples a phase from x, (B, C, H, W) or (B, C, 1, H, W), as ComfyUI's SamplerCustom does."""
        noise = comfy.sample.prepare_noise(x, phase.seed, self.batch_index)
        return comfy.sample.sample_custom(
            phase.model,
            noise,
            self.cfg,
            phase.sampler,
            phase.sigmas,
            *(relocated(prompt, tuple(self.base.shape[-2:]), phase.size) for prompt in (self.positive, self.negative)),
            x,
            noise_mask=self.mask,
            callback=self.preview.run(phase.work),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=phase.seed,
        )

    def enlarge(self, phase: Phase, x: Tensor, anchor: Moments) -> Tensor:
        """Enlarges x, the result of the phase before, to a phase's size, and samples the phase.

        The part that the mask keeps is the base, enlarged in one step.

        Args:
            anchor: Moments of the base, to which the result is renormalised.
        """
        x = resized(x.float(), phase.size)
        if self.mask is None:
            return renormalised(self.sample(phase, x).float(), anchor)
        mask = comfy.utils.reshape_mask(self.mask, x.shape).to(x)
        x = torch.lerp(resized(self.base.float(), phase.size), x, mask)
        x = self.sample(phase, x).float()
        return torch.lerp(x, renormalised(x, anchor), mask)


def pictures(model: ModelPatcher, latent: Latent) -> Tensor:
    """The samples of a latent of pictures. An empty latent gets the model's channels, as in ComfyUI's samplers.

    Raises:
        ValueError: The latent holds a video, sound or several latents, is another model's, or `checks.latent` refuses
            it.
    """
    samples = latent["samples"]
    if not samples.is_nested:
        ratios = (latent.get(f"downscale_ratio_{which}") for which in ("spacial", "temporal"))
        samples = comfy.sample.fix_empty_latent_channels(model, checks.latent(samples, "latent"), *ratios)
        channels = model.get_model_object("latent_format").latent_channels
        if samples.shape[1] != channels:
            raise ValueError(
                f"latent has {samples.shape[1]} channels, but this model's latents have {channels}. {NODE} needs a "
                "latent from the VAE of the model."
            )
        if samples.ndim == 4 or samples.ndim == 5 and samples.shape[2] == 1:
            return samples
    content = "several latents in one" if samples.is_nested else f"one of shape {tuple(samples.shape)}"
    raise ValueError(
        f"latent is {content}, of a video or of sound. {NODE} enlarges pictures: connect a latent of (batch, channels, "
        "height, width), or of one frame."
    )


def plan(
    model: ModelPatcher, sampler: Sampler, sigmas: Tensor, noise_seed: int, settings: Settings, base: Tensor
) -> list[Phase]:
    """The phases to sample. The base is the first of them if `base` is empty.

    Args:
        base: The node's latent, all 0 if empty.

    Raises:
        ValueError: As Settings.denoiser and iterative_mixing.
    """
    held = iterative_mixing(sampler, settings.residual, Interval(0, 1), NODE)
    size, empty = tuple(base.shape[-2:]), not base.any()
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
        phases.append(Phase(attach_denoiser(model, denoiser, NODE), held, later, seed, larger, work))
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
    """The latents of all phases: the base first, the result last.

    Args:
        sigmas: (steps + 1,), the schedule of every phase.
        latent: The latent of a picture is the base. If the latent is empty, ComfyUI samples the base.
        noise_seed: Of the base. Each later phase has the next seed.

    Raises:
        ValueError: The settings, the sampler or the latent cannot be used, the schedule has no steps, a conditioning
            holds a picture for a latent of another size, or a patch holds a picture that cannot be cut to windows.
    """
    if problem := settings.problem():
        raise ValueError(problem)
    if len(sigmas) < 2:
        raise ValueError(f"sigmas has no steps. {NODE} needs a schedule of one or more, such as BasicScheduler's.")
    base = pictures(model, latent).to(model_management.intermediate_device())  # as the results of sampling
    phases = plan(model, sampler, sigmas, noise_seed, settings, base)
    for phase in phases:
        for prompt in (positive, negative):
            check_now(model, prompt, torch.Size((*base.shape[:-2], *phase.size)))
    if settings.scale > 1:
        refuse_whole_pictures(model.model_options, [values for _, values in (*positive, *negative)], NODE)
    preview = Preview(model, sum(sum(phase.work) for phase in phases), tuple(base.shape[-2:]))
    mask = latent.get("noise_mask")
    mask = None if mask is None else checks.mask(mask, "The mask of latent")
    run = Run(positive, negative, cfg, base, latent.get("batch_index"), mask, preview)
    results = [base if base.any() else run.sample(phases.pop(0), base)]
    anchor = moments(results[0].float())
    for phase in phases:
        results.append(run.enlarge(phase, results[-1], anchor))
    rest = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
    return [{**rest, "samples": x.to(model_management.intermediate_dtype())} for x in results]
