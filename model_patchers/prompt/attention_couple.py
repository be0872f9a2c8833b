"""Attention couple: the texts of several regions in one call of the network. In each cross-attention every text attends
by itself, and a text's result counts where its region is. The attention mode of Regional Prompter computes this
(github.com/hako-mikan/sd-webui-regional-prompter; the code here is written afresh).

A conditioning carries one entry for each region, with ComfyUI's own masks and strengths. `couple` notes these on the
entries. In a call of the denoiser the entries become one, as the last change before ComfyUI's own calculation or before
windows are cut. So an entry is still an ordinary text for all that comes earlier, such as ELLA.

attention_couple_unet.py holds what happens in the network.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..comfyui import kinds
from ..comfyui.conditioning import Cond, Conditioning, Needs, needs
from ..comfyui.patching import Call, attach
from ..pixels import checks
from .attention_couple_unet import KEY, Joint, Region, cells, weights, wrap_network
from .regional_prompt import CELL

NODE = "Attention Couple"
REGION = "pentimento_region"  # of an entry's Region
# What the entries keep in their Region: ComfyUI would mix the results of the network by these.
MIXING = ("mask", "mask_strength", "strength", "area", "set_area_to_bounds", "default", CELL)
TEXTS = (768, 1024, 2048)  # widths of the text of SD 1.x, SD 2.x and SDXL


# The conditioning


def couple(conditioning: Conditioning) -> Conditioning:
    """A conditioning whose entries are computed together by a model that `attach_to` patched.

    Entries that were coupled before stay as they are.

    Raises:
        ValueError: A mask is no mask.
    """
    group = uuid.uuid4()  # equal in deep copies too
    coupled = [[text, values if REGION in values else _with_region(values, group)] for text, values in conditioning]
    return needs(coupled, Needs(frozenset({*kinds.KINDS, "other"}), NODE, also=check_patched))


def _with_region(values: dict[str, Any], group: uuid.UUID) -> dict[str, Any]:
    rest = {key: value for key, value in values.items() if key not in MIXING}
    return {**rest, REGION: _region(values, group)}


def _region(values: dict[str, Any], group: uuid.UUID) -> Region:
    mask, cell, strength = values.get("mask"), values.get(CELL), float(values.get("strength", 1.0))
    if mask is not None:
        mask = checks.mask(mask, "the mask of a conditioning").cpu()
        strength *= float(values.get("mask_strength", 1.0))
    if cell is not None and (mask is None or not torch.equal(mask, cells(cell, mask.shape[-2:]))):
        cell = None  # another node has set another mask since
    return Region(group, strength, mask, cell, values.get("area"), "default" in values)


def check_patched(model: ModelPatcher) -> None:
    """
    Raises:
        ValueError: The model that samples is not the one from Attention Couple.
    """
    if KEY not in model.wrappers.get(WrappersMP.CALC_COND_BATCH, {}):
        raise ValueError(
            f"The conditioning comes from {NODE}, and the model that samples does not. Connect the model of {NODE} to "
            "the sampler too, through any other nodes."
        )


# One entry for all regions


def join(prompt: list[Cond], x: Tensor, sigma: float) -> list[Cond]:
    """A prompt's conditionings, in which those that were coupled together are one.

    Args:
        x: (B, C, H, W), the latent.
        sigma: Of the call: conditionings whose range of timesteps does not hold it are left out.
    """
    joined = [cond for cond in prompt if REGION not in cond]
    groups: dict[uuid.UUID, list[Cond]] = {}
    for cond in prompt:
        if REGION in cond and cond.get("timestep_end", sigma) <= sigma <= cond.get("timestep_start", sigma):
            groups.setdefault(cond[REGION].group, []).append(cond)
    for group in groups.values():
        by_call: dict[tuple, list[Cond]] = {}
        for cond in group:
            by_call.setdefault(_call(cond), []).append(cond)
        joined += [_joint(conds, x, masked=len(by_call) > 1) for conds in by_call.values()]
    return joined


def _call(cond: Cond) -> tuple:
    """What has the network called separately: LoRAs, ControlNets and GLIGEN's boxes of the conditioning's own."""
    boxes = cond["gligen"][2] if "gligen" in cond else ()
    return id(cond.get("hooks")), id(cond.get("control")), tuple(map(id, boxes))


def _joint(conds: list[Cond], x: Tensor, masked: bool) -> Cond:
    """One conditioning for all. Its first text, which ControlNets read too, is the base's; without a base, the first.

    Args:
        masked: Whether other calls of the network share the picture. Then ComfyUI mixes the results.
    """
    first = next((cond for cond in conds if cond[REGION].is_everywhere), conds[0])
    conds = [first, *(cond for cond in conds if cond is not first)]
    regions, size = tuple(cond[REGION] for cond in conds), tuple(x.shape[-2:])
    maps = weights(regions, size, size).to(x.device)
    texts = [cond["model_conds"]["c_crossattn"].cond for cond in conds[1:]]
    ours = {"model_conds": {**first["model_conds"], KEY: Joint([maps, *texts], regions, size)}}
    if masked:
        total = maps.sum(1)
        ours["mask"] = total * first["mask"] if "mask" in first else total
    rest = {key: value for key, value in first.items() if key not in (REGION, "timestep_start", "timestep_end")}
    return {**rest, **ours}


def _plain(cond: Cond) -> Cond:
    """A conditioning that was not coupled: ComfyUI batches conditionings that have the same keys."""
    return {**cond, "model_conds": {KEY: Joint([]), **cond["model_conds"]}}


def wrap_call(*args: Any) -> list[Tensor]:
    """A wrapper of CALC_COND_BATCH."""
    call = Call(*args)
    if not any(REGION in cond for prompt in call.conds for cond in prompt or ()):
        return call.run()
    sigma = call.sigma[0].item()
    # `prompt and`: a prompt that is not computed is None, and stays None.
    joined = [prompt and [_plain(cond) for cond in join(prompt, call.x, sigma)] for prompt in call.conds]
    return call.run(conds=joined)


def wrap_run(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    """A wrapper of OUTER_SAMPLE, before all others: has `wrap_call` come after all wrappers that the model has so far.

    Windowed Diffusion does the same later, so that it cuts what was joined.
    """
    wrappers = executor.class_obj.model_options["transformer_options"]["wrappers"][WrappersMP.CALC_COND_BATCH]
    wrappers[KEY] = wrappers.pop(KEY)  # the options are the run's own copy
    return executor(*args, **kwargs)


# The patch


def attach_to(model: ModelPatcher) -> ModelPatcher:
    """A clone of the model that computes coupled conditionings. Patching twice is patching once."""
    functions: dict[str, Callable] = {
        WrappersMP.CALC_COND_BATCH: wrap_call,
        WrappersMP.DIFFUSION_MODEL: wrap_network,
        WrappersMP.OUTER_SAMPLE: wrap_run,
    }
    model = attach(model, KEY, functions)
    others = model.wrappers[WrappersMP.OUTER_SAMPLE]
    model.wrappers[WrappersMP.OUTER_SAMPLE] = {KEY: others.pop(KEY), **others}
    return model


def apply(
    model: ModelPatcher, positive: Conditioning, negative: Conditioning
) -> tuple[ModelPatcher, Conditioning, Conditioning]:
    """A clone of the model and the two conditionings for it.

    Raises:
        ValueError: The model is of another kind, or a prompt was encoded for another.
    """
    kind = kinds.identify(model)
    if kind.first != kinds.KINDS["sd15"].first or kind.text not in TEXTS:
        raise ValueError(
            f"{NODE} works with Stable Diffusion 1.x, 2.x and SDXL, and the model here is {kind.title}. Remove {NODE} "
            "and connect the conditionings of Regional Prompt to the sampler: so they work with every model."
        )
    for name, prompt in (("positive", positive), ("negative", negative)):
        _check_widths(prompt, name, kind)
    return attach_to(model), couple(positive), couple(negative)


def _check_widths(prompt: Sequence[list], name: str, kind: kinds.Kind) -> None:
    for text, _ in prompt:
        if text.shape[-1] != kind.text:
            raise ValueError(
                f"{name} of {NODE} holds a text that is {text.shape[-1]} wide, and {kind.title} reads texts that are "
                f"{kind.text} wide. Encode the prompt with the text encoder of this model."
            )
