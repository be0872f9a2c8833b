"""Makes hidiffusion.npz by running HiDiffusion's own patches on a thin diffusers UNet with seeded random weights.

    python tests/golden/make_hidiffusion.py CHECKOUT

with the checkout of github.com/megvii-research/HiDiffusion (e9ec39a, Apache-2.0), in an environment with diffusers
0.30.3 and transformers. Weights, latents, texts and a ControlNet's residuals are made anew in the tests, so that the
file holds outputs alone.

The repository chooses its ratios by the latent's size, counts steps by its calls, and draws shifts from PyTorch's
global generator. Here the ratios of a preset are put in the place of those for small latents, the counter is set, and
the draws are those of `shifts`.
"""

import hashlib
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).parent
TEXT, VECTOR, SEED = 24, 16, 5
SHARED = {"layers_per_block": 2, "cross_attention_dim": TEXT}
UNETS = {  # arguments of diffusers' UNet2DConditionModel
    "sd15": SHARED
    | {
        "block_out_channels": (32, 64, 64, 64),
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "sdxl": SHARED
    | {
        "block_out_channels": (32, 64, 64),
        "attention_head_dim": (1, 2, 2),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 2),
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": VECTOR,
    },
}
OFFICIAL = {
    "sd15": "runwayml/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "turbo": "stabilityai/sdxl-turbo",
}


class Case(NamedTuple):
    """A call of the UNet.

    Attributes:
        unet: One of UNETS.
        preset: Of the node.
        of: Steps of the run.
        step: Of the call.
        size: (H, W) of the latent.
        control: Whether a ControlNet's residuals are added.
        inpainting: Whether the repository takes the model for an inpainting model.
    """

    unet: str
    preset: str
    of: int
    step: int
    size: tuple[int, int]
    batch: int = 1
    raunet: bool = True
    windows: bool = True
    control: bool = False
    inpainting: bool = False

    @property
    def name(self) -> str:
        parts = (
            f"{self.preset}, step {self.step} of {self.of}, {self.batch}x{self.size[0]}x{self.size[1]}",
            "" if self.raunet else "no raunet",
            "" if self.windows else "no windows",
            "control" * self.control,
            "inpainting" * self.inpainting,
        )
        return ", ".join(filter(None, parts))


CASES = (
    Case("sd15", "sd15 1024", 10, 3, (16, 24), batch=2),
    Case("sd15", "sd15 1024", 10, 4, (16, 24)),
    *(Case("sd15", "sd15 2048", 10, step, (16, 24)) for step in (2, 3, 6, 7)),
    Case("sd15", "sd15 2048", 10, 2, (16, 24), control=True),
    Case("sd15", "sd15 2048", 10, 2, (17, 23), windows=False),
    Case("sd15", "sd15 1024", 10, 0, (18, 26), raunet=False),
    *(Case("sdxl", "sdxl 2048", 25, step, (32, 24)) for step in (3, 4, 9, 10)),
    *(Case("sdxl", "sdxl 4096", 10, step, (32, 24)) for step in (2, 3, 6, 7)),
    *(Case("sdxl", "turbo 1024", 4, step, (32, 24)) for step in (1, 2)),
    *(Case("sdxl", "sdxl 2048", 25, step, (16, 24), windows=False, control=True) for step in (3, 4)),
    *(Case("sdxl", "sdxl 2048", 25, step, (17, 23), windows=False) for step in (3, 4)),
    Case("sdxl", "sdxl 2048", 25, 3, (32, 24), inpainting=True),
)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random weights of a sane size, each from its name in diffusers alone."""
    return {name: torch.from_numpy(_values(name, shape)) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape), dtype=np.float32)
    if len(shape) == 1:
        return noise / 4 + np.float32(name.endswith("weight"))
    return noise * np.float32((2 if "to_q" in name else 1) / np.sqrt(np.prod(shape[1:])))


def _randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def inputs(case: Case) -> SimpleNamespace:
    """Of a call: x (B, 4, H, W), t (B,), text (B, 7, TEXT), y (B, VECTOR) or None."""
    y = _randn(3, case.batch, VECTOR) if case.unet == "sdxl" else None
    x, text = _randn(1, case.batch, 4, *case.size), _randn(2, case.batch, 7, TEXT)
    return SimpleNamespace(x=x, t=torch.tensor([500.0, 20.0][: case.batch]), text=text, y=y)


def residuals(case: Case) -> tuple[list[torch.Tensor], torch.Tensor] | None:
    """A ControlNet's, for each block on the way down and for the middle, of a network without HiDiffusion."""
    if not case.control:
        return None
    down, (height, width) = [], case.size
    channels = UNETS[case.unet]["block_out_channels"]
    for level, count in enumerate(channels):
        if level:
            height, width = -(-height // 2), -(-width // 2)
        first = channels[max(level - 1, 0)]  # of the first convolution or of the downsampler
        down += [_randn(100 + len(down) + i, case.batch, c, height, width) for i, c in enumerate((first, count, count))]
    return down, _randn(99, case.batch, channels[-1], height, width)


def shifts(step: int, count: int) -> list[int]:
    """Of the windows in each attention of a step, in quarters of a window."""
    digest = hashlib.blake2b(struct.pack("<QQ", SEED, step), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return [int(torch.randint(4, (), generator=generator)) for _ in range(count)]


def _run(hidiffusion, case: Case) -> np.ndarray:
    from diffusers import UNet2DConditionModel

    class DiffusionPipeline:
        """As much of one as the repository asks for."""

        def __init__(self, unet: torch.nn.Module) -> None:
            kind = "turbo" if case.preset.startswith("turbo") else case.unet
            self.unet, self.name_or_path, self._num_timesteps = unet, OFFICIAL[kind], case.of

    unet = UNet2DConditionModel(**UNETS[case.unet]).eval()
    unet.load_state_dict(weights({name: value.shape for name, value in unet.state_dict().items()}))
    pipeline = DiffusionPipeline(unet)
    hidiffusion.apply_hidiffusion(pipeline, case.raunet, case.windows)
    unet.info["is_inpainting_task"] = case.inpainting
    for module in unet.modules():
        if hasattr(module, "timestep"):
            module.timestep = case.step
    extra = {}
    if case.control:
        unet.__class__ = hidiffusion.make_diffusers_unet_2d_condition(unet.__class__)
        down, middle = residuals(case)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    ratios = hidiffusion.switching_threshold_ratio_dict
    if not case.preset.startswith("turbo"):
        small = {"sd15": "sd15_1024", "sdxl": "sdxl_2048"}[case.unet]
        ratios = ratios | {small: ratios[case.preset.replace(" ", "_")]}
    given, draws = inputs(case), iter(shifts(case.step, 10))
    with (
        torch.inference_mode(),
        mock.patch.object(hidiffusion, "switching_threshold_ratio_dict", ratios),
        mock.patch.object(hidiffusion, "is_aggressive_raunet", case.preset == "sdxl 2048"),
        mock.patch.object(torch, "rand", lambda n: torch.tensor([(next(draws) + 0.5) / 4])),
    ):
        return unet(given.x, given.t, given.text, class_labels=given.y, **extra).sample.numpy()


def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    from hidiffusion import hidiffusion

    np.savez_compressed(HERE / "hidiffusion.npz", **{case.name: _run(hidiffusion, case) for case in CASES})


if __name__ == "__main__":
    main(sys.argv[1])
