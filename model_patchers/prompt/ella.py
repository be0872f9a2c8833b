"""ELLA: long prompts for Stable Diffusion 1.5, by T5 and a connector that gets the timestep. Hu et al. 2024,
"ELLA: Equip Diffusion Models with LLM for Enhanced Semantic Alignment" (github.com/TencentQQGYLab/ELLA, Apache-2.0).

A conditioning carries the features of its text to the sampler beside ordinary tokens. At each call of the denoiser the
connector makes the tokens of the denoiser's timestep, before any other part of ComfyUI reads the tokens. So connector
and denoiser have the same timestep with every sampler, scheduler and denoise.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.ops
import comfy.sd
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ..arch.ella import CONFIG_KEYS, LATENTS_KEY, Config, Connector, split_projections
from ..comfyui.conditioning import Cond, Conditioning
from ..comfyui.describe import below, describe
from ..comfyui.fit import sizes_of
from ..comfyui.managed import Managed
from ..comfyui.model_files import dequantized, read_model, widest
from ..comfyui.patching import Call, attach

KEY = "pentimento_ella"  # of the text in model_conds, and of the patch
LAST = 999  # the noisiest timestep, at which sampling begins
TOLERANCE = 1e-3  # relative: half precision rounds tokens that a node multiplies
KEEP = 128  # entries of `Follower.tokens`, 25 MB in all: some samplers come back to a timestep
LENGTHS = {"128 tokens": 128, "flexible": None}
T5_NEEDED = "t5 needs the encoder of flan-t5-xl from Load T5 for ELLA. Connect that node."
NEEDED = "Load ELLA needs the connector that ELLA's authors published, ella-sd1.5-tsc-t5xl.safetensors."


# The model


class ELLA(Managed):
    """The connector under ComfyUI's memory management. ComfyUI loads it with the model that it is applied to.

    Args:
        weights: From ella_weights.
        file: The file's name, for messages.
        heads: Of the attention, which cannot be read off the tensors. The published connector has 8.
    """

    def __init__(self, weights: dict[str, Tensor], file: str, heads: int = 8) -> None:
        # The network computes in float32. To convert the weights at each step takes no time on a GPU, but a third of
        # the time on a CPU.
        cpu = model_management.is_device_cpu(model_management.get_torch_device())
        dtype = torch.float32 if cpu else widest(weights)
        with sizes_of(file, "ELLA"):
            self.config = Config.of(weights, heads)
            split = split_projections(weights)
        network = Connector(self.config, comfy.ops.manual_cast, model_management.unet_offload_device(), dtype)
        super().__init__(network, split, file, "ELLA", NEEDED)

    def __call__(self, features: Tensor, t: Tensor) -> Tensor:
        """The denoiser's tokens, on the connector's device.

        Args:
            features: Of T5, float32 (B, n, text_width).
            t: Timesteps from 0 to 999, (B,).

        Returns:
            float32 (B, latents, width)
        """
        return self.network(features.to(self.device, torch.float32), t.to(self.device))


def ella_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """A connector's tensors, without the prefix of a trainer or converter.

    Args:
        weights: From read_model.
        file: The file's name, for messages.

    Raises:
        ValueError: The file holds another network.
    """
    connector = below(weights, LATENTS_KEY)
    if not connector.keys() >= CONFIG_KEYS:
        raise ValueError(f"'{file}' holds {describe(weights)}. {NEEDED}")
    return dequantized(connector, file)


def load(path: str | Path) -> ELLA:
    """An ELLA, whose size is read off its tensors.

    Raises:
        ValueError: The file cannot be read, or is no ELLA.
    """
    path = Path(path)
    return ELLA(ella_weights(read_model(path), path.name), path.name)


# The text on its way to the sampler


class Text(comfy.conds.CONDConstant):
    """A text in a conditioning's `model_conds`, where ComfyUI's nodes and areas pass it on with the tokens.

    A model without Apply ELLA gets it as a constant without a value.

    Attributes:
        features: Of T5, float32 (1, n, text_width).
        start: The connector's tokens at timestep 999, (1, latents, width): the first tokens of the conditioning.
        blank: CLIP's tokens of an empty text, (1, 77, width); None without CLIP.
        key: A hash of the features: texts with equal features share tokens.
    """

    def __init__(self, features: Tensor, start: Tensor, blank: Tensor | None = None) -> None:
        super().__init__(None)
        self.features, self.start, self.blank = features, start, blank
        data = features.float().cpu().contiguous().numpy()
        self.key = hashlib.blake2b(data, digest_size=16, person=b"%dx%d" % data.shape[1:]).digest()

    def _copy_with(self, cond: None) -> "Text":
        return self


def factor(tokens: Tensor, start: Tensor) -> float | None:
    """The k by which nodes have multiplied the tokens since they were encoded; None if nodes did anything else to them.

    k = <x, y> / <y, y> is the least-squares fit. It holds if |x - k y| <= TOLERANCE |k y|.

    Args:
        tokens: x, (B, latents, width), as they reach the sampler.
        start: y, (1, latents, width), as they were encoded.
    """
    start = start.to(tokens)  # another node may have moved the tokens
    if torch.equal(tokens, start):
        return 1.0
    x, y = tokens.cpu().double(), start.cpu().double()  # some devices have no float64
    k = ((x * y).sum() / (len(x) * y.square().sum())).item()
    return k if (x - k * y).norm() <= TOLERANCE * (abs(k) * y.norm() + 1e-9) else None


# The text's encoding


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


# The patch


def check_model(model: ModelPatcher, width: int) -> None:
    """Refuses a model whose tokens have another width.

    Raises:
        ValueError: The width differs, or the model is no UNet.
    """
    config = model.model.model_config
    context = config.unet_config.get("context_dim")
    if context != width:
        takes = f"whose text is {context} wide" if context else "which is no UNet with a text of one width"
        raise ValueError(
            f"model is of the kind {type(config).__name__}, {takes}. ELLA was trained for Stable Diffusion 1.5, whose "
            f"text is {width} wide. Connect Stable Diffusion 1.5, its inpainting model or a finetune."
        )


def check_sampling(sampling: torch.nn.Module) -> None:
    """Refuses a model sampling that does not count timesteps from 0 to 999.

    Raises:
        ValueError: It does not.
    """
    if isinstance(sampling, ModelSamplingDiscrete) and sampling.timestep(sampling.sigma_max).item() == LAST:
        return
    raise ValueError(
        f"model samples by {' and '.join(base.__name__ for base in type(sampling).__bases__)}, which does not count "
        "timesteps from 0 to 999 as ELLA does. Apply ELLA works with the sampling of Stable Diffusion 1.5, with "
        "v-prediction, zero terminal SNR and LCM. Remove the node that changes the sampling (ModelSampling...)."
    )


def holds(cond: Cond, sigma: float) -> bool:
    """Whether a conditioning's range of timesteps holds `sigma`. ComfyUI gives the range in sigmas."""
    return cond.get("timestep_end", sigma) <= sigma <= cond.get("timestep_start", sigma)


