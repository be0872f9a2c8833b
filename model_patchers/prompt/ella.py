"""ELLA: long prompts for Stable Diffusion 1.5, by T5 and a connector that is told the timestep. Hu et al. 2024,
"ELLA: Equip Diffusion Models with LLM for Enhanced Semantic Alignment" (github.com/TencentQQGYLab/ELLA, Apache-2.0).

A conditioning carries its text's features to the sampler beside ordinary tokens. There, before any other part of the
host looks at the tokens, the connector makes those of the timestep that the denoiser is about to be given. So the two
agree whatever the sampler, the scheduler and the denoise.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.ops
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ..arch.ella import CONFIG_KEYS, LATENTS_KEY, Config, Connector, split_projections
from ..comfyui.conditioning import Cond
from ..comfyui.managed import Managed
from ..comfyui.patching import Call, attach
from ..comfyui.weights import below, describe, read_state_dict

KEY = "pentimento_ella"  # of the text in model_conds, and of what is attached to a model
LAST = 999  # the noisiest timestep, at which sampling begins
KEEP = 128  # tokens of so many texts and timesteps, 25 MB: some samplers come back to a timestep
NEEDED = "Load ELLA needs the connector that ELLA's authors published, ella-sd1.5-tsc-t5xl.safetensors."


# The model


class ELLA(Managed):
    """The connector under ComfyUI's memory management. A model that it is applied to loads it when it is sampled.

    Args:
        weights: As from ella_weights.
        file: The name to use in messages.
        heads: Of the attention. No tensor tells; the published connector has 8.
    """

    def __init__(self, weights: dict[str, Tensor], file: str, heads: int = 8) -> None:
        # The network computes in float32. To convert its weights at each step costs a GPU nothing and a CPU a third of
        # the time.
        cpu = model_management.is_device_cpu(model_management.get_torch_device())
        dtype = torch.float32 if cpu else weights[LATENTS_KEY].dtype
        self.config = Config.of(weights, heads)
        network = Connector(self.config, comfy.ops.manual_cast, model_management.unet_offload_device(), dtype)
        super().__init__(network, split_projections(weights), file, "ELLA", NEEDED)

    def __call__(self, features: Tensor, t: Tensor) -> Tensor:
        """The denoiser's tokens, on the device where the connector is.

        Args:
            features: T5's, float32 (B, n, text_width).
            t: Timesteps from 0 to 999, (B,).

        Returns:
            float32 (B, latents, width)
        """
        return self.network(features.to(self.device, torch.float32), t.to(self.device))


def ella_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """A connector's tensors, without the prefix that a trainer or converter gave them.

    Args:
        weights: As from read_state_dict.
        file: The name to use in messages.

    Raises:
        ValueError: This is another network.
    """
    connector = below(weights, LATENTS_KEY)
    if not connector.keys() >= CONFIG_KEYS:
        raise ValueError(f"'{file}' holds {describe(weights)}. {NEEDED}")
    return connector


def load(path: str | Path) -> ELLA:
    """An ELLA of any size; which, is told from its tensors.

    Raises:
        ValueError: The file cannot be read, or is no ELLA.
    """
    path = Path(path)
    return ELLA(ella_weights(read_state_dict(path), path.name), path.name)


# The text on its way to the sampler


class Text(comfy.conds.CONDConstant):
    """A text that rides in a conditioning's `model_conds`, where the host's nodes and areas keep it with its tokens.

    Where nothing asks for it, it goes through the host like a constant without a value.

    Attributes:
        features: T5's, float32 (1, n, text_width).
        start: The connector's tokens at the last timestep, (1, latents, width): the first tokens of the conditioning.
        blank: CLIP's tokens of an empty text, (1, 77, width), where CLIP read the text too.
        key: Equal for equal features.
    """

    def __init__(self, features: Tensor, start: Tensor, blank: Tensor | None = None) -> None:
        super().__init__(None)
        self.features, self.start, self.blank = features, start, blank
        data = features.float().cpu().contiguous().numpy()
        self.key = hashlib.blake2b(data, digest_size=16, person=b"%dx%d" % data.shape[1:]).digest()

    def _copy_with(self, cond: None) -> "Text":
        return self


def factor(tokens: Tensor, start: Tensor) -> float | None:
    """What a node has multiplied the tokens with since they were encoded; None where it did anything else to them.

    Args:
        tokens, start: (B, latents, width) and (1, latents, width).
    """
    start = start.to(tokens)  # another node may have moved them
    if torch.equal(tokens, start):
        return 1.0
    x, y = tokens.double(), start.double()
    k = ((x * y).sum() / (len(x) * y.square().sum())).item()
    return k if (x - k * y).norm() <= 1e-3 * (abs(k) * y.norm() + 1e-9) else None


# The patch


def check_model(model: ModelPatcher, width: int) -> None:
    """
    Raises:
        ValueError: The model takes other tokens than those of this width.
    """
    config = model.model.model_config
    if (found := config.unet_config.get("context_dim")) != width:
        takes = f"whose text is {found} wide" if found else "which is no UNet with a text of one width"
        raise ValueError(
            f"model is of the kind {type(config).__name__}, {takes}. Apply ELLA needs Stable Diffusion 1.5, its "
            f"inpainting model or a finetune, whose text is {width} wide: ELLA was trained for it, and for no other."
        )


def check_sampling(sampling: torch.nn.Module) -> None:
    """
    Raises:
        ValueError: It does not count timesteps from 0 to 999.
    """
    if isinstance(sampling, ModelSamplingDiscrete) and sampling.timestep(sampling.sigma_max).item() == LAST:
        return
    raise ValueError(
        f"model samples by {' and '.join(base.__name__ for base in type(sampling).__bases__)}, which does not count "
        "timesteps from 0 to 999 as ELLA does. Apply ELLA works with the sampling of Stable Diffusion 1.5, with "
        "v-prediction, zero terminal SNR and LCM. Take away the node that changes it to another (ModelSampling...)."
    )


def holds(cond: Cond, sigma: float) -> bool:
    """Whether a conditioning's range of timesteps, which ComfyUI keeps in sigmas, holds this one."""
    return cond.get("timestep_end", sigma) <= sigma <= cond.get("timestep_start", sigma)


