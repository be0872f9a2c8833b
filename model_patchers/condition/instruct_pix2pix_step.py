"""InstructPix2Pix's guidance by a picture and by an instruction: the equation, and one step of it under the host.

Brooks, Holynski and Efros, "InstructPix2Pix: Learning to Follow Image Editing Instructions", CVPR 2023. Each step takes
three predictions: e(I, T) with the picture and the instruction, e(I, 0) with the picture and the negative prompt, and
e(0, 0) with zeros for the picture. The paper and diffusers combine predicted noise, the host denoised pictures; as the
three weights sum to 1, it comes out the same.
"""

import math
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.conds
import comfy.samplers
import torch
from comfy.controlnet import ControlBase
from comfy.model_base import BaseModel
from torch import Tensor

ID = "pentimento_instruct_pix2pix"
ROLES = (1, 1, 0)  # of e(0, 0), e(I, 0) and e(I, T). Patches know two: 0, the prompt, and 1, the negative prompt
HOOKS = (
    "sampler_calc_cond_batch_function",
    "sampler_pre_cfg_function",
    "sampler_cfg_function",
    "sampler_post_cfg_function",
)

Options = dict[str, Any]
Conds = list[dict[str, Any]]


def guide(null: Tensor, image: Tensor, full: Tensor, image_scale: float, text_scale: float) -> Tensor:
    """e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0)): equation 3."""
    return null + image_scale * (image - null) + text_scale * (full - image)


def rescale_noise_cfg(guided: Tensor, full: Tensor, phi: float) -> Tensor:
    """Draws the guided prediction's spread towards that of e(I, T).

    Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024, equations 15 and 16.

    Args:
        guided: What the network predicts (noise, v, ...), not denoised pictures: (B, ...).
        full: The same without guidance.
        phi: 0 returns `guided`, 1 gives each of the batch the spread of `full`.
    """
    dims = tuple(range(1, guided.ndim))
    spread = full.std(dims, keepdim=True) / guided.std(dims, keepdim=True)  # (B, 1, ...)
    return phi * spread * guided + (1 - phi) * guided


class Step:
    """One step's guidance: made for one call of the host's `sampling_function`, and then dropped.

    The host predicts for the prompt and for the negative prompt, and combines the two with the help of hooks. Here
    e(0, 0) is predicted along with them, and the first hook after the host's combination puts equation 3 in its place.
    To the hooks after it that is the result, and e(I, T) and e(I, 0), as the model gave them, are the two predictions.
    """

    def __init__(self, options: Options, image_scale: float, text_scale: float | None = None, phi: float = 0) -> None:
        """
        Args:
            options: The model options of the step. They are left as they are.
            image_scale: s_I.
            text_scale: s_T, where it is known beforehand: predictions that cancel are spared. The one that counts is
                the host's own CFG scale.
            phi: Of `rescale_noise_cfg`.
        """
        self.given, self.image_scale, self.text_scale, self.phi = options, image_scale, text_scale, phi
        self.null: Tensor | None = None  # e(0, 0), once it is there

    def options(self) -> Options:
        """The model options to sample this step with."""
        options = {
            **self.given,
            "disable_cfg1_optimization": True,  # at s_T = 1 the other two do not cancel
            "sampler_calc_cond_batch_function": self.predict,
            "sampler_post_cfg_function": [self.combine, *self.given.get("sampler_post_cfg_function", [])],
        }
        if "sampler_cfg_function" in self.given:
            options["sampler_cfg_function"] = self.by_cfg_function
        return options

    def predict(self, args: Options) -> list[Tensor]:
        """e(I, T) and e(I, 0). In one batch with e(0, 0), unless there is a function already, which takes pairs."""
        full, image = args["conds"]
        conds = [
            cond if use else None for cond, use in zip((without_image(image), image, full), self.uses(), strict=True)
        ]
        if "sampler_calc_cond_batch_function" not in self.given:
            self.null, *pair = calc_cond_batch(args["model"], conds, args["input"], args["sigma"], self.given)
            return pair[::-1]
        predict_pair, args = self.given["sampler_calc_cond_batch_function"], {**args, "model_options": self.given}
        self.null = (
            predict_pair({**args, "conds": [full, conds[0]]})[1] if conds[0] else torch.zeros_like(args["input"])
        )
        return predict_pair({**args, "conds": [full, image]})

    def uses(self) -> tuple[bool, bool, bool]:
        """Whether e(0, 0), e(I, 0) and e(I, T) are used: with weight 0 they are not, unless a hook may look at them."""
        null = not math.isclose(self.image_scale, 1)
        watched = self.phi or any(self.given.get(name) for name in (*HOOKS, "disable_cfg1_optimization"))
        if watched or self.text_scale is None:
            return null, True, True
        return null, not math.isclose(self.image_scale, self.text_scale), self.text_scale != 0

    def by_cfg_function(self, args: Options) -> Tensor:
        """The given CFG function, on the two predictions whose guidance at scale s_T is equation 3."""
        if self.null is not None:
            x = args["input"]
            image, full = (self.guided(args, text_scale) for text_scale in (0, 1))
            args = {**args, "cond": x - full, "uncond": x - image, "cond_denoised": full, "uncond_denoised": image}
        return self.given["sampler_cfg_function"](args)

    def combine(self, args: Options) -> Tensor:
        """Equation 3, or what the given CFG function made of it, and its spread."""
        guided = args["denoised"]
        if self.null is not None and "sampler_cfg_function" not in self.given:
            guided = self.guided(args, args["cond_scale"])
        if not self.phi:
            return guided
        # A denoised picture is an affine function of the prediction. Without its constant it is in proportion to the
        # prediction, and the ratio of two spreads asks for no more.
        x = args["input"]
        constant = args["model"].model_sampling.calculate_denoised(args["sigma"], torch.zeros_like(x), x)
        return constant + rescale_noise_cfg(guided - constant, args["cond_denoised"] - constant, self.phi)

    def guided(self, args: Options, text_scale: float) -> Tensor:
        return guide(self.null, args["uncond_denoised"], args["cond_denoised"], self.image_scale, text_scale)


