"""Stable unCLIP: Stable Diffusion 2.1 that follows a picture's CLIP embedding next to the text.

The embedding is noised to a level, and the level's own embedding goes with it as the model's global vector.
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

from ..comfyui.conditioning import Conditioning, Needs, feed, feeds, needs
from ..comfyui.kinds import ROWS, fitting, require
from ..comfyui.schedule import seeded
from ..comfyui.weights import read_state_dict
from ..pixels.images import to_rgb

ENCODE, STATS = "unCLIP Encode", "unCLIP-L Statistics"
KINDS = {kind.pictures: kind.name for kind in ROWS if kind.pictures}  # by the width of the picture's embedding
CROPS = ["center", "none"]
MAX_LEVEL = 999
HOW_TO_WEIGH = "Give one number for each picture, such as '1, 0.5', or leave it empty for equal weights."
MEAN, STD = "noise_augmentor.data_mean", "noise_augmentor.data_std"


def alphas_cumprod() -> Tensor:
    """abar of the noise on embeddings: the cosine schedule of Nichol & Dhariwal 2021, eq. 17, with beta <= 0.999.

    "squaredcos_cap_v2" in Stability's and diffusers' configurations. (1000,), float64.
    """
    return torch.cumprod(1 - torch.as_tensor(make_beta_schedule("squaredcos_cap_v2", 1000), dtype=torch.float64), 0)


def augment(x: Tensor, level: int, noise: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Noises embeddings of the given statistics to a level. Level 0 has a little noise too: 0.0064 of the spread.

    `sqrt(abar_t) x' + sqrt(1 - abar_t) noise` with x' = (x - mean) / std, and back; CLIPEmbeddingNoiseAugmentation of
    Stability's stablediffusion.
    """
    abar = float(alphas_cumprod()[level])
    return (abar**0.5 * (x - mean) / std + (1 - abar) ** 0.5 * noise) * std + mean


class Pictures(NamedTuple):
    """Embeddings of pictures and what unCLIP Encode was told of them. The noise is here, as it depends on no model."""

    embeds: Tensor  # (N, dim)
    weights: Tensor  # (N, 1), float64
    noise: Tensor  # (N, dim)
    level: int
    merge_noise: Tensor  # (1, dim)
    merge_level: int  # -1: none


def adm(groups: Sequence[Pictures], mean: Tensor, std: Tensor) -> Tensor:
    """The global vector for one or more pictures: [embedding, level's embedding].

    `a_i = [augment(x_i, L), emb(L)]`, `a = sum(w_i a_i) / sum(w_i)`; of several pictures, unless merge_level is -1,
    `[augment(a's first half, M), emb(M)]`: scripts/streamlit/stableunclip.py of Stability's stablediffusion.

    Args:
        groups: The last one's merge level holds for all.
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
    """What a conditioning feeds to the model, once it is known which model: with or without statistics."""

    groups: tuple[Pictures, ...]

    def __call__(self, condition: dict, model: ModelPatcher, device: torch.device) -> dict[str, CONDRegular]:
        refuse_others(condition)
        mean, std = (model.get_model_object(name).float().cpu() for name in (MEAN, STD))
        if mean.shape[-1] == 768 and not mean.any():
            logging.warning("unCLIP-L without statistics gets twice the noise it should: see %s.", STATS)
        return {"y": CONDRegular(adm(self.groups, mean, std).to(device))}


def refuse_others(condition: dict) -> None:
    """Raises where the host's unCLIPConditioning is on the same conditioning, before it or after."""
    if "unclip_conditioning" in condition:
        raise ValueError(
            f"{ENCODE} and unCLIPConditioning are on the same conditioning, and they count pictures differently. Take "
            f"unCLIPConditioning out, and connect its picture to {ENCODE}: in a batch with the others, or to another "
            f"{ENCODE} before or after."
        )


