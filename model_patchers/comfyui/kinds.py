"""Which model one holds, and a check of it that travels with a conditioning.

Models with 4, 5, 7, 8, 9 and 12 channels in all concatenate something to the latent, each something else and at another
scale. A wrong pair gives an error about shapes at best and a bad picture without an error at worst. So the nodes of the
family say what they need: those that see the model with `require`, those that do not with `expecting`.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import comfy.lora
import comfy.model_base
import comfy.model_sampling
import torch
from comfy.controlnet import ControlBase
from comfy.hooks import HookGroup, TransformerOptionsHook
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP

Conditioning = list[list]

FIRST = "diffusion_model.input_blocks.0.0.weight"
# (channels of the first level, width of the text, width of the global vector, channels in) -> name
NAMES = {
    (320, 768, None, 4): "sd15",
    (320, 768, None, 8): "instruct-pix2pix",
    (320, 768, None, 9): "sd15-inpaint",
    (320, 768, None, 12): "ic-light",
    (320, 1024, None, 4): "sd2",
    (320, 1024, None, 5): "sd2-depth",
    (320, 1024, None, 9): "sd2-inpaint",
    (320, 1024, 1536, 4): "unclip-l",
    (320, 1024, 2048, 4): "unclip-h",
    (256, 1024, None, 7): "sd-x4",
    (320, 2048, 2816, 4): "sdxl",
    (320, 2048, 2816, 8): "instruct-pix2pix-sdxl",
    (320, 2048, 2816, 9): "sdxl-inpaint",
}
TITLES = {
    "sd15": "Stable Diffusion 1.5",
    "instruct-pix2pix": "InstructPix2Pix (SD 1.5)",
    "sd15-inpaint": "SD 1.5 Inpainting",
    "ic-light": "IC-Light",
    "sd2": "Stable Diffusion 2",
    "sd2-depth": "SD 2 Depth",
    "sd2-inpaint": "SD 2 Inpainting",
    "unclip-l": "Stable unCLIP-L",
    "unclip-h": "Stable unCLIP-H",
    "sd-x4": "the SD x4 Upscaler",
    "sdxl": "SDXL",
    "instruct-pix2pix-sdxl": "InstructPix2Pix (SDXL)",
    "cosxl-edit": "CosXL Edit",
    "sdxl-inpaint": "SDXL Inpainting",
}
PICTURE = "the picture's latent (4)"
INPAINT = "the mask (1), the masked picture's latent (4)"
# name -> what is concatenated to the latent, in this order, and its scale
CONCATENATED = {
    "instruct-pix2pix": (PICTURE, "the VAE's mean as it is, not x 0.18215"),
    "sd15-inpaint": (INPAINT, "the latent x 0.18215"),
    "ic-light": ("the foreground's latent (4)", "the VAE's mean x 0.18215"),
    "sd2-depth": ("depth (1)", "each picture's depth from -1 (far) to 1 (near), at the latent's size"),
    "sd2-inpaint": (INPAINT, "the latent x 0.18215"),
    "sd-x4": ("the small picture's red, green and blue (3)", "pixels from -1 to 1, with noise of the level (0..350)"),
    "instruct-pix2pix-sdxl": (PICTURE, "the VAE's mean as it is, not x 0.13025"),
    "cosxl-edit": (PICTURE, "the VAE's mean x 0.13025"),
    "sdxl-inpaint": (INPAINT, "the latent x 0.13025"),
}
GLOBAL = {
    "unclip-l": "CLIP ViT-L/14's embedding of a picture (768) and its noise level (768)",
    "unclip-h": "CLIP ViT-H/14's embedding of a picture (1024) and its noise level (1024)",
    "sd-x4": "the noise level, a number",
    **dict.fromkeys(
        ("sdxl", "instruct-pix2pix-sdxl", "cosxl-edit", "sdxl-inpaint"), "the pooled text (1280), sizes and crop (1536)"
    ),
}
# The host's classes build on each other: the most special comes first.
PREDICTIONS = {
    comfy.model_sampling.EDM: "EDM",
    comfy.model_sampling.V_PREDICTION: "v",
    comfy.model_sampling.X0: "x0",
    comfy.model_sampling.EPS: "eps",
    comfy.model_sampling.CONST: "flow",
}


class Kind(NamedTuple):
    """What a model is and what it wants to be given."""

    name: str  # one of TITLES, or "other"
    title: str
    in_channels: int  # of the first convolution after patches; 0: it has none that is known here
    concatenated: str  # what goes with the latent, in order; "": nothing
    scale: str
    vector: str  # the global conditioning; "": none
    prediction: str  # "eps", "v", ...


def identify(model: ModelPatcher) -> Kind:
    """What the model is, by the shapes of its weights and the patches on them, whatever its file was called.

    An InstructPix2Pix model and an IC-Light that was merged into a full model have the same shapes: the latter is taken
    for the former. An IC-Light that is a patch on SD 1.5 is told by being a patch.
    """
    config = getattr(model.model.model_config, "unet_config", {})
    shape, channels = _first(model)
    key = (shape[0], config.get("context_dim"), config.get("adm_in_channels"), channels)
    name = NAMES.get(key, "other")
    if name == "instruct-pix2pix" and shape[1] == 4:
        name = "ic-light"
    if name == "instruct-pix2pix-sdxl" and model.model.model_type == comfy.model_base.ModelType.V_PREDICTION_EDM:
        name = "cosxl-edit"
    if config.get("use_temporal_attention") or hasattr(model.model, "cc_projection"):  # Stable Video, Zero123
        name = "other"
    concatenated, scale = CONCATENATED.get(name, ("", ""))
    if name == "ic-light" and channels == 12:
        concatenated += ", the background's latent (4)"
    return Kind(
        name=name,
        title=TITLES.get(name, f"a model of the kind '{type(model.model).__name__}'"),
        in_channels=channels,
        concatenated=concatenated,
        scale=scale,
        vector=GLOBAL.get(name, ""),
        prediction=_prediction(model),
    )


def _first(model: ModelPatcher) -> tuple[tuple[int, ...], int]:
    """Shape of the first convolution's weight as it was loaded, and its channels in after patches."""
    found = model.get_key_patches(FIRST)
    if FIRST not in found:
        return (0, 0), 0
    (weight, _), *patches = found[FIRST]
    return tuple(weight.shape), comfy.lora.calculate_shape(patches, weight, FIRST)[1]


