"""ELLA Text Encode: T5's features of a text, optionally with CLIP's tokens."""

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
        text: The prompt. Weights and embedding names are plain text to T5.
        length: One of LENGTHS.
        width: Of the features that the connector takes.

    Returns:
        float32 (1, n, width)

    Raises:
        ValueError: `t5` is another text encoder, or a T5 of another size.
    """
    if not getattr(getattr(t5, "tokenizer", None), "for_ella", False):
        raise ValueError(f"t5 is {encoder_name(t5)}, whose features mean nothing to ELLA. {T5_NEEDED}")
    states = t5.encode_from_tokens(t5.tokenize(text, length=LENGTHS[length]))
    if states.shape[-1] != width:
        raise ValueError(
            f"t5 gives features {states.shape[-1]} wide, and this ELLA takes features {width} wide: t5 is a T5 of "
            f"another size. {T5_NEEDED}"
        )
    return states


def encoder_name(clip: comfy.sd.CLIP | None) -> str:
    """What came in place of the T5 encoder, for messages."""
    return "empty" if clip is None else f"a text encoder of another kind ({type(clip.cond_stage_model).__name__})"


def encode(
    ella: ELLA, t5: comfy.sd.CLIP, text: str, length: str, clip: comfy.sd.CLIP | None, clip_text: str
) -> Conditioning:
    """A prompt for a model with Apply ELLA.

    Args:
        ella: The connector.
        t5, text, length: As for `features`.
        clip: The model's own text encoder, or None.
        clip_text: The prompt for CLIP; "" = `text`. Weights and embeddings work as in ComfyUI.

    Returns:
        Conditionings as ComfyUI's encoder makes them: one, or one for each keyframe of its hooks. The tokens are ELLA's
        at timestep 999, which Apply ELLA replaces at each timestep, and then CLIP's, 77 for each 75 tokens of the text.

    Raises:
        ValueError: A text encoder is of another kind.
    """
    t5_features = features(t5, text, length, ella.config.text_width)
    ella.load()
    start = ella(t5_features, torch.tensor([LAST])).to(t5_features.device)
    if clip is None:
        return [[start, {"pooled_output": None, "model_conds": {KEY: Text(t5_features, start)}}]]
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize(clip_text or text))
    if (width := prompt[0][0].shape[-1]) != ella.config.width:
        raise ValueError(
            f"clip gives tokens {width} wide, and ELLA's are {ella.config.width} wide: clip is the text encoder of "
            "another model. Connect that of the Stable Diffusion 1.5 model that ELLA is applied to, or disconnect clip."
        )
    blank = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0][0]
    model_conds = {KEY: Text(t5_features, start, blank)}
    return [[torch.cat((start, tokens), dim=1), {**values, "model_conds": model_conds}] for tokens, values in prompt]
