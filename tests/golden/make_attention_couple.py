"""Makes attention_couple.npz by running Regional Prompter's own cross-attention in a thin UNet of ComfyUI.

    python tests/golden/make_attention_couple.py CHECKOUT COMFYUI

with the checkout of github.com/hako-mikan/sd-webui-regional-prompter (be62345, AGPL-3.0) and a ComfyUI with its
environment. Weights, latents, texts and masks are made anew in the tests, so that the file holds outputs alone, and the
cells that the extension read off the ratios.

The extension hooks every module CrossAttention named attn2. It finds a region's text by its number of chunks of 77
tokens in one long text, the layer's size by the latent's, and the prompt, positive or negative, by a flag.
"""

import sys
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).parent
TEXT, CHUNK, SIGMA = 24, 77, 5.0
UNET = {  # arguments of ComfyUI's UNetModel: three levels with cross-attention
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [1, 1, 2],
    "transformer_depth_output": [1] * 6,
    "transformer_depth_middle": 1,
    "context_dim": TEXT,
    "num_heads": 2,
    "use_spatial_transformer": True,
    "legacy": False,
}


SCRIPT = {  # of the extension's state, what is the same in every call: it never takes a prompt for the other
    "calc": "Att",
    "condi": 0,
    "count": -(10**9),
    "cshape": 0,
    "ucshape": -1,
    "debug": False,
    "eq": False,
    "hr": False,
    "in_hr": False,
    "is_sdxl": False,
    "isvanilla": False,
    "layer_name": "",
    "optbreak": False,
    "pn": True,
    "step": 0,
    "xsize": 0,
}


class Side(NamedTuple):
    """A prompt.

    Attributes:
        chunks: Of 77 tokens in each text: the base's first, if there is one, then the regions'.
        base: The ratio of the base; None: there is none.
    """

    chunks: tuple[int, ...]
    base: float | None = None


class Case(NamedTuple):
    """A call of the denoiser.

    Attributes:
        size: (H, W) of the latent.
        ratios: Of the regions, as the extension reads them; "": masks.
        prompt: The positive prompt's keywords; "": masks.
        mode: "Horizontal", "Vertical" or "Mask".
    """

    name: str
    size: tuple[int, int]
    positive: Side
    negative: Side = Side((1,))
    ratios: str = ""
    prompt: str = ""
    mode: str = "Horizontal"
    batch: int = 1


TWO, THREE = "a ADDCOL b", "a ADDROW b ADDCOL c"
SIX = "a ADDCOL b ADDROW c ADDCOL d ADDCOL e ADDROW f"
CASES = (
    Case("two columns", (16, 24), Side((1, 1)), Side((1, 1)), "1,1", TWO, batch=2),
    Case("base", (16, 24), Side((1, 1, 1), 0.2), Side((1, 1, 1), 0.2), "1,2", TWO),
    Case("odd columns", (17, 23), Side((1, 1, 1), 0.35), Side((1, 1, 1), 0.35), "1,2", TWO, batch=2),
    Case("odd, without a base", (19, 13), Side((1, 1, 1)), Side((1, 1, 1)), "1,1.3,2", "a ADDCOL b ADDCOL c"),
    Case("rows and columns", (18, 23), Side((1,) * 7, 0.2), ratios="1,2,1;2,1,1,3;1,1", prompt=SIX),
    Case(
        "columns first",
        (21, 14),
        Side((1,) * 4, 0.5),
        ratios="1,1,2;2,1,1",
        prompt="a ADDROW b ADDCOL c",
        mode="Vertical",
    ),
    Case("thin cells", (17, 24), Side((1,) * 4), ratios="1,14,1,8", prompt="a ADDCOL b ADDCOL c ADDCOL d"),
    Case("texts of several lengths", (16, 23), Side((1, 3, 2), 0.2), Side((2,)), "2,1", TWO),
    Case("masks", (17, 22), Side((1, 1, 1), 0.3), Side((1, 1, 1), 0.3), mode="Mask", batch=2),
    Case("masks without a base", (18, 22), Side((1, 2)), Side((1, 2)), mode="Mask"),
)


def network() -> torch.nn.Module:
    """The thin UNet with random weights of a sane size, each from its name alone."""
    from comfy import ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**UNET, dtype=torch.float32, operations=ops.manual_cast).eval()
    shapes = {name: value.shape for name, value in unet.state_dict().items()}
    unet.load_state_dict({name: torch.from_numpy(_values(name, tuple(shape))) for name, shape in shapes.items()})
    return unet


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return noise / 4 + np.float32(name.endswith("weight"))
    scale = 3 if "attn2.to_out" in name else 2 if "to_q" in name else 1
    return noise * np.float32(scale / np.sqrt(np.prod(shape[1:])))


