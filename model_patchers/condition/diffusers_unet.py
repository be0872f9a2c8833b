"""UNets in diffusers' format, with any number of input channels and of blocks.

ComfyUI's own loader compares a UNet with a list of shapes, which lacks SD 1.5 with 8 or 12 input channels, SD 2 with 5
or 9, and SD x4. Here each name is translated, and ComfyUI loads the result as it loads a file of Stability's.
"""

from collections.abc import Iterable
from pathlib import Path

import comfy.sd
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfyui.describe import are_offsets, below, describe
from ..comfyui.weights import read_state_dict

NODE = "Load Diffusers UNet"
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
        weights: All weights of the file, in diffusers' format or in Stability's, with any prefix.
        file: The file's name, for messages.

    Raises:
        ValueError: The file holds no whole UNet.
    """
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
        ("lora", "a LoRA. Put it in models/loras and load it with Load LoRA."),
        ("control", "a ControlNet. Put it in models/controlnet and load it with Load ControlNet Model."),
        ("decoder.conv_in.weight", "a VAE. Put it in models/vae and load it with Load VAE."),
    ):
        if any(part in key for key in weights):
            return answer
    return (
        f"{describe(weights)}. {NODE} takes diffusion_pytorch_model.safetensors or .bin from a model's folder 'unet'."
    )


def load(path: str | Path, disable_dynamic: bool = False) -> ModelPatcher:
    """The model of a UNet file in diffusers' format or in Stability's.

    ComfyUI tells from the weights what the model predicts, such as v for SD x4, and manages the memory.

    Args:
        disable_dynamic: True: without dynamic VRAM. ComfyUI passes it when it loads the file again.

    Raises:
        ValueError: The file holds no UNet, a UNet of an unknown family, or parts of a UNet.
    """
    file = Path(path).name
    weights = unet_weights(read_state_dict(path), file)
    names, first = set(weights), weights["input_blocks.0.0.weight"]
    model = comfy.sd.load_diffusion_model_state_dict(weights, disable_dynamic=disable_dynamic)
    if model is None:
        raise ValueError(
            f"'{file}' is a UNet of no family that ComfyUI knows: {first.shape[1]} channels in and {first.shape[0]} in "
            "the first level. Choose a UNet of SD 1.x, 2.x, unCLIP, x4 or SDXL."
        )
    missing = sorted(model.model.diffusion_model.state_dict().keys() - names)
    if missing:
        raise ValueError(
            f"'{file}' lacks {len(missing)} of the UNet's weights, such as '{missing[0]}'. If the model comes in "
            "several files ('...-00001-of-00002'), take the one in a single file; otherwise download it again."
        )
    model.cached_patcher_init = (load, (path,))
    return model
