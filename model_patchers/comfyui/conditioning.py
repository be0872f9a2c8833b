"""What a conditioning feeds to the model beside the text, where the host's own way there would alter it.

The host's model classes make the global vector and the concatenated channels themselves, from keys of the conditioning
and with noise of their own: seeded with the sampler's seed, the same for every picture, drawn after setting the global
random state. `supplying` hands over finished ones instead, in a conditioning's `model_conds`, which travel with it
through every node and every area; they take the place of the host's as sampling starts.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from comfy.conds import CONDRegular
from comfy.controlnet import ControlBase
from comfy.hooks import TransformerOptionsHook
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP

from .kinds import Check, Conditioning, Terms, expecting

KEY = "pentimento_supply"
# (the condition, the model that samples, its device) -> {"y" or "c_concat": the tensor as the host's sampler takes it}
Supply = Callable[[dict, ModelPatcher, torch.device], dict[str, CONDRegular]]


def supplying(
    conditioning: Conditioning, supply: Supply, names: Collection[str], node: str, **terms: Any
) -> Conditioning:
    """A conditioning that feeds the model what `supply` returns, and is checked as by `model_kinds.expecting`.

    Args:
        supply: Called each time that sampling starts. It may raise.
        names, node, terms: See `model_kinds.expecting`.
    """
    supplied = []
    for text, values in expecting(conditioning, names, node, **terms):
        check = values["control"]
        model_conds = {**values.get("model_conds", {}), KEY: supply}
        control = Supplying(check.terms, check.previous_controlnet)
        supplied.append([text, {**values, "model_conds": model_conds, "control": control}])
    return supplied


class Supplying(Check):
    """A check that also asks for `supplied` around the sampler."""

    def __init__(self, terms: Terms, previous: ControlBase | None = None) -> None:
        super().__init__(terms, previous)
        wrappers = {WrappersMP.SAMPLER_SAMPLE: {"pentimento": [supplied]}}
        self.extra_hooks.add(TransformerOptionsHook({"wrappers": wrappers}))

    def copy(self) -> "Supplying":
        return Supplying(self.terms, self.previous_controlnet)


def supplied(executor: WrapperExecutor, guider: Any, sigmas: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Around the sampler: puts what the conditionings supply in the place of what the host made."""
    guider.conds = {
        name: [_with_supply(condition, guider.model_patcher, sigmas.device) for condition in conditions]
        for name, conditions in guider.conds.items()
    }
    return executor(guider, sigmas, *args, **kwargs)


def _with_supply(condition: dict, model: ModelPatcher, device: torch.device) -> dict:
    model_conds = dict(condition["model_conds"])
    supply = model_conds.pop(KEY, None)
    if supply is None:
        return condition
    return {**condition, "model_conds": model_conds | supply(condition, model, device)}