def _randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def latent(case: Case) -> torch.Tensor:
    return _randn(1, case.batch, 4, *case.size) * SIGMA


def texts(side: Side, seed: int) -> list[torch.Tensor]:
    """Of the base, if there is one, and of the regions: (1, tokens, TEXT) each."""
    return [_randn(seed + i, 1, CHUNK * chunks, TEXT) for i, chunks in enumerate(side.chunks)]


def sides(case: Case) -> dict[str, tuple[Side, list[torch.Tensor]]]:
    return {
        "positive": (case.positive, texts(case.positive, 10)),
        "negative": (case.negative, texts(case.negative, 50)),
    }


def masks(case: Case) -> list[torch.Tensor]:
    """Two masks at the picture's size, (8 H, 8 W), with slanted borders, which do not touch each other."""
    height, width = 8 * case.size[0], 8 * case.size[1]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    first = 3 * x + y < width + 11
    second = (x - 2 * y > 5 - height) & (x > width // 2) & ~first
    return [first.float(), second.float()]


# The extension


def _modules() -> dict[str, ModuleType]:
    """As much of A1111 as the extension asks for."""
    utils, scripts = ModuleType("launch_utils"), ModuleType("scripts")
    utils.git_tag, scripts.scripts_txt2img = lambda: "v1", SimpleNamespace(alwayson_scripts=[])
    modules = ModuleType("modules")
    modules.launch_utils, modules.scripts, modules.devices = utils, scripts, ModuleType("devices")
    names = {"modules": modules, "modules.launch_utils": utils, "modules.scripts": scripts}
    return names | {name: mock.MagicMock() for name in ("cv2", "gradio")}


def _script(case: Case, side: Side, regions: ModuleType) -> SimpleNamespace:
    """The state of the extension for one prompt."""
    ends = np.cumsum((0, *side.chunks)).tolist()
    tokens = list(zip(ends[:-1], ends[1:], strict=True))
    has_base = side.base is not None
    script = SimpleNamespace(**SCRIPT, mode=case.mode, usebase=has_base, pt=tokens, nt=tokens, batch_size=case.batch)
    (script.h, script.w), script.log, script.hr_returner = case.size, {}, lambda: False
    if case.mode == "Mask":
        script.regmasks = [mask[None] for mask in masks(case)]
        script.regbase = 1 - sum(script.regmasks)
        script.bratios = [[side.base] * 2]
    else:
        prompt = SimpleNamespace(prompt=case.prompt)
        regions.matrixdealer(script, prompt, case.ratios, str(side.base or 0), case.mode)
    return script


def _cells(script: SimpleNamespace) -> np.ndarray:
    """(top, bottom, left, right) of each region."""
    cells = []
    for row in script.aratios:
        for cell in row.cols:
            outer, inner = (row.st, row.ed), (cell.st, cell.ed)
            cells.append(outer + inner if script.mode == "Horizontal" else inner + outer)
    return np.array(cells, np.float64)


def main(checkout: str, comfyui: str) -> None:
    sys.path[:0] = [comfyui, f"{checkout}/scripts"]
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    import comfy.supported_models
    from comfy.model_base import BaseModel, ModelType

    with mock.patch.dict(sys.modules, _modules()):
        import attention
        import regions

        arrays = {}
        for case in CASES:
            model = BaseModel(comfy.supported_models.SD15({"disable_unet_model_creation": True}), ModelType.EPS)
            model.diffusion_model = network()
            for name, (side, every) in sides(case).items():
                context = torch.cat(every, 1).expand(case.batch, -1, -1)
                if len(side.chunks) > 1:
                    script = _script(case, side, regions)
                    attention.hook_forwards_x(script, model.diffusion_model)
                    if case.ratios:
                        arrays[f"{case.name}, cells"] = _cells(script)
                with torch.inference_mode():
                    sigma = torch.tensor([SIGMA]).expand(case.batch)
                    denoised = model.apply_model(latent(case), sigma, c_crossattn=context)
                arrays[f"{case.name}, {name}"] = denoised.numpy()
                if len(side.chunks) > 1:
                    attention.hook_forwards_x(script, model.diffusion_model, remove=True)
    np.savez_compressed(HERE / "attention_couple.npz", **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
