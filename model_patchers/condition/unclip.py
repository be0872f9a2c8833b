"""Stable unCLIP: Stable Diffusion 2.1 that follows a picture's CLIP embedding beside the text.

The embedding gets noise of a level. The model's global vector is the noised embedding and the embedding of the level.
"""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from comfy.conds import CONDRegular
from comfy.ldm.modules.diffusionmodules.util import make_beta_schedule, timestep_embedding
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfyui.conditioning import Conditioning, Needs, feed, inputs_of, needs
from ..comfyui.fit import check_numbers
from ..comfyui.kinds import ROWS, fitting, require
from ..comfyui.model_files import dequantized, read_model
from ..comfyui.schedule import seeded
from ..pixels.images import to_rgb

ENCODE, STATS = "unCLIP Encode", "unCLIP-L Statistics"
KINDS = {kind.pictures: kind.name for kind in ROWS if kind.pictures}  # {width of the CLIP embedding: kind of model}
CROPS = ["center", "none"]
MAX_LEVEL = 999
HOW_TO_WEIGH = "Write one number for each picture, such as '1, 0.5', or leave weights empty for equal weights."
# "0,5", and a comma between digits where other signs are between numbers: "1,5; 0,5", "1,5 0,5".
DECIMAL_COMMA = re.compile(r"\A0,\d+\Z|(?<![\w+-])\d+,\d+[\s;]|[\s;]\d+,\d+(?!\w)")
MEAN, STD = "noise_augmentor.data_mean", "noise_augmentor.data_std"


def alphas_cumprod() -> Tensor:
    """abar of the noise on embeddings, (1000,): the cosine schedule of Nichol & Dhariwal 2021, eq. 17.

    "squaredcos_cap_v2" in Stability's and diffusers' configurations, with beta <= 0.999. Float32 as in diffusers: at
    level 0, 1 - abar is 4e-5, and its rounding moves the noise by 0.07 %.
    """
    betas = torch.tensor(make_beta_schedule("squaredcos_cap_v2", 1000), dtype=torch.float32)
    return torch.cumprod(1 - betas, 0)


