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
import comfy.model_patcher
import comfy.ops
import torch
from comfy import model_management
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import CallbacksMP, WrapperExecutor, WrappersMP
from torch import Tensor

from ..arch.ella import CONFIG_KEYS, LATENTS_KEY, Config, Connector, split_projections
from ..comfyui.weights import describe, read_state_dict

KEY = "pentimento_ella"  # of the text in model_conds, and of what is attached to a model
LAST = 999  # the noisiest timestep, at which sampling begins
KEEP = 128  # tokens of so many texts and timesteps, 25 MB: some samplers come back to a timestep
NEEDED = "Load ELLA needs the connector that ELLA's authors published, ella-sd1.5-tsc-t5xl.safetensors."


# The model


class ELLA:
    """The connector under the host's memory management.

    Args:
        weights: As from ella_weights.
        file: The name to use in messages.
        heads: Of the attention. No tensor tells; the published connector has 8.
    """

    def __init__(self, weights: dict[str, Tensor], file: str, heads: int = 8) -> None:
        device, offload_device = model_management.get_torch_device(), model_management.unet_offload_device()
        # It computes in float32. Converting its weights at each step costs a GPU nothing and a CPU a third of the time.
        dtype = torch.float32 if model_management.is_device_cpu(device) else weights[LATENTS_KEY].dtype
        self.network = Connector(Config.of(weights, heads), comfy.ops.manual_cast, offload_device, dtype).eval()
        self.config = self.network.config
        self.patcher = comfy.model_patcher.CoreModelPatcher(self.network, device, offload_device)
        weights = {key: value.to(dtype) for key, value in split_projections(weights).items()}
        missing, extra = self.network.load_state_dict(weights, strict=False, assign=self.patcher.is_dynamic())
        if missing:
            raise ValueError(
                f"'{file}' is an incomplete ELLA: it lacks {len(missing)} tensors such as '{missing[0]}'. "
                "Download it again."
            )
        if extra:
            raise ValueError(
                f"'{file}' is an ELLA with {len(extra)} tensors that no ELLA here has, such as '{extra[0]}'. {NEEDED}"
            )

    def load(self) -> None:
        """Has the host load the connector; a model that it is applied to brings it along when it is sampled."""
        model_management.load_models_gpu([self.patcher])

    def __call__(self, features: Tensor, t: Tensor) -> Tensor:
        """The denoiser's tokens, on the device where the connector is.

        Args:
            features: T5's, float32 (B, n, text_width).
            t: Timesteps from 0 to 999, (B,).

        Returns:
            float32 (B, latents, width)
        """
        device = self.patcher.load_device
        return self.network(features.to(device, torch.float32), t.to(device))


def ella_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """A connector's tensors, without the prefix that a trainer or converter gave them.

    Args:
        weights: As from read_state_dict.
        file: The name to use in messages.

    Raises:
        ValueError: This is another network.
    """
    prefix = next((key.removesuffix(LATENTS_KEY) for key in weights if f".{key}".endswith(f".{LATENTS_KEY}")), "")
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    if not found.keys() >= CONFIG_KEYS:
        raise ValueError(f"'{file}' holds {describe(weights)}. {NEEDED}")
    return found


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


def check_model(model: comfy.model_patcher.ModelPatcher, width: int) -> None:
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


def active(cond: dict[str, Any], sigma: float) -> bool:
    """Whether the conditioning's range of timesteps, as the host has it in sigmas, holds this one."""
    return cond.get("timestep_end", sigma) <= sigma <= cond.get("timestep_start", sigma)


class Follower:
    """Gives every ELLA text the tokens of the timestep that is being computed. One for each Apply ELLA.

    The tokens are kept for the run alone, so that a text costs one connector call per timestep.
    """

    def __init__(self, ella: ELLA, keep: int = KEEP) -> None:
        self.ella, self.keep = ella, keep
        self.tokens: dict[tuple[bytes, float], Tensor] = {}  # (latents, width)
        self.warned = False

    def forget(self, *_: Any) -> None:
        """At the end of a run, however it ended."""
        self.tokens.clear()
        self.warned = False

    def wrap(
        self,
        executor: WrapperExecutor,
        model: torch.nn.Module,
        conds: list[list[dict[str, Any]] | None],
        x: Tensor,
        sigma: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """A wrapper of CALC_COND_BATCH. Areas, masks, ControlNets, windows and batching come after it."""
        first = sigma[0].item()
        now = [cond for part in conds for cond in part or () if KEY in cond["model_conds"] and active(cond, first)]
        if not now:
            return executor(model, conds, x, sigma, model_options)
        check_sampling(model.model_sampling)
        timesteps = model.model_sampling.timestep(sigma).tolist()
        timesteps = timesteps[:1] if len(set(timesteps)) == 1 else timesteps
        self.prepare({text.key: text for text in (cond["model_conds"][KEY] for cond in now)}, timesteps)
        longest = max(cond["model_conds"]["c_crossattn"].cond.shape[1] for cond in now)
        told = {id(cond): self.tell(cond, timesteps, longest, x.device) for cond in now}
        while len(self.tokens) > self.keep:
            del self.tokens[next(iter(self.tokens))]
        conds = [part and [told.get(id(cond), cond) for cond in part] for part in conds]
        return executor(model, conds, x, sigma, model_options)

    def prepare(self, texts: dict[bytes, Text], timesteps: list[float]) -> None:
        """Makes the tokens that are not there yet; texts of one length in one call."""
        missing = [(text, t) for key, text in texts.items() for t in set(timesteps) if (key, t) not in self.tokens]
        for length in {text.features.shape[1] for text, _ in missing}:
            batch = [(text, t) for text, t in missing if text.features.shape[1] == length]
            tokens = self.ella(torch.cat([text.features for text, _ in batch]), torch.tensor([t for _, t in batch]))
            self.tokens |= {(text.key, t): found for (text, t), found in zip(batch, tokens, strict=True)}

    def tell(self, cond: dict[str, Any], timesteps: list[float], longest: int, device: torch.device) -> dict[str, Any]:
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


def apply(model: comfy.model_patcher.ModelPatcher, ella: ELLA) -> comfy.model_patcher.ModelPatcher:
    """The model, with ELLA telling it its texts at each timestep. A second one on the same model takes its place.

    Raises:
        ValueError: The model is not shaped as Stable Diffusion 1.5, or its sampling has no timesteps from 0 to 999.
    """
    check_model(model, ella.config.width)
    check_sampling(model.get_model_object("model_sampling"))
    model, follower = model.clone(), Follower(ella)
    model.set_additional_models(KEY, [ella.patcher])
    model.remove_wrappers_with_key(WrappersMP.CALC_COND_BATCH, KEY)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, follower.wrap)
    model.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, follower.forget)
    return model
