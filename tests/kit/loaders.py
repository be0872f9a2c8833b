"""The loaders of model files in short: thin weights, and what the pack makes of weights that are a file's."""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from comfy.utils import unet_to_diffusers
from torch import Tensor

from pentimento.model_patchers.comfyui.model_files import read_model
from pentimento.model_patchers.condition import diffusers_unet, ic_light
from pentimento.model_patchers.fill import lama
from pentimento.model_patchers.prompt import ella, ella_t5
from pentimento.model_patchers.score import lpips
from pentimento.model_patchers.segment import sam
from pentimento.model_patchers.video import ostrack, sam2, sttn
from pentimento_host import standins

from . import lpips as lpipses
from . import ostrack as ostracks
from . import sam2 as sam2s
from . import sttn as sttns
from . import thin
from .golden import GOLDEN
from .sam import make_sam, network

FILE = "model.safetensors"


def load_lama(weights):
    return lama.LaMa(lama.generator_weights(weights, FILE), FILE)


def load_sam(weights):
    return sam.SAM(sam.sam_weights(weights, FILE), FILE, "fp32")


def load_sam2(weights):
    return sam2.SAM2(sam2.sam2_weights(weights, FILE), FILE, "fp32", sam2s.CONFIG, sam2s.FRAME)


def load_sttn(weights):
    return sttn.STTN(sttn.sttn_weights(weights, FILE), FILE)


def load_ostrack(weights):
    return ostrack.OSTrack(ostrack.ostrack_weights(weights, FILE), FILE)


def load_lpips(weights):
    return lpips.LPIPS(lpips.lpips_weights(weights, FILE), FILE)


def load_ella(weights):
    return ella.ELLA(ella.ella_weights(weights, FILE), FILE)


def load_t5(weights):
    return ella_t5.build(ella_t5.encoder_weights(weights, FILE), torch.float32, FILE)


def check_unet(weights):
    """All that Load Diffusers UNet does before ComfyUI loads the weights."""
    diffusers_unet.check_unet(diffusers_unet.unet_weights(weights, FILE), FILE)


def check_ic_light(weights):
    """All that the node IC-Light does before the model is patched."""
    unet = _sd15().model
    names = unet_to_diffusers(unet.model_config.unet_config)
    ic_light.offsets(weights, unet.diffusion_model.state_dict(), names, FILE)


LOADERS = {
    "lama": load_lama,
    "sam": load_sam,
    "mobile sam": load_sam,
    "sam-hq": load_sam,
    "sam 2": load_sam2,
    "sttn": load_sttn,
    "ostrack": load_ostrack,
    "lpips": load_lpips,
    "ella": load_ella,
    "t5": load_t5,
    "unet": check_unet,
    "ic-light": check_ic_light,
}


@cache
def _sd15():
    return thin.host_model("sd15")


@cache
def weights(kind: str) -> dict[str, Tensor]:
    """Thin weights under the names of the published file; not to be written to."""
    if kind == "lama":
        from spandrel.architectures.LaMa.__arch.LaMa import FFCResNetGenerator

        return dict(FFCResNetGenerator(4, 3, ngf=4, n_downsampling=2, n_blocks=1).model.state_dict())
    if kind in ("ella", "t5"):
        make = {"ella": standins.ella, "t5": standins.flan_t5}[kind]
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / FILE)
            return {key: value.clone() for key, value in read_model(Path(folder) / FILE).items()}
    if kind == "sam":
        return dict(network(size=64, depth=2, window=3).state_dict())
    if kind in ("mobile sam", "sam-hq"):
        with np.load(GOLDEN / f"sam_{'hq' if kind == 'sam-hq' else 'mobile'}.npz") as file:
            return make_sam.weights(json.loads(str(file["shapes"])))
    if kind == "sam 2":
        return sam2s.authors(sam2s.reference())
    if kind == "lpips":
        return lpipses.tensors("whole", "alex")
    if kind == "sttn":
        return sttns.weights()
    if kind == "ostrack":
        unread = "net.backbone.pos_embed", "net.backbone.cls_token"
        return {key: value for key, value in ostracks.weights().items() if key not in unread}
    unet = {key: value.half() for key, value in thin.diffusers_unet("sd15").state_dict().items()}
    if kind == "ic-light":
        unet = {key: 0.01 * value for key, value in unet.items()}
        unet["conv_in.weight"] = torch.zeros(320, 8, 3, 3, dtype=torch.float16)
    return unet
