"""UNets in diffusers' format, with any number of input channels and of blocks.

ComfyUI's own loader compares a UNet with a list of shapes, which lacks SD 1.5 with 8 or 12 input channels, SD 2 with 5
or 9, and SD x4. Here each name is translated, and ComfyUI loads the result as it loads a file of Stability's.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import comfy.model_detection
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfyui.describe import are_offsets, below, describe
from ..comfyui.fit import check, sizes_of
from ..comfyui.model_files import MARK, PARTS, dequantized, forms, read_model, scale, scaled_fp8

NODE = "Load Diffusers UNet"
NEEDED = f"{NODE} takes diffusion_pytorch_model.safetensors or .bin from a model's folder 'unet'."
# {diffusers' name of a module: Stability's}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",  # SD x4: a table of noise levels
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# Keys beside the UNet in a checkpoint that tell its noise levels (CosXL, models with v prediction).
SAMPLING = ("edm_vpred.sigma_max", "edm_vpred.sigma_min", "v_pred", "ztsnr")
# Tensors by which ComfyUI tells a UNet's sizes, and how many dimensions they have.
TELLING = {
    r"input_blocks\.0\.0\.weight": (4,),
    r"out\.2\.weight": (4,),
    r"label_emb\.0\.0\.weight": (2,),
    r"input_blocks\.\d+\.0\.out_layers\.3\.weight": (4,),
    r".*\.1\.transformer_blocks\.0\.attn2\.to_k\.weight": (2,),
    r".*\.1\.proj_in\.weight": (2, 4),
}
TABLE = "label_emb"  # of SD x4's noise levels: no linear layer, although its weight has two dimensions
# Parts of other networks, which ComfyUI would leave out of the UNet without a word: what a file with them is.
FOREIGN = {
    r"(time_embedding|time_embed)\.cond_proj\.": "an LCM UNet, which reads the guidance from an input that ComfyUI's "
    "UNets do not have. Load the model that it was distilled from, add its LCM LoRA with Load LoRA, and sample with "
    "the sampler lcm",
    r".*(motion_modules|temporal_transformer)\.": "a UNet with AnimateDiff's motion modules, which make videos. Load "
    "the UNet without them, and the motion modules with the node pack ComfyUI-AnimateDiff-Evolved",
    r".*(lora|hada_|lokr_)": "a UNet with a LoRA that is not merged. Load the UNet without the LoRA, and the LoRA with "
    "Load LoRA",
    r".*(to_k_ip\.|encoder_hid_proj\.)": "a UNet with an image prompt adapter (IP-Adapter). Load the UNet without it, "
    "and the adapter with the node pack ComfyUI_IPAdapter_plus",
    r".*(\.fuser\.|position_net\.)": "a GLIGEN UNet. Load the UNet without GLIGEN's parts, and those from "
    "models/gligen with GLIGENLoader",
}


def to_stability(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A diffusers UNet's weights under the names of Stability's files. Names that are in no UNet are not changed."""
    names = modules(weights)

    def renamed(key: str) -> str:
        for module, name in names.items():
            if key.startswith(f"{module}."):
                inner, _, parameter = key.removeprefix(f"{module}.").rpartition(".")
                inner = RESIDUAL.get(inner, inner) if ".resnets." in module else inner
                return ".".join(filter(None, (name, inner, parameter)))
        return key

    return {renamed(key): weight for key, weight in weights.items()}


