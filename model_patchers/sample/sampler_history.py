"""The last predictions of a run, and their merging: klimaleksus' Anti-Burn for A1111 (Unlicense).

Anti-Burn decodes the denoised predictions of the last steps, without the very last ones if wanted, and returns
(mean + median) / 2 of the pictures. It smooths what the last steps of an overtrained model burn in.
"""

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

import comfy.utils
import torch
from comfy import model_management
from comfy.model_patcher import create_model_options_clone
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrapperExecutor, WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider, Sampler
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from torch import Tensor

from ..comfyui.conditioning import Latent

KEY = "pentimento_sampler_history"
OF_OWN_SIZE = ("noise_mask", "batch_index")  # entries of a latent that say something of each picture
ENDING_ELSEWHERE = {"dpm_fast_function", "dpm_adaptive_function"}  # whose result is not their last prediction
BAND = 2**24  # numbers that are merged at once
RULES = {
    "mean and median": lambda steps: (steps.mean(0) + _median(steps)) / 2,
    "mean": lambda steps: steps.mean(0),
    "median": lambda steps: _median(steps),
}


class Recorder:
    """Keeps the denoised predictions of a run's last steps, and at most `length` of them."""

    def __init__(self, length: int) -> None:
        self.last: deque[Tensor] = deque(maxlen=length)

    def sample(
        self,
        executor: WrapperExecutor,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None],
        *args: Any,
    ) -> Tensor:
        """A wrapper of SAMPLER_SAMPLE."""

        def record(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
            self.keep(x0)
            callback(step, x0, x, total_steps)

        samples = executor(guider, sigmas, extra_args, record, *args)
        function = getattr(executor.class_obj, "sampler_function", None)
        if getattr(function, "__name__", "") in ENDING_ELSEWHERE:
            self.keep(samples)
        return samples

    def keep(self, x0: Tensor) -> None:
        """Copies a prediction, which the sampler may write to, away from the memory that the model needs."""
        self.last.append(x0.to(model_management.intermediate_device(), copy=True))


def sample(
    noise: object, guider: CFGGuider, sampler: Sampler, sigmas: Tensor, latent: Latent, keep: int, skip: int
) -> tuple[Latent, Latent, Latent]:
    """Samples as ComfyUI's SamplerCustomAdvanced does.

    Args:
        keep: How many predictions to return, or fewer if the run has fewer steps.
        skip: How many of the very last predictions to leave out.

    Returns:
        The result, its denoised prediction, and a batch of the last predictions, oldest first: each is a batch like the
        result. If nothing is left after `skip`, the result is the only one.
    """
    recorder, watched = Recorder(keep + skip), copy.copy(guider)
    watched.model_options = create_model_options_clone(guider.model_options)
    add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, recorder.sample, watched.model_options, is_model_options=True)
    own = sigmas.clone()  # ComfyUI's uni_pc writes to them
    output, denoised = SamplerCustomAdvanced.execute(noise, watched, sampler, own, latent).result
    samples = output["samples"]
    last = [*recorder.last][: max(len(recorder.last) - skip, 0)]
    last = [_as_output(x0, samples, guider) for x0 in last] or [samples]
    rest = {name: value for name, value in output.items() if name not in OF_OWN_SIZE}
    return output, denoised, {**rest, "samples": _joined(last)}


def _as_output(x0: Tensor, samples: Tensor | NestedTensor, guider: CFGGuider) -> Tensor | NestedTensor:
    """A prediction as the sampler's result is: unpacked where a latent has several parts, and at the VAE's scale."""
    if samples.is_nested:
        x0 = NestedTensor(comfy.utils.unpack_latents(x0, [part.shape for part in samples.unbind()]))
    return guider.model_patcher.model.process_latent_out(x0)


def _joined(latents: list[Tensor | NestedTensor]) -> Tensor | NestedTensor:
    """One batch of several."""
    if latents[0].is_nested:
        return NestedTensor([torch.cat(parts) for parts in zip(*(each.unbind() for each in latents), strict=True)])
    return torch.cat(latents)


def merge(images: Tensor, rule: str, pictures: int = 1) -> Tensor:
    """One picture of several: (K * P, H, W, C) -> (P, H, W, C).

    Args:
        images: The P pictures of the oldest step, then those of the next.
        rule: One of RULES.
        pictures: P.

    Raises:
        ValueError: The number of images is no multiple of P.
    """
    if len(images) % pictures:
        raise ValueError(
            f"Merge History got {len(images)} images, which is no multiple of the batch_size {pictures}. Set "
            "batch_size to the number of pictures that were sampled at once: 1 for a single picture, and for a video "
            "the number of its frames."
        )
    steps = images.unflatten(0, (-1, pictures))  # (K, P, H, W, C)
    rows = max(1, BAND // steps[:, :, 0].numel())
    return torch.cat([RULES[rule](band) for band in steps.split(rows, 2)], 1)


def _median(steps: Tensor) -> Tensor:
    """The median over the first dimension; of an even number, the mean of the two in the middle, as in NumPy."""
    ordered = steps.sort(0).values
    return (ordered[(len(steps) - 1) // 2] + ordered[len(steps) // 2]) / 2
