"""The text encoder of ELLA: flan-t5-xl's encoder as a CLIP of ComfyUI, from any file that holds it.

ComfyUI's own loader takes such a file for AuraFlow's encoder, which is another network, and computes in float32, which
gives other features than those that ELLA was trained on (see arch/t5_fp16.py).
"""

import logging
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.ops
import comfy.sd
import torch
from comfy import sd1_clip
from comfy.text_encoders import t5
from torch import Tensor

from ..arch.shapes import count, shape_of
from ..arch.t5_fp16 import T5, arithmetic
from ..comfyui.describe import below, describe
from ..comfyui.fit import check, sizes_of
from ..comfyui.model_files import dequantized, read_model, widest

if TYPE_CHECKING:
    from transformers import T5TokenizerFast

PRECISIONS = {"fp16 (as trained)": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
TOKENIZER = Path(t5.__file__).parent / "t5_tokenizer"
NAME = "t5xl"  # of the encoder within ComfyUI's CLIP
END = 1  # </s>
VOCABULARY = 32128  # tokens of T5 and FLAN-T5; multilingual T5s have others
BIAS_KEY = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
SHARED = ("shared.", "encoder.embed_tokens.")  # two names of the token embedding
KINDS = {  # {part of a key: what a file with it holds}
    "model.diffusion_model.": "a checkpoint of a diffusion model",
    "text_model.encoder.layers.": "a CLIP text encoder",
    "transformer.resblocks.": "a CLIP text encoder",
    "decoder.block.": "the decoder of a T5",
    "model.layers.": "a language model",
}
NEEDED = "Load T5 for ELLA needs flan-t5-xl, the encoder alone or the whole model. Choose that file."


# The tokenizer


@cache
def tokenizer() -> "T5TokenizerFast":
    """T5's tokenizer from ComfyUI's files."""
    from transformers import T5TokenizerFast  # late, so that the pack loads fast

    return T5TokenizerFast.from_pretrained(TOKENIZER)


class Tokenizer:
    """T5's tokenizer for ComfyUI's CLIP. Parentheses and embedding names are plain text, without a special meaning.

    Attributes:
        for_ella: By this, ELLA's nodes tell this text encoder from others.
    """

    for_ella = True

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        self.tokenizer = tokenizer()

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, length: int | None = None, **options: Any
    ) -> dict[str, list[list[tuple]]]:
        """The tokens of a text and </s> as (token, weight 1) in ComfyUI's form.

        Args:
            text: Any text.
            return_word_ids: Adds to each token the number of its word, from 1 on; 0 for tokens of no word.
            length: Longer texts are cut to so many tokens, </s> included, and shorter texts padded. None: neither.
            options: Ignored. ComfyUI passes them to every tokenizer.
        """
        sized = {"max_length": length, "truncation": True, "padding": "max_length"} if length else {}
        encoding = self.tokenizer(text, verbose=False, **sized)
        tokens = [(token, 1.0) for token in encoding["input_ids"]]
        if return_word_ids:
            words = (0 if word is None else word + 1 for word in encoding.word_ids())
            tokens = [(*token, word) for token, word in zip(tokens, words, strict=True)]
        return {NAME: [tokens]}

    def untokenize(self, pairs: list[tuple]) -> list[tuple]:
        return [(pair, self.tokenizer.convert_ids_to_tokens(pair[0])) for pair in pairs]

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def state_dict(self) -> dict[str, Tensor]:
        return {}


# The encoder


class Encoder(sd1_clip.SDClipModel):
    """T5's last hidden states. No token attends to padding; the rows of the padding are returned too."""

    def __init__(self, config: dict[str, Any], compute: torch.dtype, **options: Any) -> None:
        super().__init__(
            textmodel_json_config=config,
            model_class=partial(T5, compute=compute),
            special_tokens={"end": END, "pad": 0},
            enable_attention_masks=True,
            **options,
        )

    def process_tokens(
        self, tokens: list[list[int]], device: torch.device
    ) -> tuple[Tensor, Tensor, list[int], list[dict]]:
        """As ComfyUI's, but for the mask: ComfyUI hides what stands after the first </s>, transformers after the last.

        So </s> and <pad> in a prompt are tokens like any others.
        """
        embeds, _, _, infos = super().process_tokens(tokens, device)
        ends = torch.tensor(tokens) == END
        mask = ends.long().flip(1).cummax(1).values.flip(1)
        return embeds, mask.to(device), mask.sum(1).tolist(), infos


