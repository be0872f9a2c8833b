"""HiDiffusion: pictures of two to four times the side that a model was trained for, in one pass and in less time. Zhang
et al. 2024, "HiDiffusion: Unlocking Higher-Resolution Creativity and Efficiency in Pretrained Diffusion Models"
(github.com/megvii-research/HiDiffusion, Apache-2.0).

Each call of the network gets HiDiffusion's patches in its options, beside those of other nodes. The network itself is
not changed. hidiffusion_unet.py holds these patches.
"""

import hashlib
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..comfyui import kinds, schedule
from ..comfyui.patching import attach, detach
from .hidiffusion_unet import Halvings, Layout, Patches, Size, Windows, layout

KEY = "pentimento_hidiffusion"
NODE = "HiDiffusion"
AUTO = "auto"
LATENT = 8  # pixels to a latent pixel
ENOUGH = 2  # times the trained area, from which features of half the side are nearer to training than whole ones


@dataclass(frozen=True)
class Preset:
    """The authors' ratios: the part of the steps in which features are halved once (t1) and twice (t2).

    Attributes:
        family: "sd" or "sdxl".
        strided: The downsampler that halves, counted from outside; the pooled block follows the first one.
        pools_first: Whether t1 is the pooled block's and t2 the downsampler's.
        aggressive: The part of the steps at the beginning in which the downsampler halves in place of the pooled
            block; 0: t1 and t2 overlap.
    """

    family: str
    t1: float
    t2: float = 0.0
    strided: int = 1
    pools_first: bool = True
    aggressive: float = 0.0

    def halved(self, step: int, steps: int, inpainting: bool) -> tuple[bool, bool]:
        """Whether the downsampler halves, and whether the block pools.

        Args:
            inpainting: The authors' inpainting models are not aggressive.
        """
        once, twice = step < int(steps * self.t1), step < int(steps * self.t2)
        if self.aggressive and not inpainting:
            first = step < int(self.aggressive * steps)
            return first, once and not first
        return (twice, once) if self.pools_first else (once, twice)


PRESETS = {
    "sd15 1024": Preset("sd", 0.4, strided=0, pools_first=False),
    "sd15 2048": Preset("sd", 0.7, 0.3, strided=0, pools_first=False),
    "sdxl 2048": Preset("sdxl", 0.4, aggressive=8 / 50),
    "sdxl 4096": Preset("sdxl", 0.7, 0.3),
    "turbo 1024": Preset("sdxl", 0.5),
}
LARGE = {"sd": ("sd15 1024", "sd15 2048", 2048), "sdxl": ("sdxl 2048", "sdxl 4096", 4096)}  # and the second's sides


def halvings(network: Layout, preset: Preset, step: int, steps: int, inpainting: bool) -> Halvings | None:
    """RAU-Net at a step; None: it is over."""
    strided, pooled = preset.halved(step, steps, inpainting)
    if not strided and not pooled:
        return None
    downsamplers = network.downsamplers
    return Halvings(network, downsamplers[preset.strided] if strided else None, downsamplers[0] + 1 if pooled else None)


