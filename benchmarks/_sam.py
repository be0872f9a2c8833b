"""A ViT-B with random weights, for the pack and for segment-anything, and a picture for it."""

import numpy as np
import torch

POINT = (400.0, 300.0)


def vit_b() -> torch.nn.Module:
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    return sam_model_registry["vit_b"]()


def loaded() -> object:
    import _pack

    _pack.load()
    from pentimento.model_patchers.segment import sam

    model = sam.SAM(sam.sam_weights(vit_b().state_dict(), "random"), "random", "fp32")
    model.load()
    return model


def picture(seed: int = 0) -> np.ndarray:
    """uint8 (683, 1024, 3)"""
    return np.random.default_rng(seed).integers(0, 256, (683, 1024, 3), dtype=np.uint8)