def modules(keys: Iterable[str]) -> dict[str, str]:
    """{diffusers' name: Stability's} of every module in a UNet with these keys.

    diffusers numbers blocks within each level. Stability numbers them through all levels: a downsampling is a block of
    its own, an upsampling is the last part of a block. ComfyUI's `unet_to_diffusers(config)` does not replace this:
    it is wrong for levels with different numbers of residual blocks, and lacks SD x4's table of noise levels.
    """
    present = {key[: end + 1] for key in keys for end, letter in enumerate(key) if letter == "."}

    def count(name: str) -> int:
        return next(i for i in range(len(present) + 1) if f"{name}.{i}." not in present)

    names, block = dict(OUTSIDE), 1
    for level in range(count("down_blocks")):
        down = f"down_blocks.{level}"
        for i in range(count(f"{down}.resnets")):
            names[f"{down}.resnets.{i}"] = f"input_blocks.{block}.0"
            names[f"{down}.attentions.{i}"] = f"input_blocks.{block}.1"
            block += 1
        names[f"{down}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
        block += 1
    block = 0
    for level in range(count("up_blocks")):
        up = f"up_blocks.{level}"
        for i in range(count(f"{up}.resnets")):
            names[f"{up}.resnets.{i}"] = f"output_blocks.{block}.0"
            names[f"{up}.attentions.{i}"] = f"output_blocks.{block}.1"
            block += 1
        part = 2 if f"{up}.attentions." in present else 1
        names[f"{up}.upsamplers.0.conv"] = f"output_blocks.{block - 1}.{part}.conv"
    return names


def unet_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The UNet in a file under the names of Stability's files, without a prefix.

    Args:
        weights: All weights of the file, from read_model, in diffusers' format or in Stability's, with any prefix.
        file: The file's name, for messages.

    Raises:
        ValueError: The file holds no whole UNet.
    """
    if any(key.startswith("cc_projection.") for key in weights):
        raise ValueError(
            f"'{file}' holds Stable Zero123, which is more than a UNet ('cc_projection.weight'). Put it in "
            "models/checkpoints and load it with Image Only Checkpoint Loader."
        )
    for telling_key, convert, others in FORMATS:
        unet = below(weights, telling_key)
        if unet.keys() >= others:
            unet = convert(unet)
            _refuse_offsets(unet, file)
            return {key: weights[key] for key in SAMPLING if key in weights} | unet
    raise ValueError(f"'{file}' holds no UNet: it is {_other(weights)}")


# For each format: a key that UNets have but no ControlNet and no VAE has; a function that gives the UNet's weights
# Stability's names; more keys of every UNet.
FORMATS = (
    ("out.2.weight", dict, {"input_blocks.0.0.weight", "time_embed.0.weight"}),
    ("time_embedding.linear_1.weight", to_stability, {"conv_in.weight", "conv_out.weight"}),
)


def _refuse_offsets(weights: dict[str, Tensor], file: str) -> None:
    if are_offsets(weights):
        raise ValueError(
            f"'{file}' holds offsets to a UNet's weights, as IC-Light's files do, and no UNet. "
            "Load Stable Diffusion 1.5, and add the file to the model with the node IC-Light."
        )


def _other(weights: dict[str, Tensor]) -> str:
    """What a file without a UNet is, and where to put it, for a message."""
    for part, answer in (
        ("motion_modules.", "AnimateDiff's motion modules. Load them with the node pack ComfyUI-AnimateDiff-Evolved."),
        ("lora", "a LoRA. Put it in models/loras and load it with Load LoRA."),
        ("control", "a ControlNet. Put it in models/controlnet and load it with Load ControlNet Model."),
        ("decoder.conv_in.weight", "a VAE. Put it in models/vae and load it with Load VAE."),
    ):
        if any(part in key for key in weights):
            return answer
    return f"{describe(weights)}. {NEEDED}"


def check_unet(weights: dict[str, Tensor], file: str) -> None:
    """Refuses weights that ComfyUI would not load, or would load in part.

    Args:
        weights: From unet_weights.
        file: The file's name, for messages.

    Raises:
        ValueError: The UNet is of an unknown family; tensors are missing, left over, or have other shapes or kinds of
            numbers; or values are NaN or infinite.
    """
    for pattern, kind in FOREIGN.items():
        if key := next((key for key in weights if re.match(pattern, key)), None):
            raise ValueError(f"'{file}' holds {kind}. (It has '{key}'.)")
    with sizes_of(file, "UNet"):
        _check_dimensions(weights)
        family = _family(weights)
    if family is None:
        first = tuple(weights["input_blocks.0.0.weight"].shape)
        raise ValueError(
            f"'{file}' is a UNet of no family that ComfyUI knows: {first[1]} channels in and {first[0]} in the first "
            f"level, as its 'input_blocks.0.0.weight' of {first} tells, and {_text(weights)}. Choose a UNet of SD 1.x, "
            "2.x, unCLIP, x4 or SDXL."
        )
    network = UNetModel(**family.unet_config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    # A quantized layer has more tensors, and in packed forms a weight of another shape: ComfyUI reads both.
    quantized = forms(weights)
    packed = {f"{layer}.weight" for layer in quantized.keys() - scaled_fp8(weights)}
    beside = packed | {f"{layer}.{part}" for layer in quantized for part in PARTS} | set(SAMPLING)
    mine = {key: value for key, value in weights.items() if key not in beside}
    check(mine, {key: value for key, value in network.items() if key not in packed}, file, "UNet", NEEDED)


def _check_dimensions(weights: dict[str, Tensor]) -> None:
    for key, value in weights.items():
        needed = next((dimensions for name, dimensions in TELLING.items() if re.fullmatch(name, key)), None)
        if needed and (value.ndim not in needed or not value.numel()):
            choice = " or ".join(map(str, needed))
            raise ValueError(f"its '{key}' is {tuple(value.shape)}, and needs {choice} dimensions, none of them 0")


def _family(weights: dict[str, Tensor]) -> comfy.supported_models_base.BASE | None:
    """ComfyUI's description of the model; None if it knows none."""
    try:
        return comfy.model_detection.model_config_from_unet(
            {key: value for key, value in weights.items() if not key.endswith(MARK)}, ""
        )
    except KeyError as error:  # detection asks for tensors beside those that it saw
        raise ValueError(f"it lacks '{error.args[0]}'") from None


def _text(weights: dict[str, Tensor]) -> str:
    name = next((key for key in weights if key.endswith("attn2.to_k.weight")), None)
    return f"text {weights[name].shape[1]} wide, as its '{name}' tells" if name else "no attention to a text"


def load(path: str | Path, disable_dynamic: bool = False) -> ModelPatcher:
    """The model of a UNet file, or of several files, in diffusers' format or in Stability's.

    ComfyUI tells from the weights what the model predicts, such as v for SD x4, keeps quantized layers as they are, and
    manages the memory. It keeps linear layers alone: others, and scales for each row, are turned into float16 here.

    Args:
        disable_dynamic: True: without dynamic VRAM. ComfyUI passes it when it loads the file again.

    Raises:
        ValueError: The file holds no UNet, a UNet of an unknown family, or parts of a UNet.
    """
    file = Path(path).name
    weights = unet_weights(read_model(path), file)
    scaled = scaled_fp8(weights)
    kept = {layer for layer in scaled if weights[f"{layer}.weight"].ndim == 2 and not scale(weights, layer, file).ndim}
    weights = dequantized(weights, file, torch.float16, scaled - (kept - {TABLE}))
    check_unet(weights, file)
    model = comfy.sd.load_diffusion_model_state_dict(weights, disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (load, (path,))
    return model