def shifts(seed: int, step: int) -> Iterator[int]:
    """The shift of the windows in each attention of a step, in quarters of a window: 0 ... 3.

    It depends on the seed and the step alone, so that all evaluations of a step have the same windows.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, step), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    while True:
        yield int(torch.randint(4, (), generator=generator))


# The patch


@dataclass(frozen=True)
class HiDiffusion:
    """What the node sets.

    Attributes:
        family: "sd" or "sdxl".
        native: Side of the trained pictures, in pixels.
        preset: One of PRESETS, or AUTO.
        inpainting: Whether the model is an inpainting model.
    """

    family: str
    native: int
    raunet: bool
    windows: bool
    preset: str
    seed: int
    inpainting: bool

    def choose(self, size: Size) -> str | None:
        """The preset for a latent of this size, (H, W); None: the model needs no help."""
        if self.preset != AUTO:
            return self.preset
        height, width = size[0] * LATENT, size[1] * LATENT
        if height * width < ENOUGH * self.native**2:
            return None
        small, large, side = LARGE[self.family]
        return large if min(height, width) >= side else small

    def wrap_network(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None,
        control: dict[str, list[Tensor | None]] | None,
        options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        """A wrapper of DIFFUSION_MODEL."""
        name, sigmas = self.choose(x.shape[-2:]), options["sample_sigmas"]
        if name is not None:
            step, steps = int(schedule.step(options["sigmas"][:1], sigmas)), len(sigmas) - 1
            network, parts = layout(executor.class_obj), []
            if self.raunet and (rau := halvings(network, PRESETS[name], step, steps, self.inpainting)):
                parts.append(rau)
                control = control and rau.fit_control(control, x.shape[-2:])
            if self.windows:
                parts.append(Windows(network, shifts(self.seed, step)))
            for part in parts:
                options = {**options, "patches": _around(options.get("patches", {}), *part.patches())}
        return executor(x, timesteps, context, y, control, options, **kwargs)

    def wrap_run(self, executor: WrapperExecutor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A wrapper of OUTER_SAMPLE, which says what is done."""
        height, width = (side * LATENT for side in noise.shape[-2:])
        name = self.choose(noise.shape[-2:])
        if name is None:
            logging.info(
                "%s does nothing: %d x %d pixels are less than twice the area of the model's training, %d x %d. Choose "
                "a preset other than auto to have it anyway; for SDXL Turbo, turbo 1024.",
                *(NODE, width, height, self.native, self.native),
            )
        else:
            logging.info("%s: preset %s for %d x %d pixels.", NODE, name, width, height)
        return executor(noise, *args, **kwargs)


def _around(patches: Patches, before: Patches, after: Patches) -> Patches:
    """The patches of other nodes with ours before and after."""
    names = [*patches, *(name for name in (*before, *after) if name not in patches)]
    return {name: [*before.get(name, []), *patches.get(name, []), *after.get(name, [])] for name in names}


def attach_to(model: ModelPatcher, settings: HiDiffusion) -> ModelPatcher:
    """A clone of the model with HiDiffusion, in place of an earlier one."""
    wrappers = {
        WrappersMP.DIFFUSION_MODEL: settings.wrap_network,
        WrappersMP.OUTER_SAMPLE: settings.wrap_run,
    }
    return attach(model, KEY, wrappers)


def apply(model: ModelPatcher, raunet: bool, windows: bool, preset: str, seed: int) -> ModelPatcher:
    """A clone of the model with HiDiffusion, in place of an earlier one.

    Args:
        raunet: Whether deep features are halved in the first steps.
        windows: Whether the outermost attention computes in windows.
        preset: One of PRESETS, or AUTO.
        seed: Of the windows' shifts.

    Raises:
        ValueError: The model is of a kind that HiDiffusion was not made for, or the preset is for another kind.
    """
    kind = kinds.identify(model)
    family = _family(kind)
    if preset != AUTO and PRESETS[preset].family != family:
        fitting = [name for name, each in PRESETS.items() if each.family == family]
        raise ValueError(
            f"preset of {NODE} is '{preset}', and the model here is {kind.title}. Choose {', '.join(fitting)} or auto."
        )
    if not raunet and not windows:
        return detach(model, KEY)
    native = 1024 if family == "sdxl" else 768 if kind.text == 1024 and kind.prediction == "v" else 512
    inpainting = kind.name == "sdxl-inpaint"
    return attach_to(model, HiDiffusion(family, native, raunet, windows, preset, seed, inpainting))


def _family(kind: kinds.Kind) -> str:
    """The presets' name for a kind.

    Raises:
        ValueError: HiDiffusion was not made for it.
    """
    families = {768: "sd", 1024: "sd", 2048: "sdxl"}
    if kind.first != kinds.KINDS["sd15"].first or kind.text not in families:
        raise ValueError(
            f"{NODE} works with Stable Diffusion 1.x, 2.x and SDXL, and the model here is {kind.title}. Load such a "
            f"model, or remove {NODE}. Inspect Model tells what a model is and which nodes fit it."
        )
    return families[kind.text]
