"""InstructPix2Pix's guidance by a picture and by an instruction: the equation, and one step of it in ComfyUI.

Brooks, Holynski and Efros, "InstructPix2Pix: Learning to Follow Image Editing Instructions", CVPR 2023. Each step takes
three predictions: e(I, T) with the picture and the instruction, e(I, 0) with the picture and the negative prompt, and
e(0, 0) with the negative prompt and zeros for the picture. The paper and diffusers combine predicted noise, ComfyUI
combines denoised pictures. The weights 1 - s_I, s_I - s_T and s_T sum to 1, so the results are the same.
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
ROLES = (1, 1, 0)  # of e(0, 0), e(I, 0) and e(I, T) for patches: 0 = the prompt, 1 = the negative prompt
HOOKS = (
    "sampler_calc_cond_batch_function",
    "sampler_pre_cfg_function",
    "sampler_cfg_function",
    "sampler_post_cfg_function",
)

Options = dict[str, Any]
Conds = list[dict[str, Any]]


def guide(null: Tensor, image: Tensor, full: Tensor, image_scale: float, text_scale: float) -> Tensor:
    """Returns e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0)), equation 3 of the paper."""
    return null + image_scale * (image - null) + text_scale * (full - image)


def rescale_noise_cfg(guided: Tensor, full: Tensor, phi: float) -> Tensor:
    """Returns phi std(full) / std(guided) guided + (1 - phi) guided, with a standard deviation for each of the batch.

    Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024, equations 15 and 16.

    Args:
        guided: The guided prediction of noise, v, ..., in proportion to the network's output: (B, ...).
        full: The prediction e(I, T), without guidance.
        phi: 0 returns `guided`, 1 gives each of the batch the standard deviation of `full`.
    """
    dims = tuple(range(1, guided.ndim))
    spread = full.std(dims, keepdim=True) / guided.std(dims, keepdim=True)  # (B, 1, ...)
    return phi * spread * guided + (1 - phi) * guided


class Step:
    """The guidance of one step, made for one call of ComfyUI's `sampling_function` and then dropped.

    ComfyUI predicts for the prompt and for the negative prompt, and combines the two. Hooks change both. Here one hook
    predicts e(0, 0) as well, and the first hook after the combination replaces its result by equation 3. Later hooks
    get that result, with e(I, T) and e(I, 0) as the two predictions.
    """

    def __init__(self, options: Options, image_scale: float, text_scale: float | None = None, phi: float = 0) -> None:
        """
        Args:
            options: The model options of the step. They are not changed.
            image_scale: s_I.
            text_scale: s_T, if it is known beforehand: predictions with weight 0 are then not computed. Equation 3
                uses ComfyUI's own CFG scale.
            phi: As in `rescale_noise_cfg`.
        """
        self.model_options, self.image_scale, self.text_scale, self.phi = options, image_scale, text_scale, phi
        self.null: Tensor | None = None  # e(0, 0), after `predict`

    def options(self) -> Options:
        """The model options to sample this step with."""
        options = {
            **self.model_options,
            "disable_cfg1_optimization": True,  # at s_T = 1, e(0, 0) and e(I, 0) do not cancel
            "sampler_calc_cond_batch_function": self.predict,
            "sampler_post_cfg_function": [self.combine, *self.model_options.get("sampler_post_cfg_function", [])],
        }
        if "sampler_cfg_function" in self.model_options:
            options["sampler_cfg_function"] = self.by_cfg_function
        return options

    def predict(self, args: Options) -> list[Tensor]:
        """Returns e(I, T) and e(I, 0), and keeps e(0, 0).

        All three are computed in one batch, unless the slot already has a function: that one takes pairs.
        """
        prompt, negative = args["conds"]
        conds = without_image(negative), negative, prompt
        conds = [cond if used else None for cond, used in zip(conds, self.uses(), strict=True)]
        if "sampler_calc_cond_batch_function" not in self.model_options:
            self.null, image, full = calc_cond_batch(
                args["model"], conds, args["input"], args["sigma"], self.model_options
            )
            return [full, image]
        predict_pair = self.model_options["sampler_calc_cond_batch_function"]
        args = {**args, "model_options": self.model_options}
        if conds[0]:
            self.null = predict_pair({**args, "conds": [prompt, conds[0]]})[1]
        else:
            self.null = torch.zeros_like(args["input"])
        return predict_pair({**args, "conds": [prompt, negative]})

    def uses(self) -> tuple[bool, bool, bool]:
        """Whether to compute e(0, 0), e(I, 0) and e(I, T). One with weight 0 is left out if no hook can see it."""
        null = not math.isclose(self.image_scale, 1)
        watched = self.phi or any(self.model_options.get(name) for name in (*HOOKS, "disable_cfg1_optimization"))
        if watched or self.text_scale is None:
            return null, True, True
        return null, not math.isclose(self.image_scale, self.text_scale), self.text_scale != 0

    def by_cfg_function(self, args: Options) -> Tensor:
        """Calls the CFG function of the model options with u and c in place of e(I, 0) and e(I, T).

        u = e(0, 0) + s_I (e(I, 0) - e(0, 0)) and c = u + e(I, T) - e(I, 0), so that u + s_T (c - u) is equation 3.
        """
        if self.null is not None:
            x = args["input"]
            u, c = (self.guided(args, text_scale) for text_scale in (0, 1))
            args = {**args, "cond": x - c, "uncond": x - u, "cond_denoised": c, "uncond_denoised": u}
        return self.model_options["sampler_cfg_function"](args)

    def combine(self, args: Options) -> Tensor:
        """Returns equation 3, or the result of the CFG function of the model options, rescaled by phi."""
        guided = args["denoised"]
        if self.null is not None and "sampler_cfg_function" not in self.model_options:
            guided = self.guided(args, args["cond_scale"])
        if not self.phi:
            return guided
        # A denoised picture is an affine function of the network's output: a + b output. Without the constant a it is
        # in proportion to the output, and the ratio of two standard deviations is that of the outputs.
        x = args["input"]
        constant = args["model"].model_sampling.calculate_denoised(args["sigma"], torch.zeros_like(x), x)
        return constant + rescale_noise_cfg(guided - constant, args["cond_denoised"] - constant, self.phi)

    def guided(self, args: Options, text_scale: float) -> Tensor:
        """Equation 3 at this s_T."""
        return guide(self.null, args["uncond_denoised"], args["cond_denoised"], self.image_scale, text_scale)


def without_image(conds: Conds) -> Conds:
    """A prompt's prepared conditions with zeros for the picture. Caches go by ids, so each gets an id of its own."""
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
    """ComfyUI's `calc_cond_batch` for the conditions of e(0, 0), e(I, 0) and e(I, T).

    ComfyUI numbers these 0, 1 and 2 in "cond_or_uncond". IPAdapter and other patches index two things with the number
    and fail at 2, so models, patches and ControlNets get `ROLES` in place of the numbers. ComfyUI batches from the last
    to the first: patches meet the prompt first, and of the two negative prompts e(I, 0) before e(0, 0).
    """
    inner = options.get("model_function_wrapper", _apply)
    copies: dict[int, ControlBase] = {}  # by id of the ControlNet: ComfyUI batches conditions with the same object

    def apply(apply_model: Callable, args: Options) -> Tensor:
        c = {**args["c"], "transformer_options": with_roles(args["c"]["transformer_options"])}
        return inner(apply_model, with_roles({**args, "c": c}))

    def role_aware(cond: dict[str, Any]) -> dict[str, Any]:
        control = cond.get("control")
        if control is None:
            return cond
        if id(control) not in copies:
            copies[id(control)] = role_aware_copy(control)
        return {**cond, "control": copies[id(control)]}

    conds = [prompt and [role_aware(cond) for cond in prompt] for prompt in conds]
    return comfy.samplers.calc_cond_batch(model, conds, x, sigma, {**options, "model_function_wrapper": apply})


