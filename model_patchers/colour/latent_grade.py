"""A grade of the picture while it is sampled, in latents.

The rule "calibrated" counts in the colours of ComfyUI's preview, R = W^T z + b, where W (channels, 3) are the latent
format's latent_rgb_factors, and black is -1 and white 1. Of all changes of z that change R by d, the smallest is P d
with P = W (W^T W)^-1.

Let a denoiser's noise not react: the network's output stays, so that the prediction moves as x does. A change d_i of
the prediction at step i then moves the result of Euler's method by d_i m_i with m_i = 1 - sigma_(i+1) / sigma_i. A step
of weight w_i gets the change p_i d with p_i = w_i / sum_j w_j m_j, and the whole run gets d, whatever its number of
steps. In the same way the factor 1 + k_i with k_i = (f^(p_i m_i) - 1) / m_i of each step multiplies the whole by f.

The rule "vectorscope" is the extension's own: `vectorscope`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from comfy import latent_formats, utils
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider
from torch import Tensor

from ..comfyui import schedule
from . import vectorscope
from .vectorscope import Grade

NODE, BRACKETS = "Latent Grade", "Grade Brackets"
RULES = ("calibrated", "vectorscope")
EDITS = ("denoised", "input")
LEAST = 0.01  # of contrast and saturation: the last percent cannot be taken away in a few steps
LUMA = (0.2126, 0.7152, 0.0722)  # of red, green and blue: Rec. 709
SCOPED = (latent_formats.SD15, latent_formats.SDXL, latent_formats.SDXL_Playground_2_5)  # 4 channels, c0 lightness
CALIBRATED_GAP = 0.1  # brightness of a gap of 1 by the rule "calibrated": about what the other rule gives with SD 1.5


class Colours(NamedTuple):
    """How a latent format's preview sees latents.

    Attributes:
        factors: W, (C, 3).
        bias: b, (3,).
        inverse: P, (C, 3).
        reshape: From the latents to those with C channels, which moves values alone; None: they are the same.
    """

    factors: Tensor
    bias: Tensor
    inverse: Tensor
    reshape: Callable[[Tensor], Tensor] | None

    @classmethod
    def of(cls, latent_format: latent_formats.LatentFormat, node: str) -> "Colours":
        """Those of a format; `node` is a display name, for the message.

        Raises:
            ValueError: ComfyUI knows no colours of this format.
        """
        if latent_format.latent_rgb_factors is None:
            raise ValueError(
                f"{node}: ComfyUI has no preview colours for the latents of this model "
                f"({type(latent_format).__name__}), so the rule calibrated cannot grade them. Use a model that has, "
                f"such as SD 1.5, SDXL, Flux or Wan, or remove {node} and grade the finished picture."
            )
        factors = torch.tensor(latent_format.latent_rgb_factors, dtype=torch.float64)
        bias = torch.tensor(latent_format.latent_rgb_factors_bias or (0.0, 0.0, 0.0), dtype=torch.float64)
        inverse = torch.linalg.pinv(factors).T
        return cls(factors.float(), bias.float(), inverse.float(), latent_format.latent_rgb_factors_reshape)

    def shifted(self, z: Tensor, shift: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents whose preview is changed by shift(preview): (B, C, ...) -> the same.

        Args:
            shift: (B, 3, ...) -> (B, 3, ...).
        """
        if self.reshape is None:
            return self._shifted(z, shift)
        places = torch.arange(z[:1].numel(), device=z.device).reshape(z[:1].shape)
        places = self.reshape(places).flatten()
        seen = self._shifted(self.reshape(z), shift)
        result = torch.empty_like(z).flatten(1)
        result[:, places] = seen.flatten(1)
        return result.reshape(z.shape)

    def _shifted(self, z: Tensor, shift: Callable[[Tensor], Tensor]) -> Tensor:
        values = z.float()
        bias = self.bias.to(z.device).reshape(1, 3, *[1] * (z.ndim - 2))
        rgb = _mixed(values, self.factors) + bias
        return (values + _mixed(shift(rgb), self.inverse.T)).to(z)


def _mixed(x: Tensor, weights: Tensor) -> Tensor:
    """Channels of x (B, C, ...) as sums with `weights` (C, D): (B, D, ...)."""
    return (x.movedim(1, -1) @ weights.to(x.device)).movedim(-1, 1)