def _prediction(model: ModelPatcher) -> str:
    """What the network's output means, after patches such as ModelSamplingDiscrete."""
    sampling = model.get_model_object("model_sampling")
    for family, name in PREDICTIONS.items():
        if isinstance(sampling, family):
            return name
    return type(sampling).__name__


def require(model: ModelPatcher, names: Collection[str], node: str) -> None:
    """Refuses a model that is none of the named kinds.

    Args:
        names: Those that fit, of TITLES.
        node: The node's display name, for the message.

    Raises:
        ValueError: The model is of another kind.
    """
    kind = identify(model)
    if kind.name in names:
        return
    channels = f" ({kind.in_channels} channels in)" if kind.in_channels else ""
    advice = "Put the node IC-Light after an SD 1.5 model" if set(names) == {"ic-light"} else "Load such a model"
    wanted = " or ".join(title for name, title in TITLES.items() if name in names)
    raise ValueError(
        f"{node} works with {wanted}, and the model here is {kind.title}{channels}. {advice}, or take {node} out. "
        "Inspect Model tells what a model is and which nodes fit it."
    )


def expecting(
    conditioning: Conditioning,
    names: Collection[str],
    node: str,
    size: tuple[int, int] | None = None,
    also: Callable[[ModelPatcher], None] | None = None,
    pictures: int = 1,
) -> Conditioning:
    """A conditioning that is checked against whichever model samples with it, before anything is computed or loaded.

    It travels as a ControlNet that has no network, which every node passes on, and is taken out of the conditioning as
    sampling starts. So it changes neither the result nor which conditionings are batched.

    Args:
        names: The kinds of model that fit, of TITLES.
        node: The node's display name, for the message.
        size: (height, width) in latent pixels of what is concatenated. Sampling at another size is refused, where the
            host would resample it without a word.
        also: What else is asked of the model; it raises. The same function for all prompts, so that they batch.
        pictures: How many are concatenated: one goes with any number of latents, several with as many.
    """
    terms = Terms(frozenset(names), node, size, also, pictures)
    return [[text, {**values, "control": Check(terms, values.get("control"))}] for text, values in conditioning]


