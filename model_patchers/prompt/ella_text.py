"""ELLA's texts: T5's features, with tokens of CLIP beside them where wanted."""

import comfy.sd
import torch
from torch import Tensor

from ..comfyui.conditioning import Conditioning
from .ella import ELLA, KEY, LAST, Text

LENGTHS = {"128 tokens": 128, "flexible": None}
T5_NEEDED = "t5 needs the encoder of flan-t5-xl from Load T5 for ELLA. Connect that node."


def features(t5: comfy.sd.CLIP, text: str, length: str, width: int) -> Tensor:
    """T5's last hidden states, padding included.

    Args:
        t5: From Load T5 for ELLA.
        text: Weights and embeddings are not read: to T5 these are letters like others.
        length: One of LENGTHS.
        width: Of the features that the connector takes.

    Returns:
        float32 (1, n, width)

    Raises:
        ValueError: Another text encoder came, or a T5 of another size.
    """
    if not getattr(getattr(t5, "tokenizer", None), "for_ella", False):
        raise ValueError(f"t5 is {encoder_name(t5)}, whose features mean nothing to ELLA. {T5_NEEDED}")
    found = t5.encode_from_tokens(t5.tokenize(text, length=LENGTHS[length]))
    if found.shape[-1] != width:
        raise ValueError(
            f"t5 gives features {found.shape[-1]} wide, and this ELLA takes features {width} wide: it is a T5 of "
            f"another size. {T5_NEEDED}"
        )
    return found


def encoder_name(clip: comfy.sd.CLIP | None) -> str:
    """For messages: what came in place of a text encoder."""
    return "empty" if clip is None else f"a text encoder of another kind ({type(clip.cond_stage_model).__name__})"


def encode(
    ella: ELLA, t5: comfy.sd.CLIP, text: str, length: str, clip: comfy.sd.CLIP | None, clip_text: str
) -> Conditioning:
    """A text for Apply ELLA.

    Args:
        ella: The connector.
        t5, text, length: As for `features`.
        clip: The model's own text encoder, or None.
        clip_text: What it is given; "" is `text`. Weights and embeddings work as everywhere.

    Returns:
        Conditionings as the host's encoder makes them (one, or one for each keyframe of its hooks). Tokens: ELLA's at
        the first timestep, to be replaced at each, and CLIP's, 77 for each 75 of the text.

    Raises:
        ValueError: A text encoder is not of the kind it should be.
    """
    t5_features = features(t5, text, length, ella.config.text_width)
    ella.load()
    start = ella(t5_features, torch.tensor([LAST])).to(t5_features.device)
    if clip is None:
        return [[start, {"pooled_output": None, "model_conds": {KEY: Text(t5_features, start)}}]]
    found = clip.encode_from_tokens_scheduled(clip.tokenize(clip_text or text))
    if (width := found[0][0].shape[-1]) != ella.config.width:
        raise ValueError(
            f"clip gives tokens {width} wide, and ELLA's are {ella.config.width} wide: it is the text encoder of "
            "another model. clip needs that of the Stable Diffusion 1.5 model that ELLA is applied to, or nothing."
        )
    carried = {KEY: Text(t5_features, start, blank=clip.encode_from_tokens_scheduled(clip.tokenize(""))[0][0])}
    return [[torch.cat((start, tokens), dim=1), {**rest, "model_conds": carried}] for tokens, rest in found]