def shares(sigmas: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """p and m for each step: sigmas (T + 1,) -> (T,), (T,).

    A run of one step has all its weight there. A run that adds noise step by step (Flip Sigmas) gets no grade.

    Args:
        name: Of the schedule.
    """
    steps = len(sigmas) - 1
    if sigmas[0] < sigmas[-1]:
        return sigmas.new_zeros(steps), sigmas.new_ones(steps)
    w = sigmas.new_tensor([vectorscope.weight(name, step, steps) if steps > 1 else 1.0 for step in range(steps)])
    m = 1 - sigmas[1:] / sigmas[:-1]
    return w / (w * m).sum(), m


def gains(p: Tensor, m: Tensor, factor: float) -> Tensor:
    """k for each step: (T,), (T,) -> (T,). A factor below LEAST counts as LEAST."""
    log = math.log(max(factor, LEAST))
    return torch.where(m > 0, torch.expm1(p * m * log) / m, p * log)


def change(rgb: Tensor, grade: Grade, p: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """By how much a step changes colours: (B, 3, ...) -> the same.

    Contrast multiplies the distance from each picture's mean colour, saturation that from each pixel's grey.

    Args:
        p, contrast, saturation: (B,), the step's p, and its k for contrast and for saturation.
    """
    rest = [1] * (rgb.ndim - 2)
    p, contrast, saturation = (k.reshape(-1, 1, *rest) for k in (p, contrast, saturation))
    colour = rgb.new_tensor([grade.red, grade.green, grade.blue]).reshape(1, 3, *rest) + grade.brightness
    mean = rgb.mean(tuple(range(2, rgb.ndim)), keepdim=True)
    grey = (rgb * rgb.new_tensor(LUMA).reshape(1, 3, *rest)).sum(1, keepdim=True)
    return p * colour + contrast * (rgb - mean) + saturation * (rgb - grey)


class Calibrated(NamedTuple):
    """A post-CFG function: the rule "calibrated"."""

    colours: Colours
    grade: Grade
    schedule: str

    def __call__(self, args: dict[str, Any]) -> Tensor:
        denoised, sigmas = args["denoised"], _sigmas(args["model_options"])
        p, m = shares(sigmas, self.schedule)
        step = schedule.step(args["sigma"].to(sigmas), sigmas)
        factors = (p, gains(p, m, 1 + self.grade.contrast), gains(p, m, self.grade.saturation))
        factors = [factor[step].to(denoised.device) for factor in factors]

        def shift(rgb: Tensor) -> Tensor:
            return change(rgb, self.grade, *factors)

        if denoised.ndim > 3:
            return self.colours.shifted(denoised, shift)
        shapes = args["cond"][0]["model_conds"]["latent_shapes"].cond  # of pictures and sound, which lie in one row
        parts = utils.unpack_latents(denoised, shapes)
        return utils.pack_latents([self.colours.shifted(parts[0], shift), *parts[1:]])[0]


class Vectorscope(NamedTuple):
    """The rule "vectorscope": a post-CFG function for `edit` = "denoised", and `sample` for "input".

    Attributes:
        sdxl: Whether the latents are SDXL's.
        target: One of TARGETS.
    """

    grade: Grade
    sdxl: bool
    schedule: str
    target: str
    seed: int

    def graded(self, z: Tensor, other: Tensor, step: int, steps: int) -> Tensor:
        """Latents after a step; `other` as for `vectorscope.target`."""
        target = vectorscope.target(self.target, z, other, vectorscope.generator(self.seed, step))
        part = vectorscope.share(self.grade, vectorscope.weight(self.schedule, step, steps), steps)
        return vectorscope.graded(z, target, part, self.sdxl)

    def __call__(self, args: dict[str, Any]) -> Tensor:
        sigmas = _sigmas(args["model_options"])
        step = int(schedule.step(args["sigma"][:1].to(sigmas), sigmas))
        return self.graded(args["denoised"], args["input"], step, len(sigmas) - 1)

    def sample(
        self,
        executor: Callable,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict,
        callback: Callable | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """A wrapper of SAMPLER_SAMPLE. After the model's answer at each step it writes to the sampler's own x, inside
        the mask.
        """

        def edit(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
            if callback is not None:
                callback(step, denoised, x, steps)
            edited = self.graded(x, denoised, step, steps)
            x.copy_(edited if denoise_mask is None else x.lerp(edited, denoise_mask.to(x)))

        return executor(guider, sigmas, extra_args, edit, noise, latent_image, denoise_mask, disable_pbar)


def _sigmas(model_options: dict) -> Tensor:
    """Of the run."""
    return model_options["transformer_options"]["sample_sigmas"]


def apply(
    model: ModelPatcher,
    grade: Grade,
    rule: str,
    schedule: str,
    target: str = "straight abs",
    edit: str = "denoised",
    seed: int = 0,
    node: str = NODE,
) -> ModelPatcher:
    """A clone of the model whose pictures are graded while they are sampled. A second grade is added to the first.

    Args:
        rule: One of RULES.
        schedule: One of SCHEDULES: how much of the grade falls to which step.
        target, edit, seed: For the rule "vectorscope": one of TARGETS, one of EDITS, the seed of noise targets.
        node: The node's display name, for messages.

    Raises:
        ValueError: The rule does not know the model's latents.
    """
    latent_format = model.get_model_object("latent_format")
    model = model.clone()
    if rule == "calibrated":
        function = Calibrated(Colours.of(latent_format, node), grade, schedule)
    else:
        if not isinstance(latent_format, SCOPED):
            raise ValueError(
                f"{node}: the rule vectorscope works with Stable Diffusion 1, 2 and SDXL, and this model has other "
                f"latents ({type(latent_format).__name__}). Choose the rule calibrated."
            )
        sdxl = not isinstance(latent_format, latent_formats.SD15)
        function = Vectorscope(grade, sdxl, schedule, target, seed)
    if grade == Grade():
        return model
    if rule == "vectorscope" and edit == "input":
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, NODE, function.sample)
    else:
        model.set_model_sampler_post_cfg_function(function)
    return model


def brackets(model: ModelPatcher, count: int, gap: float, rule: str) -> list[ModelPatcher]:
    """Models of the same picture in `count` exposures, darkest first. The middle one is the model itself.

    As the extension's script High Dynamic Range: brightness gap (i - count // 2), target ones, edit input, schedule
    1 - cos. By the rule "calibrated" it is CALIBRATED_GAP of that brightness.

    Raises:
        ValueError: `check_count`; the rule does not know the model's latents.
    """
    check_count(count)
    half = count // 2
    scale = gap if rule == "vectorscope" else CALIBRATED_GAP * gap
    return [
        apply(model, Grade(brightness=scale * i), rule, "1 - cos", "ones", "input", node=BRACKETS) if i else model
        for i in range(-half, half + 1)
    ]


def check_count(count: int) -> None:
    """Raises ValueError: The number of brackets has no middle."""
    if count % 2 == 0:
        raise ValueError(
            f"{BRACKETS}: count is {count}, and the middle bracket is the picture as it is. Choose an odd number: "
            f"{count - 1} or {count + 1}."
        )