class Follower:
    """Replaces the tokens of every ELLA text by those of the current timestep. Each Apply ELLA has one.

    Attributes:
        tokens: {(key of the text, timestep): (latents, width)}, for one run: a text costs one connector call for each
            timestep.
        warned: Whether `warn` was called in this run.
    """

    def __init__(self, ella: ELLA, keep: int = KEEP) -> None:
        self.ella, self.keep = ella, keep
        self.tokens: dict[tuple[bytes, float], Tensor] = {}
        self.warned = False

    def forget(self, *_: Any) -> None:
        """The callback of ON_CLEANUP, which ComfyUI calls after every run, also after one that failed."""
        self.tokens.clear()
        self.warned = False

    def wrap(self, *args: Any) -> list[Tensor]:
        """The wrapper of CALC_COND_BATCH: areas, masks, ControlNets, windows and batching come after it."""
        call = Call(*args)
        sigma = call.sigma[0].item()
        conds = [cond for prompt in call.conds for cond in prompt or ()]
        active = [cond for cond in conds if KEY in cond["model_conds"] and holds(cond, sigma)]
        if not active:
            return call.run()
        check_sampling(call.model.model_sampling)
        timesteps = call.model.model_sampling.timestep(call.sigma).tolist()
        if len(set(timesteps)) == 1:
            timesteps = timesteps[:1]
        texts = [cond["model_conds"][KEY] for cond in active]
        self.prepare({text.key: text for text in texts}, timesteps)
        longest = max(cond["model_conds"]["c_crossattn"].cond.shape[1] for cond in active)
        changed = {id(cond): self.with_tokens(cond, timesteps, longest, call.x.device) for cond in active}
        while len(self.tokens) > self.keep:
            del self.tokens[next(iter(self.tokens))]
        # `prompt and`: a prompt that is not computed is None, and stays None.
        return call.run(conds=[prompt and [changed.get(id(cond), cond) for cond in prompt] for prompt in call.conds])

    def prepare(self, texts: dict[bytes, Text], timesteps: list[float]) -> None:
        """Computes the tokens that `self.tokens` lacks. Texts of the same length go into one call."""
        missing = [(text, t) for key, text in texts.items() for t in set(timesteps) if (key, t) not in self.tokens]
        for length in {text.features.shape[1] for text, _ in missing}:
            batch = [(text, t) for text, t in missing if text.features.shape[1] == length]
            tokens = self.ella(torch.cat([text.features for text, _ in batch]), torch.tensor([t for _, t in batch]))
            self.tokens |= {(text.key, t): rows for (text, t), rows in zip(batch, tokens, strict=True)}

    def with_tokens(self, cond: Cond, timesteps: list[float], longest: int, device: torch.device) -> Cond:
        """A copy of the conditioning with the tokens of the timesteps.

        ComfyUI batches conditionings of the same length, so CLIP's tokens of an empty text are appended until the
        conditioning is as long as the longest.

        Args:
            timesteps: One for all samples, or one for each.
            longest: The length of the longest active conditioning, in tokens.
        """
        model_conds = cond["model_conds"].copy()
        text, crossattn = model_conds.pop(KEY), model_conds["c_crossattn"]
        latents, length = text.start.shape[1], crossattn.cond.shape[1]
        start, rest = crossattn.cond.split((latents, length - latents), dim=1)
        k = factor(start, text.start)
        if k is None:
            self.warn()
            tokens = start.to(device)
        else:
            tokens = k * torch.stack([self.tokens[text.key, t] for t in timesteps]).to(device)
        parts = [tokens, rest]
        if text.blank is not None:
            chunks, remainder = divmod(longest - length, text.blank.shape[1])
            if not remainder:
                parts += [text.blank] * chunks
        size = max(len(tokens), len(rest))
        parts = [part.to(device).expand(size, -1, -1) for part in parts]
        model_conds["c_crossattn"] = crossattn._copy_with(torch.cat(parts, dim=1))
        return {**cond, "model_conds": model_conds}

    def warn(self) -> None:
        """Warns once in a run."""
        if not self.warned:
            logging.warning(
                "An ELLA conditioning was mixed with another conditioning, for example by Conditioning (Average). Its "
                "tokens stay those of the first timestep. To mix texts at every timestep, use Conditioning (Combine)."
            )
        self.warned = True


def apply(model: ModelPatcher, ella: ELLA) -> ModelPatcher:
    """A clone of the model that recomputes ELLA's tokens at each timestep, in place of an earlier ELLA.

    Raises:
        ValueError: The model's tokens have another width than ELLA's, or its timesteps do not go from 0 to 999.
    """
    check_model(model, ella.config.width)
    check_sampling(model.get_model_object("model_sampling"))
    follower = Follower(ella)
    return attach(
        model,
        KEY,
        wrappers={WrappersMP.CALC_COND_BATCH: follower.wrap},
        callbacks={CallbacksMP.ON_CLEANUP: follower.forget},
        models=[ella.patcher],
    )
