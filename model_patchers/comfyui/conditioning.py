"""Checks of the model, and tensors for it, that a conditioning carries to the sampler beside its text.

A node of conditionings does not see the model that will sample with them. `needs` attaches a check of
the model to a conditioning, and `feed` attaches finished tensors for the model. Both travel as a ControlNet without a
network:

- Every node that changes, combines or copies conditionings passes a ControlNet on, also one that is applied after it.
- ComfyUI collects the hooks of all ControlNets as sampling starts (`sampler_helpers.prepare_model_patcher`), so that a
  conditioning can ask for wrappers around the sampling although no patch is on the model.
- ComfyUI runs two prompts in one batch only if their ControlNets are one object, and looks ControlNets up by equality.
  So links with equal needs are equal.

The first wrapper, `run_model_checks`, makes the checks before anything is computed or loaded, and takes the links out
of the conditionings. So links change neither the result nor which prompts are batched.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from comfy.conds import CONDRegular
from comfy.controlnet import ControlBase
from comfy.hooks import HookGroup, TransformerOptionsHook
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.samplers import CFGGuider
from node_helpers import conditioning_set_values

from .kinds import require

Conditioning = list[list]  # what nodes pass: [[text, {name: value}], ...]
Cond = dict[str, Any]  # one entry of a conditioning in ComfyUI's samplers, after process_conds
Latent = dict[str, Any]  # what nodes pass: {"samples": a tensor, ...}
# (the condition, the model that samples, its device) -> {"y" or "c_concat": the tensor as ComfyUI's sampler takes it}
ModelInputs = Callable[[Cond, ModelPatcher, torch.device], dict[str, CONDRegular]]

FEED = "pentimento_feed"  # of a conditioning's ModelInputs in its model_conds
# Attributes of ComfyUI's DualModelGuider: the model that samples the negative conditioning, and the conditioning for it
SECOND_MODEL, SECOND_CONDS = "uncond_model_patcher", "_uncond_conds"


def both(prompts: Sequence[Conditioning], values: dict[str, Any]) -> list[Conditioning]:
    """Copies of the positive and the negative conditioning with the same values."""
    return [conditioning_set_values(prompt, values) for prompt in prompts]


# Checks of the model


class Needs(NamedTuple):
    """What a conditioning needs of the model and the latent that are sampled with it.

    Attributes:
        kinds: Names of the kinds of model that fit, of kinds.KINDS.
        node: The display name of the node that needs it, for messages.
        size: (height, width) in latent pixels of what is concatenated to the latent. ComfyUI would resample it silently
            for a latent of another size.
        also: Another check of the model, which raises ValueError. The same function for both prompts: else they are not
            batched.
        pictures: How many pictures are concatenated: one for any number of latents, or one for each latent.
    """

    kinds: frozenset[str]
    node: str
    size: tuple[int, int] | None = None
    also: Callable[[ModelPatcher], None] | None = None
    pictures: int = 1

    def check(self, model: ModelPatcher, latents: torch.Size) -> None:
        """
        Args:
            latents: The shape of the latents that are sampled.

        Raises:
            ValueError: The model or the latents do not fit.
        """
        require(model, self.kinds, self.node)
        if self.also is not None:
            self.also(model)
        if self.size is not None and self.size != latents[-2:]:
            needed, got = (f"{w} x {h}" for h, w in (self.size, latents[-2:]))
            raise ValueError(
                f"{self.node} prepared a picture for a latent of {needed} (width x height), and the latent that is "
                f"sampled has {got}. Connect a latent of {needed}, or give {self.node} a "
                f"picture for a latent of {got}."
            )
        if self.pictures not in (1, latents[0]):
            raise ValueError(
                f"{self.node} prepared {self.pictures} pictures, and {latents[0]} latents are sampled. Connect "
                f"{self.node}'s latent, or give it one picture for all."
            )


def needs(conditioning: Conditioning, needs: Needs) -> Conditioning:
    """A conditioning that is checked against whichever model samples with it, before anything is computed or loaded."""
    return [[text, {**values, "control": ModelCheck(needs, values.get("control"))}] for text, values in conditioning]


def check_now(model: ModelPatcher, conditioning: Conditioning, latents: torch.Size) -> None:
    """Makes a conditioning's checks before sampling starts, where the model and the size are known.

    Args:
        latents: The shape of the latents that will be sampled.

    Raises:
        ValueError: As Needs.check.
    """
    for _, values in conditioning:
        for link in _chain(values.get("control")):
            if isinstance(link, ModelCheck):
                link.needs.check(model, latents)


# Tensors for the model


def feed(conditioning: Conditioning, inputs: ModelInputs) -> Conditioning:
    """A conditioning that hands finished tensors to the model, in the place of those that ComfyUI would make.

    ComfyUI's model classes make the global vector and the concatenated channels from keys of the conditioning and with
    noise of their own: seeded with the sampler's seed, the same for every picture, drawn after setting the global
    random state. These travel in `model_conds`, through every node and every area.

    Args:
        inputs: Called each time that sampling starts; it may raise ValueError. It replaces earlier ones.
    """
    return [
        [
            text,
            {
                **values,
                "model_conds": {**values.get("model_conds", {}), FEED: inputs},
                "control": InputFeed(values.get("control")),
            },
        ]
        for text, values in conditioning
    ]


def inputs_of(values: Cond) -> ModelInputs | None:
    """The ModelInputs that a conditioning has from `feed`."""
    return values.get("model_conds", {}).get(FEED)


# The links in the chain of ControlNets


class Link(ControlBase):
    """A ControlNet that adds nothing to the model's results, and asks for wrappers around the sampling."""

    def __init__(self, previous: ControlBase | None) -> None:
        super().__init__()
        self.previous_controlnet = previous
        self.cond_hint_original = torch.zeros(1, 3, 1, 1)  # samplers in tiles crop every ControlNet's picture
        self.extra_hooks = HookGroup()
        by_kind = {kind: {"pentimento": [wrapper]} for kind, wrapper in self.wrappers().items()}
        self.extra_hooks.add(TransformerOptionsHook({"wrappers": by_kind}))

    def wrappers(self) -> dict[str, Callable]:
        """The wrappers around the sampling, by WrappersMP."""
        return {WrappersMP.OUTER_SAMPLE: run_model_checks}

    def get_extra_hooks(self) -> list[HookGroup]:
        # Without its own hooks. Under dynamic VRAM, ComfyUI loads a second copy of a model for a conditioning that
        # reports hooks.
        return self.previous_controlnet.get_extra_hooks() if self.previous_controlnet else []

    def get_control(self, *args: Any) -> dict | None:
        return self.previous_controlnet.get_control(*args) if self.previous_controlnet else None


