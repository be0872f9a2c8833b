"""The kinds of model that this pack tells apart, one row for each, and how to tell them.

Models with 5, 7, 8, 9 and 12 input channels concatenate something to the latent, each something else and at another
scale. A wrong pair of model and conditioning fails with an error about shapes, or silently gives a bad picture. So
nodes say what they need: those that see the model with `require`, those that do not with `conditioning.needs`.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import comfy.lora
import comfy.model_base
import comfy.model_sampling
from comfy.latent_formats import SD_X4
from comfy.model_patcher import ModelPatcher

X4_PIXELS = 4  # pixels to a latent pixel of SD x4, in each direction: its VAE has levels of ch, 2 ch and 4 ch channels
FIRST = "diffusion_model.input_blocks.0.0.weight"


@dataclass(frozen=True)
class Kind:
    """A kind of model, and the inputs that it takes.

    Attributes:
        name: A short name; "other" for a model of no row.
        title: The name that users know.
        first: Channels of the first level, by which, with the next two, ComfyUI tells models.
        text: Width of the text.
        adm: Width of the global vector; None: the model takes no vector.
        in_channels: Of the first convolution after patches; 0: there is none of the known name.
        concatenated: What is concatenated to the latent, in this order; "": nothing.
        scale: Of what is concatenated.
        vector: What the global vector holds; "": nothing, or not known.
        nodes: Display names of the nodes for it.
        pictures: Width of the CLIP embedding of pictures that it follows; 0: it follows none.
        note: A remark for Inspect Model.
        prediction: What the network's output means: "eps", "v", ... It is not part of a row.
    """

    name: str
    title: str
    first: int = 320
    text: int | None = None
    adm: int | None = None
    in_channels: int = 4
    concatenated: str = ""
    scale: str = ""
    vector: str = ""
    nodes: tuple[str, ...] = ()
    pictures: int = 0
    note: str = ""
    prediction: str = ""


PICTURE = "the picture's latent (4)"
INPAINT = "the mask (1), the masked picture's latent (4)"
SDXL_VECTOR = "the pooled text (1280), sizes and crop (1536)"
EDIT_NODES = ("InstructPix2Pix Conditioning", "InstructPix2Pix Guider", "InstructPix2Pix for Any Sampler")
INPAINT_NODES = ("ComfyUI's own InpaintModelConditioning",)
SD1, SD2, SDXL = {"text": 768}, {"text": 1024}, {"text": 2048, "adm": 2816, "vector": SDXL_VECTOR}

ROWS = (
    Kind("sd15", "Stable Diffusion 1.5", **SD1, nodes=("IC-Light",)),
    Kind(
        "instruct-pix2pix",
        "InstructPix2Pix (SD 1.5)",
        **SD1,
        in_channels=8,
        concatenated=PICTURE,
        scale="the VAE's mean as it is, not x 0.18215",
        nodes=EDIT_NODES,
        note="An IC-Light that was merged into a full model looks the same from here.",
    ),
    Kind(
        "sd15-inpaint",
        "SD 1.5 Inpainting",
        **SD1,
        in_channels=9,
        concatenated=INPAINT,
        scale="the latent x 0.18215",
        nodes=INPAINT_NODES,
    ),
    Kind(
        "ic-light",
        "IC-Light",
        **SD1,
        in_channels=12,
        concatenated="the foreground's latent (4)",
        scale="the VAE's mean x 0.18215",
        nodes=("IC-Light Conditioning",),
    ),
    Kind("sd2", "Stable Diffusion 2", **SD2),
    Kind(
        "sd2-depth",
        "SD 2 Depth",
        **SD2,
        in_channels=5,
        concatenated="depth (1)",
        scale="each picture's depth from -1 (far) to 1 (near), at the latent's size",
        nodes=("SD2 Depth Conditioning",),
    ),
    Kind(
        "sd2-inpaint",
        "SD 2 Inpainting",
        **SD2,
        in_channels=9,
        concatenated=INPAINT,
        scale="the latent x 0.18215",
        nodes=INPAINT_NODES,
    ),
    Kind(
        "unclip-l",
        "Stable unCLIP-L",
        **SD2,
        adm=1536,
        vector="CLIP ViT-L/14's embedding of a picture (768) and its noise level (768)",
        nodes=("unCLIP Encode", "unCLIP-L Statistics"),
        pictures=768,
    ),
    Kind(
        "unclip-h",
        "Stable unCLIP-H",
        **SD2,
        adm=2048,
        vector="CLIP ViT-H/14's embedding of a picture (1024) and its noise level (1024)",
        nodes=("unCLIP Encode",),
        pictures=1024,
    ),
    Kind(
        "sd-x4",
        "the SD x4 Upscaler",
        **SD2,
        first=256,
        in_channels=7,
        concatenated="the small picture's red, green and blue (3)",
        scale="pixels from -1 to 1, with noise of the level (0..350)",
        vector="the noise level, a number",
        nodes=("SD x4 Conditioning",),
    ),
    Kind("sdxl", "SDXL", **SDXL),
    Kind(
        "instruct-pix2pix-sdxl",
        "InstructPix2Pix (SDXL)",
        **SDXL,
        in_channels=8,
        concatenated=PICTURE,
        scale="the VAE's mean as it is, not x 0.13025",
        nodes=EDIT_NODES,
    ),
    # Told from InstructPix2Pix (SDXL) by its noise levels alone.
    Kind(
        "cosxl-edit",
        "CosXL Edit",
        **SDXL,
        in_channels=8,
        concatenated=PICTURE,
        scale="the VAE's mean x 0.13025",
        nodes=EDIT_NODES,
        note="Told from InstructPix2Pix (SDXL) by its noise levels, which not every file of it states.",
    ),
    Kind(
        "sdxl-inpaint",
        "SDXL Inpainting",
        **SDXL,
        in_channels=9,
        concatenated=INPAINT,
        scale="the latent x 0.13025",
        nodes=INPAINT_NODES,
    ),
)
KINDS = {kind.name: kind for kind in ROWS}
# ComfyUI's classes build on each other: the most special comes first.
PREDICTIONS = {
    comfy.model_sampling.EDM: "EDM",
    comfy.model_sampling.V_PREDICTION: "v",
    comfy.model_sampling.X0: "x0",
    comfy.model_sampling.EPS: "eps",
    comfy.model_sampling.CONST: "flow",
}


def fitting(node: str) -> frozenset[str]:
    """Names of the kinds that a node works with.

    Args:
        node: Its display name.
    """
    return frozenset(kind.name for kind in ROWS if node in kind.nodes)


def identify(model: ModelPatcher) -> Kind:
    """What the model is, by the shapes of its weights and the patches on them, whatever its file was called.

    An InstructPix2Pix model and an IC-Light that was merged into a full model have the same shapes: the latter is taken
    for the former. The patch of the node IC-Light on SD 1.5 is recognised as a patch.
    """
    shape, channels = _first_convolution(model)
    kind = _row(model, shape, channels)
    if kind.name == "ic-light" and channels == 12:
        kind = replace(kind, concatenated=f"{kind.concatenated}, the background's latent (4)")
    return replace(kind, in_channels=channels, prediction=_prediction(model))


def _row(model: ModelPatcher, shape: tuple[int, ...], channels: int) -> Kind:
    config = getattr(model.model.model_config, "unet_config", {})
    other = Kind("other", f"a model of the kind '{type(model.model).__name__}'")
    if config.get("use_temporal_attention") or hasattr(model.model, "cc_projection"):  # Stable Video, Zero123
        return other
    signature = shape[0], config.get("context_dim"), config.get("adm_in_channels"), channels
    kind = next((k for k in ROWS if (k.first, k.text, k.adm, k.in_channels) == signature), other)
    if kind.name == "instruct-pix2pix" and shape[1] == 4:
        return KINDS["ic-light"]
    if kind.name == "instruct-pix2pix-sdxl" and model.model.model_type == comfy.model_base.ModelType.V_PREDICTION_EDM:
        return KINDS["cosxl-edit"]
    return kind


def _first_convolution(model: ModelPatcher) -> tuple[tuple[int, ...], int]:
    """Shape of the first convolution's weight as it was loaded, and its channels in after patches."""
    patches = model.get_key_patches(FIRST)
    if FIRST not in patches:
        return (0, 0), 0
    (weight, _), *later = patches[FIRST]
    return tuple(weight.shape), comfy.lora.calculate_shape(later, weight, FIRST)[1]