def augment(x: Tensor, level: int, noise: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Embeddings with noise of a level. Level 0 has noise of 0.0064 std.

    `(sqrt(abar_t) x' + sqrt(1 - abar_t) noise) std + mean` with `x' = (x - mean) / std`, as in
    CLIPEmbeddingNoiseAugmentation of Stability's stablediffusion.
    """
    abar = alphas_cumprod()[level]
    return (abar**0.5 * (x - mean) / std + (1 - abar) ** 0.5 * noise) * std + mean


class Pictures(NamedTuple):
    """Embeddings of pictures with the settings of one unCLIP Encode, and the noise, which depends on no model."""

    embeds: Tensor  # (N, dim)
    weights: Tensor  # (N, 1), float64
    noise: Tensor  # (N, dim)
    level: int
    merge_noise: Tensor  # (1, dim)
    merge_level: int  # -1: none


def adm(groups: Sequence[Pictures], mean: Tensor, std: Tensor) -> Tensor:
    """The global vector for one or more pictures: [noised embedding, embedding of the level].

    `a_i = [augment(x_i, L_i), emb(L_i)]`, `a = sum(w_i a_i) / sum(w_i)`. For several pictures and a merge level M >= 0:
    `[augment(first half of a, M), emb(M)]`. From scripts/streamlit/stableunclip.py of Stability's stablediffusion.

    Args:
        groups: The last group's merge level and merge noise are used.
        mean, std: (1, dim), of the embeddings that the model was trained with.

    Returns:
        (1, 2 dim), float32.
    """
    last, dim = groups[-1], mean.shape[-1]
    vectors = []
    for group in groups:
        noised = augment(group.embeds, group.level, group.noise, mean, std)
        vectors.append(torch.cat((noised, timestep_embedding(torch.tensor([group.level]), dim).expand_as(noised)), 1))
    weights = torch.cat([group.weights for group in groups])
    vector = ((weights * torch.cat(vectors)).sum(0, keepdim=True) / weights.sum()).float()
    if len(weights) == 1 or last.merge_level < 0:
        return vector
    merged = augment(vector[:, :dim], last.merge_level, last.merge_noise, mean, std)
    return torch.cat((merged, timestep_embedding(torch.tensor([last.merge_level]), dim)), 1)


class Mixture(NamedTuple):
    """The ModelInputs of a conditioning with pictures. It uses the statistics of the model that samples."""

    groups: tuple[Pictures, ...]

    def __call__(self, condition: dict, model: ModelPatcher, device: torch.device) -> dict[str, CONDRegular]:
        refuse_others(condition)
        mean, std = (model.get_model_object(name).float().cpu() for name in (MEAN, STD))
        if mean.shape[-1] == 768 and not mean.any():
            logging.warning("unCLIP-L without statistics gets twice the noise of its training. Use %s.", STATS)
        return {"y": CONDRegular(adm(self.groups, mean, std).to(device))}


def refuse_others(condition: dict) -> None:
    """Refuses a conditioning on which ComfyUI's unCLIPConditioning is too.

    Raises:
        ValueError: It is.
    """
    if "unclip_conditioning" in condition:
        raise ValueError(
            f"{ENCODE} and unCLIPConditioning are on the same conditioning, and they count pictures differently. "
            f"Remove unCLIPConditioning, and connect its picture to {ENCODE}: in a batch with the other pictures, or "
            f"to one more {ENCODE}."
        )


def read_weights(text: str) -> list[float]:
    """The numbers in a text such as "1, 0.5"; [] for "".

    Raises:
        ValueError: There is more than numbers in the text, a number is negative, the sum is 0 or infinite, or a comma
            may be a decimal comma.
    """
    if "." not in text and DECIMAL_COMMA.search(text.strip()):
        raise ValueError(
            f"{ENCODE}: weights is '{text}', in which a comma may stand for a decimal point or between two numbers. "
            "Write decimals with a point and a space after each comma, such as '1, 0.5'."
        )
    words = re.split(r"[\s,;]+", text.strip(" \t\r\n,;"))
    try:
        weights = [float(word) for word in words if word]
    except ValueError:
        raise ValueError(f"{ENCODE}: weights is '{text}', and that holds more than numbers. {HOW_TO_WEIGH}") from None
    if not (all(weight >= 0 for weight in weights) and sum(weights) < math.inf):
        raise ValueError(f"{ENCODE}: weights is '{text}', but no weight may be negative or infinite. {HOW_TO_WEIGH}")
    if weights and not sum(weights):
        raise ValueError(f"{ENCODE}: weights is '{text}', so no picture has any weight. {HOW_TO_WEIGH}")
    return weights


def encode(
    conditioning: Conditioning,
    clip_vision: Any,
    image: Tensor,
    weights: str,
    noise_level: int,
    merge_noise_level: int,
    noise_seed: int,
    crop: str,
) -> Conditioning:
    """The prompt with pictures to follow, added to the pictures of an earlier unCLIP Encode on the same prompt.

    Args:
        clip_vision: ComfyUI's CLIP vision model, the one that the diffusion model was trained with: ViT-L/14 or
            OpenCLIP's ViT-H/14.
        image: (N, H, W, C) in [0, 1].
        weights: As for `read_weights`, N numbers; empty: 1 for each picture.
        noise_level: 0 ... MAX_LEVEL, for each picture.
        merge_noise_level: 0 ... MAX_LEVEL, for the mean of several pictures; -1 = no noise.
        noise_seed: Of the noise on embeddings.
        crop: One of CROPS: the middle square, or the whole picture squeezed into a square.

    Raises:
        ValueError: The weights are wrong; no Stable unCLIP was trained with the CLIP vision model; the earlier pictures
            were encoded by another one; ComfyUI's unCLIPConditioning is on the same prompt.
    """
    numbers = read_weights(weights) or [1.0] * len(image)
    if len(numbers) != len(image):
        raise ValueError(
            f"{ENCODE}: weights has {len(numbers)} numbers but image has {len(image)} pictures. {HOW_TO_WEIGH}"
        )
    embeds = clip_vision.encode_image(to_rgb(image), crop=crop == "center").image_embeds.float().cpu()
    dim = embeds.shape[-1]
    if dim not in KINDS:
        raise ValueError(
            f"{ENCODE}: clip_vision makes embeddings of {dim} numbers, but Stable unCLIP needs those of CLIP ViT-L/14 "
            "(768) or OpenCLIP ViT-H/14 (1024). Connect the clip_vision of unCLIPCheckpointLoader."
        )
    noise = seeded(noise_seed, (len(image) + 1, dim))
    column = torch.tensor(numbers, dtype=torch.float64)[:, None]
    pictures = Pictures(embeds, column, noise[:-1], noise_level, noise[-1:], merge_noise_level)
    prompt = []
    for text, values in needs(conditioning, Needs(frozenset({KINDS[dim]}), ENCODE)):
        refuse_others(values)
        prompt += feed([[text, values]], Mixture((*_groups(values, dim), pictures)))
    return prompt


def _groups(values: dict, dim: int) -> tuple[Pictures, ...]:
    """The pictures of earlier unCLIP Encodes on a conditioning."""
    mixture = inputs_of(values)
    if not isinstance(mixture, Mixture):
        return ()
    if (other := mixture.groups[-1].embeds.shape[-1]) != dim:
        raise ValueError(
            f"{ENCODE}: clip_vision makes embeddings of {dim} numbers, but conditioning has pictures of another "
            f"clip_vision, which makes {other}. Connect the same clip_vision to each {ENCODE}."
        )
    return mixture.groups


def with_statistics(model: ModelPatcher, path: str | Path) -> ModelPatcher:
    """A clone of an unCLIP-L model with the mean and the standard deviation of its CLIP embeddings.

    ComfyUI uses 0 and 1, which is right for unCLIP-H but gives unCLIP-L twice the noise of the reference.

    Args:
        path: As for `read_statistics`.

    Raises:
        ValueError: The model is no unCLIP-L, or the file does not hold the statistics.
    """
    require(model, fitting(STATS), STATS)
    mean, std = read_statistics(path)
    model = model.clone()
    model.add_object_patch(MEAN, mean)
    model.add_object_patch(STD, std)
    return model


def read_statistics(path: str | Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, 768) of ViT-L/14's embeddings.

    Args:
        path: Of Karlo's ViT-L-14_stats.th, a pickled pair, or of a diffusers model's weights in the folder
            image_normalizer, named mean and std.

    Raises:
        ValueError: The file holds something else.
    """
    weights = dequantized(read_model(path), Path(path).name)
    names = ("mean", "std") if "mean" in weights else ("0", "1")
    if weights.keys() != set(names) or any(tensor.numel() != 768 for tensor in weights.values()):
        shapes = ", ".join(f"'{name}' {tuple(tensor.shape)}" for name, tensor in list(weights.items())[:4])
        raise ValueError(
            f"'{Path(path).name}' holds {len(weights)} tensors: {shapes}. {STATS} needs the mean and the standard "
            "deviation of CLIP ViT-L/14's embeddings, 768 numbers each: ViT-L-14_stats.th, or the file in the folder "
            "image_normalizer of stable-diffusion-2-1-unclip-small. Choose one of these files."
        )
    check_numbers(weights, Path(path).name)
    # Copies: the tensors of a safetensors file are the file itself, and a user may write another in its place.
    mean, std = (weights[name].float().reshape(1, 768).clone() for name in names)
    if not (std > 0).all():
        raise ValueError(
            f"'{Path(path).name}' is damaged: it has a standard deviation that is not above 0. Download the file again."
        )
    return mean, std