class ModelCheck(Link):
    """The link of `needs`."""

    def __init__(self, needs: Needs, previous: ControlBase | None = None) -> None:
        super().__init__(previous)
        self.needs = needs

    def copy(self) -> "ModelCheck":
        return ModelCheck(self.needs, self.previous_controlnet)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ModelCheck)
            and self.needs == other.needs
            and self.previous_controlnet is other.previous_controlnet
        )

    def __hash__(self) -> int:
        return hash(self.needs)


class InputFeed(Link):
    """The link of `feed`. It holds no tensors: those differ from prompt to prompt."""

    def wrappers(self) -> dict[str, Callable]:
        return super().wrappers() | {WrappersMP.SAMPLER_SAMPLE: apply_feeds}

    def copy(self) -> "InputFeed":
        return InputFeed(self.previous_controlnet)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputFeed) and self.previous_controlnet == other.previous_controlnet

    def __hash__(self) -> int:
        return hash((InputFeed, self.previous_controlnet))


def run_model_checks(executor: WrapperExecutor, noise: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Around `CFGGuider.outer_sample`: makes the conditionings' checks, then samples without the links."""
    guider = executor.class_obj
    links = [
        (_model_of(guider, name), link)
        for name, conds in guider.conds.items()
        for cond in conds
        for link in _chain(cond.get("control"))
    ]
    for model, check in dict.fromkeys((model, link.needs) for model, link in links if isinstance(link, ModelCheck)):
        check.check(model, noise.shape)
    stripped: dict[ControlBase, ControlBase | None] = {}
    guider.conds = {name: [_without_links(cond, stripped) for cond in conds] for name, conds in guider.conds.items()}
    return executor(noise, *args, **kwargs)


def apply_feeds(executor: WrapperExecutor, guider: CFGGuider, sigmas: torch.Tensor, *args: Any) -> torch.Tensor:
    """Around the sampler: puts the tensors of `feed` in the place of what ComfyUI made."""

    def fed(name: str, conds: list[Cond]) -> list[Cond]:
        return [_with_feed(cond, _model_of(guider, name), sigmas.device) for cond in conds]

    guider.conds = {name: fed(name, conds) for name, conds in guider.conds.items()}
    if SECOND_CONDS in vars(guider):
        setattr(guider, SECOND_CONDS, fed("negative", getattr(guider, SECOND_CONDS)))
    return executor(guider, sigmas, *args)


def _model_of(guider: CFGGuider, name: str) -> ModelPatcher:
    """The model that samples the guider's conditioning of this name."""
    return vars(guider).get(SECOND_MODEL, guider.model_patcher) if name == "negative" else guider.model_patcher


def _with_feed(cond: Cond, model: ModelPatcher, device: torch.device) -> Cond:
    model_conds = dict(cond["model_conds"])
    inputs = model_conds.pop(FEED, None)
    return cond if inputs is None else {**cond, "model_conds": model_conds | inputs(cond, model, device)}


def _chain(control: ControlBase | None) -> list[ControlBase]:
    return [control, *_chain(control.previous_controlnet)] if control else []


def _without_links(cond: Cond, stripped: dict[ControlBase, ControlBase | None]) -> Cond:
    control = without_model_checks(cond.get("control"), stripped)
    rest = {key: value for key, value in cond.items() if key != "control"}
    return {**rest, "control": control} if control else rest


def without_model_checks(
    control: ControlBase | None, stripped: dict[ControlBase, ControlBase | None]
) -> ControlBase | None:
    """A chain of ControlNets without links. ControlNets that come after a link are copied.

    Args:
        stripped: {chain: the same without links} so far, so that each ControlNet is copied once.
    """
    if control is None:
        return None
    if control not in stripped:
        rest = without_model_checks(control.previous_controlnet, stripped)
        if isinstance(control, Link):
            stripped[control] = rest
        elif rest is control.previous_controlnet:
            stripped[control] = control
        else:
            stripped[control] = control.copy().set_previous_controlnet(rest)
    return stripped[control]
