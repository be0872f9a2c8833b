"""What the tensors of a model file are: a network below a prefix, offsets, or another network that a message names."""

import re

import torch
from torch import Tensor

FOLLOWER = "SAM 2, for Load SAM 2"
SAM_FAMILY = {  # keys of networks that users take for each other, and what to call them; the first that fits counts
    r"detector\.backbone\.|(detector_model|tracker_model|tracker_neck)\.": "SAM 3, for ComfyUI's Load Checkpoint, "
    "SAM3 Detect and SAM3 Video Track",
    r"spatial_perceiver\.|image_encoder\.trunk\.body\.": "EdgeTAM, a relative of SAM 2 with another image encoder and "
    "another memory",
    r"maskmem_tpos_enc$|memory_temporal_positional_encoding$": FOLLOWER,
    r"image_encoder\.trunk\.|sam_mask_decoder\.|vision_encoder\.backbone\.": "SAM 2 for single pictures, without the "
    "memory that follows an object",
    r"vision_encoder\.": "SAM in the layout of Hugging Face's transformers, with other names for its tensors",
}


def sam_relative(weights: dict[str, Tensor]) -> str | None:
    """What a network of the family of Segment Anything is, for a message; None for SAM itself and other networks."""
    kinds = (kind for keys, kind in SAM_FAMILY.items() if any(re.match(rf"(.*\.)?({keys})", key) for key in weights))
    return next(kinds, None)


def describe(weights: dict[str, Tensor]) -> str:
    """What a file of weights is, in a few words for a message: "an ESRGAN network", or its size and a key."""
    from spandrel import MAIN_REGISTRY  # heavy, and needed only here

    if below(weights, "transformer.0.attention.query_embedding.weight"):
        return "STTN, for Load STTN"
    if below(weights, "backbone.pos_embed_z"):
        return "OSTrack, for Load OSTrack"
    for architecture in MAIN_REGISTRY.architectures("detection"):
        if architecture.architecture.detect(weights):
            return f"a network of type {architecture.architecture.name}"
    return f"{len(weights)} tensors such as '{next(iter(weights))}', of no network that is known here"


def below(weights: dict[str, Tensor], telling_key: str) -> dict[str, Tensor]:
    """The tensors of a network that its trainer or converter put below a prefix, without the prefix.

    Args:
        weights: Of a file.
        telling_key: A name of the network's, which tells the prefix. Of several prefixes the shortest counts.

    Returns:
        {} if no name ends with the telling key.
    """
    prefixes = [key.removesuffix(telling_key) for key in weights if f".{key}".endswith(f".{telling_key}")]
    if not prefixes:
        return {}
    prefix = min(prefixes, key=len)
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def are_offsets(weights: dict[str, Tensor]) -> bool:
    """Whether the weights are offsets to another network's, as IC-Light's are, and no network of their own.

    Told by the weights of the normalizations, the only ones of one dimension: near 1 in a network, near 0 in offsets.
    The median over the tensors counts, so that a damaged one does not.
    """
    norms = [value for name, value in weights.items() if name.endswith(".weight") and value.ndim == 1]
    means = [value.float().mean() for value in norms if value.is_floating_point()]
    return not means or float(torch.stack(means).nanmedian()) <= 0.25