class Follower:
    """Gives every ELLA text the tokens of the timestep that is being computed. One for each Apply ELLA.

    The tokens are kept for the run alone, so that a text costs one connector call per timestep.
    """

    def __init__(self, ella: ELLA) -> None:
        self.ella = ella
        self.tokens: dict[tuple[bytes, float], Tensor] = {}  # (latents, width)
        self.warned = False

    def forget(self, *_: Any) -> None:
        """At the end of a run, however it ended."""
        self.tokens.clear()
        self.warned = False

    def wrap(self, *args: Any) -> list[Tensor]:
        """A wrapper of CALC_COND_BATCH. Areas, masks, ControlNets, windows and batching come after it."""
        call = Call(*args)
        sigma = call.sigma[0].item()
        conds = [cond for prompt in call.conds for cond in prompt or ()]
        active = [cond for cond in conds if KEY in cond["model_conds"] and holds(cond, sigma)]
        if not active:
            return call.run()
        check_sampling(call.model.model_sampling)
        timesteps = call.model.model_sampling.timestep(call.sigma).tolist()
        timesteps = timesteps[:1] if len(set(timesteps)) == 1 else timesteps
        self.prepare({text.key: text for text in (cond["model_conds"][KEY] for cond in active)}, timesteps)
        longest = max(cond["model_conds"]["c_crossattn"].cond.shape[1] for cond in active)
        changed = {id(cond): self.with_tokens(cond, timesteps, longest, call.x.device) for cond in active}
        while len(self.tokens) > KEEP:
            del self.tokens[next(iter(self.tokens))]
        return call.run(conds=[prompt and [changed.get(id(cond), cond) for cond in prompt] for prompt in call.conds])

    def prepare(self, texts: dict[bytes, Text], timesteps: list[float]) -> None:
        """Makes the tokens that are not there yet; texts of one length in one call."""
        missing = [(text, t) for key, text in texts.items() for t in set(timesteps) if (key, t) not in self.tokens]
        for length in {text.features.shape[1] for text, _ in missing}:
            batch = [(text, t) for text, t in missing if text.features.shape[1] == length]
            tokens = self.ella(torch.cat([text.features for text, _ in batch]), torch.tensor([t for _, t in batch]))
            self.tokens |= {(text.key, t): found for (text, t), found in zip(batch, tokens, strict=True)}

    def with_tokens(self, cond: Cond, timesteps: list[float], longest: int, device: torch.device) -> Cond:
        """A copy of the conditioning with the tokens of the timesteps, of one for all samples or of one for each.

        It gets empty chunks of CLIP up to the number of tokens of the longest, so that the host batches them.
        """
        model_conds = cond["model_conds"].copy()
        text, given = model_conds.pop(KEY), model_conds["c_crossattn"]
        start, rest = given.cond.split((text.start.shape[1], given.cond.shape[1] - text.start.shape[1]), dim=1)
        k = factor(start, text.start)
        if k is None:
            self.warn()
            tokens = start.to(device)
        else:
            tokens = k * torch.stack([self.tokens[text.key, t] for t in timesteps]).to(device)
        parts = [tokens, rest]
        if text.blank is not None:
            chunks, odd = divmod(longest - given.cond.shape[1], text.blank.shape[1])
            parts += [text.blank] * (0 if odd else chunks)
        size = max(len(tokens), len(rest))
        model_conds["c_crossattn"] = given._copy_with(
            torch.cat([part.to(device).expand(size, -1, -1) for part in parts], dim=1)
        )
        return {**cond, "model_conds": model_conds}

    def warn(self) -> None:
        if not self.warned:
            logging.warning(
                "An ELLA conditioning was mixed with another, by Conditioning (Average) for example. Its tokens stay "
                "as they are at the first timestep. To mix texts at every timestep, use Conditioning (Combine)."
            )
        self.warned = True


def apply(model: ModelPatcher, ella: ELLA) -> ModelPatcher:
    """The model, with ELLA telling it its texts at each timestep. A second one on the same model takes its place.

    Raises:
        ValueError: The model is not shaped as Stable Diffusion 1.5, or its sampling has no timesteps from 0 to 999.
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