def read_weights(text: str) -> list[float]:
    """The numbers in "1, 0.5"; none in "".

    Raises:
        ValueError: Something else is in it, or a number is negative, or they add up to 0.
    """
    words = re.split(r"[\s,;]+", text.strip(" \t\r\n,;"))
    try:
        weights = [float(word) for word in words if word]
    except ValueError:
        raise ValueError(f"{ENCODE}: weights is '{text}', and that holds more than numbers. {HOW_TO_WEIGH}") from None
    if not (all(weight >= 0 for weight in weights) and sum(weights) < math.inf):
        raise ValueError(f"{ENCODE}: weights is '{text}', but no weight may be negative or infinite. {HOW_TO_WEIGH}")
    if weights and not sum(weights):
        raise ValueError(f"{ENCODE}: weights is '{text}', so no picture has any. {HOW_TO_WEIGH}")
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
    """The prompt with pictures to follow. Those that it has from here already stay: the mean is then of them all.

    Args:
        clip_vision: The host's CLIP vision model: ViT-L/14 or OpenCLIP's ViT-H/14, as the model was trained with.
        image: (N, H, W, C) in [0, 1].
        weights: See `read_weights`. Empty: 1 for each.
        noise_level: 0 ... MAX_LEVEL, of each picture.
        merge_noise_level: Of the mean of several pictures; -1 = none.
        crop: One of CROPS: the middle square, or the whole picture squeezed into one.

    Raises:
        ValueError: Wrong weights; a CLIP vision model that no Stable unCLIP was trained with, or another than for the
            pictures before; pictures from the host's unCLIPConditioning.
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
            f"{ENCODE}: clip_vision makes embeddings of {dim} numbers, but Stable unCLIP knows those of CLIP ViT-L/14 "
            "(768) or OpenCLIP ViT-H/14 (1024). Take the one in the model's own file, by unCLIPCheckpointLoader."
        )
    noise = seeded(noise_seed, (len(image) + 1, dim))
    column = torch.tensor(numbers, dtype=torch.float64)[:, None]
    pictures = Pictures(embeds, column, noise[:-1], noise_level, noise[-1:], merge_noise_level)
    fed = []
    for text, values in needs(conditioning, Needs(frozenset({KINDS[dim]}), ENCODE)):
        refuse_others(values)
        fed += feed([[text, values]], Mixture((*_groups(values, dim), pictures)))
    return fed


def _groups(values: dict, dim: int) -> tuple[Pictures, ...]:
    """The pictures that a conditioning has already."""
    before = feeds(values)
    if not isinstance(before, Mixture):
        return ()
    if (other := before.groups[-1].embeds.shape[-1]) != dim:
        raise ValueError(
            f"{ENCODE}: clip_vision makes embeddings of {dim} numbers, but conditioning has pictures of another one, "
            f"which makes {other}. Connect the same clip_vision to each {ENCODE}."
        )
    return before.groups


def with_statistics(model: ModelPatcher, path: str | Path) -> ModelPatcher:
    """A clone of an unCLIP-L model that knows the statistics of its embeddings, as its reference does.

    The host leaves mean 0 and deviation 1, which is right for unCLIP-H. With them unCLIP-L gets twice the noise.

    Args:
        path: See `read_statistics`.

    Raises:
        ValueError: The model is no unCLIP-L, or the file is no such file.
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
        path: Karlo's ViT-L-14_stats.th, a pickled pair, or the weights in the folder image_normalizer of a diffusers
            model, named mean and std.

    Raises:
        ValueError: It is another file.
    """
    weights = read_state_dict(path)
    names = ("mean", "std") if "mean" in weights else ("0", "1")
    found = [tuple(weights[name].shape) for name in names if name in weights]
    if weights.keys() != set(names) or any(math.prod(shape) != 768 for shape in found):
        shapes = ", ".join(f"'{name}' {tuple(tensor.shape)}" for name, tensor in list(weights.items())[:4])
        raise ValueError(
            f"'{Path(path).name}' holds {len(weights)} tensors: {shapes}. {STATS} needs the mean and the standard "
            "deviation of CLIP ViT-L/14's embeddings, 768 numbers each: ViT-L-14_stats.th, or the file in the folder "
            "image_normalizer of stable-diffusion-2-1-unclip-small. Choose one of them."
        )
    mean, std = (weights[name].float().reshape(1, 768) for name in names)
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ValueError(
            f"'{Path(path).name}' has a standard deviation that is not above 0, or numbers that are none, so it is "
            "damaged. Download it again."
        )
    return mean, std
