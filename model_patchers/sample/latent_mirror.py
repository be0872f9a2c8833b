"""Symmetry of what is sampled: dfaker's latent mirroring for A1111, and symmetric predictions.

Mirroring changes the model's input in the first steps of a run: the model sees T(x), or (T(x) + x) / 2, and its answer
is used as it is. The mean of two noises has half of their variance, so the second way blurs.

Symmetric predictions are exact. Of the model's answer D the mean over the symmetry is taken, such as (D + T(D)) / 2,
and the noise stays as it is.
"""

from collections.abc import Callable
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..comfyui import schedule
from ..comfyui.patching import attach

KEY, NODE = "pentimento_latent_mirror", "Latent Mirror"
DENOISED, INPUT = "denoised", "input"
BLEND, ALTERNATE = "blend", "alternate"

Transform = Callable[[Tensor], Tensor]


def across(x: Tensor) -> Tensor:
    return x.flip(-1)


def down(x: Tensor) -> Tensor:
    return x.flip(-2)


def half_turn(x: Tensor) -> Tensor:
    return x.flip(-2, -1)


def quarter_turn(x: Tensor) -> Tensor:
    return x.rot90(1, (-2, -1))


# {symmetry: T on the model's input, and the transforms whose means in turn make a prediction symmetric}
SYMMETRIES: dict[str, tuple[Transform, tuple[Transform, ...]]] = {
    "left-right": (across, (across,)),
    "up-down": (down, (down,)),
    "both": (half_turn, (across, down)),
    "half turn": (half_turn, (half_turn,)),
    "quarter turn": (quarter_turn, (half_turn, quarter_turn)),
    "channels": (lambda x: x.roll(1, 1), (lambda x: x.roll(1, 1),)),
    "none": (lambda x: x, ()),
}


def symmetric(x: Tensor, symmetry: str) -> Tensor:
    """The mean of x (B, C, ..., H, W) over a symmetry: exactly symmetric, to the bit.

    Two transforms are applied in turn. The mean over the second of them keeps the symmetry under the first, since the
    sum of two numbers does not depend on their order.
    """
    for transform in SYMMETRIES[symmetry][1]:
        x = (x + transform(x)) / 2
    return x


def mirrored(x: Tensor, symmetry: str, mode: str) -> Tensor:
    """The reference's input of the model: T(x), or (T(x) + x) / 2 where `mode` is BLEND."""
    transformed = SYMMETRIES[symmetry][0](x)
    return (transformed + x) / 2 if mode == BLEND else transformed


def panned(x: Tensor, pan_x: float, pan_y: float) -> Tensor:
    """x moved right and down by parts of its size, rounded towards 0. What leaves it enters at the other side."""
    height, width = x.shape[-2:]
    return x.roll((int(height * pan_y), int(width * pan_x)), (-2, -1))


def patch(
    model: ModelPatcher, where: str, symmetry: str, mode: str, max_fraction: float, pan_x: float, pan_y: float
) -> ModelPatcher:
    """A clone of the model that is sampled with a symmetry.

    Args:
        where: DENOISED: the guided prediction, after all other patches. INPUT: what the model sees.
        symmetry: One of SYMMETRIES.
        mode: BLEND or ALTERNATE.
        max_fraction: The part of a run's steps, from its start, in which the symmetry acts.
        pan_x, pan_y: As in `panned`, in each of these steps.
    """

    def change(x: Tensor) -> Tensor:
        by_mean = where == DENOISED and mode == BLEND
        return panned(symmetric(x, symmetry) if by_mean else mirrored(x, symmetry, mode), pan_x, pan_y)

    def predict_noise(
        executor: WrapperExecutor, x: Tensor, sigma: Tensor, options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        sigmas = options["transformer_options"]["sample_sigmas"]
        if schedule.step(sigma[:1], sigmas) >= max_fraction * (len(sigmas) - 1):
            return executor(x, sigma, options, seed)
        if where == INPUT:
            return executor(change(x), sigma, options, seed)
        return change(executor(x, sigma, options, seed))

    def outer_sample(executor: WrapperExecutor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check(kwargs.get("latent_shapes") or [noise.shape], symmetry)
        return executor(noise, *args, **kwargs)

    return attach(model, KEY, {WrappersMP.PREDICT_NOISE: predict_noise, WrappersMP.OUTER_SAMPLE: outer_sample})


def check(shapes: list[tuple[int, ...]], symmetry: str) -> None:
    """Refuses latents that have no such symmetry.

    Args:
        shapes: Of the latent, or of each of its parts.

    Raises:
        ValueError: The latent has several parts, is none of pictures, or is not square where a quarter turn is to be
            made.
    """
    if len(shapes) > 1 or len(shapes[0]) < 4:
        came = f"{len(shapes)} parts, such as a video and its sound" if len(shapes) > 1 else "no height and width"
        raise ValueError(
            f"{NODE} turns the pictures or the video of a latent, but the latent of this run has {came}. Sample it "
            "with the model from before this node."
        )
    height, width = shapes[0][-2:]
    if symmetry == "quarter turn" and height != width:
        raise ValueError(
            f"{NODE}: a quarter turn needs a square, but the latent of this run is {width} x {height} (width x height, "
            "in latent pixels). Sample a square picture, or choose half turn."
        )
