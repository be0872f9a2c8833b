"""SAM 2's mask decoder: SAM's with finer features and a score that says whether the object is in the frame. Ravi et al.
2024, "SAM 2: Segment Anything in Images and Videos", section 4 and appendix D.1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .sam_decoder import Config, MaskDecoder, Perceptron, table

STABLE, DELTA = 0.98, 0.05  # a mask is stable if its area changes by less than 2 % between thresholds -0.05 and 0.05


@dataclass(frozen=True)
class Features:
    """What a frame is to every object, float32.

    Attributes:
        fine: (B, C / 8, 4 grid, 4 grid), for the decoder.
        middle: (B, C / 4, 2 grid, 2 grid), for the decoder.
        raw: The embedding (B, C, grid, grid), before any memory.
    """

    fine: Tensor
    middle: Tensor
    raw: Tensor


@dataclass(frozen=True)
class Masks:
    """The decoder's masks for P prompts on a frame: mask 0 for a clear prompt, the other three for an ambiguous one.

    Attributes:
        logits: (P, masks, 4 grid, 4 grid).
        scores: The expected intersection over union, (P, masks), 0 ... 1.
        tokens: (P, masks, C).
        present: The logit that the object is in the frame, (P, 1).
    """

    logits: Tensor
    scores: Tensor
    tokens: Tensor
    present: Tensor


def stability(logits: Tensor) -> Tensor:
    """The share of a mask that a small change of the threshold leaves: (..., h, w) -> (...); 1 for an empty mask."""
    inner = (logits > DELTA).flatten(-2).sum(-1).float()
    outer = (logits > -DELTA).flatten(-2).sum(-1).float()
    return torch.where(outer > 0, inner / outer, 1.0)


def choose(masks: Masks, ambiguous: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The mask to use of each prompt: logits (P, 1, h, w), scores (P,), tokens (P, C).

    For an ambiguous prompt the best of three. For a clear one mask 0; where it is not stable, the best of three, while
    the token stays that of mask 0.
    """
    rows = torch.arange(len(masks.scores), device=masks.scores.device)
    best = 1 + masks.scores[:, 1:].argmax(-1)
    if ambiguous:
        chosen = token = best
    else:
        token = torch.zeros_like(best)
        chosen = torch.where(stability(masks.logits[:, 0]) >= STABLE, token, best)
    return masks.logits[rows, chosen][:, None], masks.scores[rows, chosen], masks.tokens[rows, token]


class SAM2MaskDecoder(MaskDecoder):
    """A MaskDecoder with finer features and a score for the object's presence.

    Args:
        config: The shape.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
    """

    def __init__(
        self, config: Config, operations: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(config, operations, device, dtype)
        ops, kwargs = operations, {"device": device, "dtype": dtype}
        c = config.channels
        self.obj_score_token = ops.Embedding(1, c, **kwargs)
        self.pred_obj_score_head = Perceptron([c, c, c, 1], ops, **kwargs)
        self.conv_s0 = ops.Conv2d(c, c // 8, 1, **kwargs)
        self.conv_s1 = ops.Conv2d(c, c // 4, 1, **kwargs)

    def features(self, embeddings: list[Tensor]) -> Features:
        """The features of frames, from the three embeddings of the image encoder."""
        fine, middle, raw = (embedding.float() for embedding in embeddings)
        return Features(self.conv_s0(fine), self.conv_s1(middle), raw)

    def forward(self, image: Tensor, features: Features, positions: Tensor, tokens: Tensor, dense: Tensor) -> Masks:
        """Masks of P prompts on one frame.

        Args:
            image: The embedding after attention to the memory, (P or 1, C, grid, grid).
            features: Of the frame, B = 1.
            positions: (1, C, grid, grid), from the prompt encoder.
            tokens: (P, N, C), from the prompt encoder.
            dense: The term to add to the embedding, from the prompt encoder.
        """
        own = torch.cat((table(self.obj_score_token, tokens), self.tokens(tokens)))
        tokens = torch.cat((own.expand(len(tokens), -1, -1), tokens), dim=1)
        x = (image + dense).flatten(2).transpose(1, 2)
        y, x = self.transformer(tokens, x, positions.flatten(2).transpose(1, 2))
        fine = self.upscale(x.transpose(1, 2).unflatten(-1, image.shape[-2:]), features)
        tokens = y[:, 2 : len(own)]
        scores = self.iou_prediction_head(y[:, 1]).sigmoid()
        return Masks(self.masks(tokens, fine, None), scores, tokens, self.pred_obj_score_head(y[:, 0]))

    def upscale(self, x: Tensor, features: Features) -> Tensor:
        """The picture at four times the size, with the finer features of the frame added at each of two steps."""
        double, norm, first, redouble, second = self.output_upscaling
        x = double(x) + features.middle
        x = first(norm(x.movedim(1, -1)).movedim(-1, 1))
        return second(redouble(x) + features.fine)
