"""T5's encoder with the arithmetic of ELLA's training. Raffel et al. 2020, "Exploring the Limits of Transfer Learning
with a Unified Text-to-Text Transformer"; Chung et al. 2022, "Scaling Instruction-Finetuned Language Models" (FLAN-T5).

ELLA was trained on features computed in half precision. The residual stream of flan-t5-xl exceeds the largest number of
half precision. Hugging Face's T5 (github.com/huggingface/transformers, Apache-2.0) then clamps it, and so gives other
features than float32, not only rounded ones. The layers are ComfyUI's. Here are its blocks with that clamp, and its
norm with the variance in float32.
"""

from typing import Any

import comfy.ops
import torch
from comfy import model_management
from comfy.text_encoders import t5
from torch import Tensor

MARGIN = 1000  # after an overflow, all is clamped to so much below the largest number of half precision


def limited_sum(x: Tensor, y: Tensor) -> Tensor:
    """x + y in half precision, in the dtype of x. If any element overflows, all elements are clamped to +-64512.

    64512 is 65504 - MARGIN, rounded to half precision.
    """
    z = x.to(torch.float16) + y.to(torch.float16)
    largest = torch.finfo(torch.float16).max
    bound = torch.where(z.isinf().any(), largest - MARGIN, largest).to(z.dtype)
    return z.clamp(-bound, bound).to(x.dtype)


class Norm(t5.T5LayerNorm):
    """x / sqrt(mean(x^2) + eps) * weight, with the quotient in float32."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.float()
        z = z * torch.rsqrt(z.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return comfy.ops.cast_to_input(self.weight, x) * z.to(x.dtype)


class Block(t5.T5Block):
    """Attention and feed-forward, each added to the residual stream: by `limited_sum` if `limited`."""

    def __init__(self, config: dict[str, Any], first: bool, limited: bool, **where: Any) -> None:
        sizes = (config["d_model"], config["d_kv"] * config["num_heads"], config["d_ff"])
        super().__init__(*sizes, config["dense_act_fn"], config["is_gated_act"], config["num_heads"], first, **where)
        self.sum = limited_sum if limited else torch.add
        for layer in self.layer:
            layer.layer_norm = Norm(config["d_model"], **where)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, past_bias: Tensor | None = None, optimized_attention: Any = None
    ) -> tuple[Tensor, Tensor]:
        """(B, n, d_model) -> (B, n, d_model) and the position bias (1, heads, n, n), which the first block computes."""
        model_management.throw_exception_if_processing_interrupted()
        attention, feed_forward = self.layer
        y, past_bias = attention.SelfAttention(attention.layer_norm(x), mask, past_bias, optimized_attention)
        x = self.sum(x, y)
        return self.sum(x, feed_forward.DenseReluDense(feed_forward.layer_norm(x))), past_bias


class T5(t5.T5):
    """ComfyUI's T5 with these blocks, for ComfyUI's SDClipModel.

    Args:
        config: In the form of ComfyUI's t5_config_*.json.
        dtype, device, operations: Of the weights, as in all networks of ComfyUI.
        compute: The dtype of the arithmetic. On a device that is slow in float16, float16 means float32 with the sums
            of the residual stream in float16. The difference is small, since only these sums overflow.
    """

    def __init__(
        self, config: dict[str, Any], dtype: torch.dtype | None, device: Any, operations: Any, compute: torch.dtype
    ) -> None:
        where = {"dtype": dtype, "device": device, "operations": operations}
        super().__init__({**config, "num_layers": 0}, **where)
        self.num_layers, self.compute = config["num_layers"], compute
        limited = compute == torch.float16
        self.encoder.block.extend(Block(config, i == 0, limited, **where) for i in range(self.num_layers))
        self.encoder.final_layer_norm = Norm(config["d_model"], **where)

    def forward(
        self, input_ids: None, attention_mask: Tensor | None, embeds: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            input_ids: Ignored: ComfyUI's SDClipModel passes `embeds`.
            attention_mask: (B, n), 0 where a token is padding.
            embeds: (B, n, d_model).
            options: Of ComfyUI's T5.

        Returns:
            The last hidden states (B, n, d_model), and those of the layer that `options` ask for, or None.
        """
        x = embeds.to(arithmetic(self.compute, embeds.device))
        return super().forward(None, attention_mask, embeds=x, **options)


def arithmetic(compute: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which the layers compute on a device, for the dtype of the arithmetic."""
    slow = compute == torch.float16 and not model_management.should_use_fp16(device)
    return torch.float32 if slow else compute