class Terms(NamedTuple):
    names: frozenset[str]
    node: str
    size: tuple[int, int] | None
    also: Callable[[ModelPatcher], None] | None
    pictures: int = 1

    def check(self, model: ModelPatcher, latents: torch.Size) -> None:
        require(model, self.names, self.node)
        if self.also is not None:
            self.also(model)
        if self.size is not None and self.size != latents[-2:]:
            expected, found = (f"{w} x {h}" for h, w in (self.size, latents[-2:]))
            raise ValueError(
                f"{self.node} prepared a picture for a latent of {expected} (width x height), and the latent that is "
                f"sampled has {found}. Connect a latent of {expected}, or give {self.node} a picture of the other size."
            )
        if self.pictures not in (1, latents[0]):
            raise ValueError(
                f"{self.node} prepared {self.pictures} pictures, and {latents[0]} latents are sampled. Connect "
                f"{self.node}'s latent, or give it one picture for all."
            )


class Check(ControlBase):
    """A link in a conditioning's chain of ControlNets that adds nothing and asks for `checked` around the sampling.

    Two of the same terms are equal, so that a ControlNet that is applied after them to both prompts stays one object:
    only then the host runs both prompts in one batch.
    """

    def __init__(self, terms: Terms, previous: ControlBase | None = None) -> None:
        super().__init__()
        self.terms = terms
        self.previous_controlnet = previous
        self.cond_hint_original = torch.zeros(1, 3, 1, 1)  # samplers in tiles crop every ControlNet's picture
        self.extra_hooks = HookGroup()
        self.extra_hooks.add(TransformerOptionsHook({"wrappers": {WrappersMP.OUTER_SAMPLE: {"pentimento": [checked]}}}))

    def get_extra_hooks(self) -> list[HookGroup]:
        # Without its own: a conditioning that is said to have hooks makes the host load models a second time where they
        # are loaded piece by piece (dynamic VRAM).
        return self.previous_controlnet.get_extra_hooks() if self.previous_controlnet else []

    def get_control(self, *args: Any) -> dict | None:
        return self.previous_controlnet.get_control(*args) if self.previous_controlnet else None

    def copy(self) -> "Check":
        return Check(self.terms, self.previous_controlnet)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Check)
            and self.terms == other.terms
            and self.previous_controlnet is other.previous_controlnet
        )

    def __hash__(self) -> int:
        return hash(self.terms)


def checked(executor: WrapperExecutor, noise: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Around `CFGGuider.outer_sample`: makes the checks that the conditionings carry, then samples without them."""
    guider = executor.class_obj
    controls = [condition.get("control") for conditions in guider.conds.values() for condition in conditions]
    checks = [link.terms for control in controls for link in _chain(control) if isinstance(link, Check)]
    for terms in dict.fromkeys(checks):
        terms.check(guider.model_patcher, noise.shape)
    known: dict[ControlBase, ControlBase | None] = {}
    guider.conds = {
        name: [_without_checks(condition, known) for condition in conditions]
        for name, conditions in guider.conds.items()
    }
    return executor(noise, *args, **kwargs)


def check(model: ModelPatcher, conditioning: Conditioning, latents: torch.Size) -> None:
    """Makes a conditioning's checks where the sizes that will be sampled are known beforehand.

    Args:
        latents: The shape of what is to be sampled.

    Raises:
        ValueError: As Terms.check.
    """
    for _, values in conditioning:
        for link in _chain(values.get("control")):
            if isinstance(link, Check):
                link.terms.check(model, latents)


def _chain(control: ControlBase | None) -> list[ControlBase]:
    return [control, *_chain(control.previous_controlnet)] if control else []


def _without_checks(condition: dict, known: dict[ControlBase, ControlBase | None]) -> dict:
    control = _unchecked(condition.get("control"), known)
    rest = {key: value for key, value in condition.items() if key != "control"}
    return {**rest, "control": control} if control else rest


def _unchecked(control: ControlBase | None, known: dict[ControlBase, ControlBase | None]) -> ControlBase | None:
    """The chain without its checks. ControlNets that come after one are copied, each once."""
    if control is None:
        return None
    if control not in known:
        rest = _unchecked(control.previous_controlnet, known)
        if isinstance(control, Check):
            known[control] = rest
        elif rest is control.previous_controlnet:
            known[control] = control
        else:
            known[control] = control.copy().set_previous_controlnet(rest)
    return known[control]