def without_image(conds: Conds) -> Conds:
    """A prompt's prepared conditions with zeros for the picture, and with ids of their own, for caches to go by."""
    return [
        {
            **cond,
            "uuid": uuid.uuid5(cond["uuid"], ID),
            "model_conds": {
                **cond["model_conds"],
                "c_concat": comfy.conds.CONDNoiseShape(torch.zeros_like(cond["model_conds"]["c_concat"].cond)),
            },
        }
        for cond in conds
    ]


def calc_cond_batch(
    model: BaseModel, conds: list[Conds | None], x: Tensor, sigma: Tensor, options: Options
) -> list[Tensor]:
    """The host's, for conditions with `ROLES`: models, patches and ControlNets are told those, where the host counts.

    IPAdapter and others have two things to choose from and fail at the third. As the host batches from the last to the
    first, they find the prompt first and e(I, 0), not e(0, 0), as the first negative prompt.
    """
    inner = options.get("model_function_wrapper", _apply)
    twins: dict[int, ControlBase] = {}  # one for each ControlNet: the host batches by identity

    def apply(apply_model: Callable, args: Options) -> Tensor:
        c = {**args["c"], "transformer_options": with_roles(args["c"]["transformer_options"])}
        return inner(apply_model, with_roles({**args, "c": c}))

    def told(cond: dict[str, Any]) -> dict[str, Any]:
        control = cond.get("control")
        if control is None:
            return cond
        if id(control) not in twins:
            twins[id(control)] = twin(control)
        return {**cond, "control": twins[id(control)]}

    conds = [cond and [told(part) for part in cond] for cond in conds]
    return comfy.samplers.calc_cond_batch(model, conds, x, sigma, {**options, "model_function_wrapper": apply})


def with_roles(values: Options) -> Options:
    return {**values, "cond_or_uncond": [ROLES[i] for i in values["cond_or_uncond"]]}


def twin(control: ControlBase) -> ControlBase:
    """The ControlNet itself, whose state this shares, but told roles. So are its copies, for windows of a picture."""
    other = object.__new__(told_roles(type(control)))
    other.__dict__ = control.__dict__
    return other


@cache
def told_roles(kind: type[ControlBase]) -> type[ControlBase]:
    class Told(kind):
        def get_control(self, *args: Any) -> dict | None:
            return super().get_control(*args[:-1], with_roles(args[-1]))

    return Told


def _apply(apply_model: Callable, args: Options) -> Tensor:
    return apply_model(args["input"], args["timestep"], **args["c"])