def _prediction(model: ModelPatcher) -> str:
    """What the network's output means, after patches such as ModelSamplingDiscrete."""
    sampling = model.get_model_object("model_sampling")
    return next((name for family, name in PREDICTIONS.items() if isinstance(sampling, family)), type(sampling).__name__)


def pixels_per_latent(model: ModelPatcher) -> int:
    """How many pixels of a picture there are to a latent pixel, in each direction. ComfyUI's format of SD x4 says 8."""
    latent_format = model.get_model_object("latent_format")
    return X4_PIXELS if isinstance(latent_format, SD_X4) else latent_format.spacial_downscale_ratio


def require(model: ModelPatcher, names: Collection[str], node: str) -> None:
    """Refuses a model that is none of the named kinds.

    Args:
        names: Of the kinds that fit, of KINDS.
        node: The node's display name, for the message.

    Raises:
        ValueError: The model is of another kind.
    """
    kind = identify(model)
    if kind.name in names:
        return
    channels = f" ({kind.in_channels} channels in)" if kind.in_channels else ""
    advice = "Put the node IC-Light after an SD 1.5 model" if set(names) == {"ic-light"} else "Load such a model"
    wanted = " or ".join(row.title for row in ROWS if row.name in names)
    raise ValueError(
        f"{node} works with {wanted}, and the model here is {kind.title}{channels}. {advice}, or remove {node}. "
        "Inspect Model tells what a model is and which nodes fit it."
    )
