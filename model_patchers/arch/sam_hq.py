"""SAM-HQ's mask decoder: Ke et al. 2023, "Segment Anything in High Quality", section 3.2.

One more token, and features from an early layer of the image encoder, give a correction that is added to SAM's masks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .sam_decoder import Config, MaskDecoder, Perceptron, classify, table
from .sam_vit import Norms2d


class HQMaskDecoder(MaskDecoder):
    """A MaskDecoder that adds the correction to every mask.

    Args:
        config: The shape.
        early_width: Channels of the image encoder's early features.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
    """

    def __init__(
        self,
        config: Config,
        early_width: int,
        operations: Any,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, operations, device, dtype)
        ops, kwargs = operations, {"device": device, "dtype": dtype}
        c = config.channels
        self.hf_token = ops.Embedding(1, c, **kwargs)
        self.hf_mlp = Perceptron([c, c, c, c // 8], ops, **kwargs)
        self.compress_vit_feat = _upscale(early_width, c, c // 8, ops, **kwargs)
        self.embedding_encoder = _upscale(c, c // 4, c // 8, ops, **kwargs)
        self.embedding_maskfeature = Norms2d(
            ops.Conv2d(c // 8, c // 4, 3, padding=1, **kwargs),
            ops.LayerNorm(c // 4, eps=1e-6, **kwargs),
            nn.GELU(),
            ops.Conv2d(c // 4, c // 8, 3, padding=1, **kwargs),
        )

    def detail(self, embedding: Tensor, early: Tensor) -> Tensor:
        """Features for the correction: (1, C, g, g), (1, g, g, early_width) -> (1, C / 8, 4 g, 4 g)."""
        return self.embedding_encoder(embedding) + self.compress_vit_feat(early.movedim(-1, 1))

    def tokens(self, like: Tensor) -> Tensor:
        return torch.cat((super().tokens(like), table(self.hf_token, like)))

    def masks(self, y: Tensor, fine: Tensor, detail: Tensor | None) -> Tensor:
        correction = classify(self.hf_mlp(y[:, -1:]), self.embedding_maskfeature(fine) + detail)
        return super().masks(y[:, :-1], fine, detail) + correction


def _upscale(into: int, middle: int, out: int, ops: Any, **kwargs: Any) -> Norms2d:
    return Norms2d(
        ops.ConvTranspose2d(into, middle, 2, 2, **kwargs),
        ops.LayerNorm(middle, eps=1e-6, **kwargs),
        nn.GELU(),
        ops.ConvTranspose2d(middle, out, 2, 2, **kwargs),
    )