def encoder_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The encoder's tensors under T5's names, without a decoder.

    Args:
        weights: From read_model.
        file: The file's name, for messages.

    Raises:
        ValueError: The file holds another network.
    """
    named = below(weights, BIAS_KEY.format(0))
    if not named:
        kind = next((kind for part, kind in KINDS.items() if any(part in key for key in weights)), None)
        raise ValueError(f"'{file}' holds {kind or describe(weights)}. {NEEDED}")
    if BIAS_KEY.format(1) in named:
        raise ValueError(
            f"'{file}' holds a T5 with position biases in every block (UMT5, or the Pile-T5 of AuraFlow). {NEEDED}"
        )
    encoder = {key: value for key, value in named.items() if key.startswith("encoder.") and not key.startswith(SHARED)}
    prefix = next((prefix for prefix in SHARED if f"{prefix}weight" in named), None)
    if prefix is None:
        return encoder
    with sizes_of(file, "T5"):
        tokens, _ = shape_of(named, f"{prefix}weight", 2)
    if tokens != VOCABULARY:
        raise ValueError(
            f"'{file}' holds a T5 of {tokens} tokens, a multilingual one for example, as its '{prefix}weight' tells; "
            f"FLAN-T5 has {VOCABULARY}. {NEEDED}"
        )
    parts = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
    return encoder | {SHARED[0] + part: value for part, value in parts.items()}


def config_of(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The configuration of an encoder, read off its tensors, in the form of ComfyUI's t5_config_*.json.

    Raises:
        ValueError: A tensor that tells a size is missing, or has an impossible shape.
    """
    block = "encoder.block.0.layer."
    gated = f"{block}1.DenseReluDense.wi_0.weight" in weights
    heads = shape_of(weights, BIAS_KEY.format(0), 2)[1]
    inner, width = shape_of(weights, f"{block}0.SelfAttention.q.weight", 2)
    return {
        "model_type": "t5",
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": shape_of(weights, f"{block}1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight", 2)[0],
        "num_heads": heads,
        "num_layers": count(weights, r"encoder\.block\.(\d+)\."),
        "is_gated_act": gated,
        "dense_act_fn": "gelu_pytorch_tanh" if gated else "relu",
        "vocab_size": VOCABULARY,
    }


def load(path: str | Path, precision: str) -> comfy.sd.CLIP:
    """A T5 encoder, whose size is read off its tensors.

    Its features are `clip.encode_from_tokens(clip.tokenize(text, length=...))`, float32 (1, n, d_model).

    Args:
        path: Of the model's only file, or of one of several files in the same folder.
        precision: One of PRECISIONS, for the arithmetic and the weights. With fp32 the weights keep the file's dtype.

    Raises:
        ValueError: A file cannot be read or is missing, or the network is no T5 with FLAN-T5's tokens.
    """
    path = Path(path)
    weights = encoder_weights(read_model(path), path.name)  # frees the decoder
    return build(weights, PRECISIONS[precision], path.name)


def build(weights: dict[str, Tensor], compute: torch.dtype, file: str) -> comfy.sd.CLIP:
    """ComfyUI's CLIP with an encoder of these tensors.

    Args:
        weights: From encoder_weights.
        compute: The dtype of the arithmetic.
        file: The file's name, for messages.

    Raises:
        ValueError: The encoder is incomplete, has other tensors than a T5, or is quantized in another form than fp8.
    """
    if compute == torch.bfloat16:
        logging.warning(
            "Load T5 for ELLA: in bf16, T5 gives other features than those ELLA was trained on. Use fp16 instead."
        )
    weights = dequantized(weights, file, compute)
    with sizes_of(file, "T5"):
        config = config_of(weights)
    network = T5(config, None, "meta", comfy.ops.manual_cast, torch.float32)
    check(weights, network.state_dict(), file, "T5", f"It may be quantized in another form than fp8. {NEEDED}")
    dtype = widest(weights) if compute == torch.float32 else compute
    weights = {key: value.to(dtype) for key, value in weights.items()}
    target = SimpleNamespace(
        clip=sd1_clip.SD1ClipModel,
        tokenizer=Tokenizer,
        params={"name": NAME, "clip_model": Encoder, "config": config, "compute": compute},
    )
    parameters = sum(value.numel() for value in weights.values())
    clip = comfy.sd.CLIP(target, parameters=parameters, state_dict=[weights], model_options={"dtype": dtype})
    clip.patcher.set_model_compute_dtype(arithmetic(compute, clip.patcher.load_device))
    return clip