def with_roles(values: Options) -> Options:
    """A copy with roles in place of the numbers of predictions."""
    return {**values, "cond_or_uncond": [ROLES[i] for i in values["cond_or_uncond"]]}


def role_aware_copy(control: ControlBase) -> ControlBase:
    """A ControlNet of a subclass of its class that gets roles and has all its state in common with `control`.

    ComfyUI calls `get_control` with the numbers before it calls the model function wrapper, so the method itself has to
    replace them. Three simpler ways fail:

    - a method set on the object: a later `copy.copy`, for windows of a picture, keeps calling the first object;
    - a ControlNet without a network in front: other packs read `cond_hint_original`, `sub_idxs` and more of it;
    - a copy with state of its own: it resizes and encodes its hint again at every step.
    """
    copied = object.__new__(role_aware_class(type(control)))
    copied.__dict__ = control.__dict__
    return copied


@cache
def role_aware_class(kind: type[ControlBase]) -> type[ControlBase]:
    """The subclass of a class of ControlNets whose `get_control` gets roles.

    Two of its objects with the same state are equal, so that whoever keeps hints by ControlNet finds those of the steps
    before.
    """

    class RoleAware(kind):
        def get_control(self, *args: Any) -> dict | None:
            *others, transformer_options = args
            return super().get_control(*others, with_roles(transformer_options))

        def get_instance_for_device(self, device: torch.device) -> ControlBase:
            instance = super().get_instance_for_device(device)  # of several graphics cards, each has a clone
            return instance if instance is self else role_aware_copy(instance)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, RoleAware) and vars(self) is vars(other)

        def __hash__(self) -> int:
            return id(vars(self))

    return RoleAware


def _apply(apply_model: Callable, args: Options) -> Tensor:
    return apply_model(args["input"], args["timestep"], **args["c"])
