"""InstructPix2Pix: pictures edited by instruction."""

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io
from node_helpers import conditioning_set_values
from torch import Tensor

from ...model_patchers.comfyui.kinds import Conditioning, expecting, require
from ...model_patchers.condition.instruct_pix2pix import (
    CONDITIONING,
    FITS,
    GUIDER,
    KINDS,
    PATCH,
    IP2PGuider,
    encode,
    patch,
    unpatched,
)
from .. import inputs

ALIASES = ["ip2p", "instruct-pix2pix", "pix2pix", "edit by instruction", "CosXL edit", "image cfg"]
IMAGE_CFG = (
    "How closely the result keeps to the picture: 1 = no extra pull towards the picture, 1.5 = the paper's value. "
    "Higher values keep more of the picture, values below 1 less."
)


class IP2PConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoIP2PConditioning",
            display_name=CONDITIONING,
            category="Pentimento/condition",
            description="Gives an InstructPix2Pix or CosXL Edit model the picture to edit. Sample with InstructPix2Pix "
            "Guider or InstructPix2Pix for Any Sampler.",
            search_aliases=ALIASES,
            inputs=[
                io.Conditioning.Input("positive", tooltip="The instruction, such as 'make it snow'."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, usually an empty text."),
                io.Vae.Input("vae", tooltip="The VAE of the InstructPix2Pix or CosXL Edit model."),
                io.Image.Input(
                    "image",
                    tooltip="The picture to edit, or a batch. Good sizes are about 512 pixels a side for SD 1.5 and "
                    "1024 for SDXL and CosXL.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="multiple of 64",
                    tooltip="Rounds each side of the picture to a multiple of this many pixels. 64 matches the "
                    "reference; 8 changes the size less.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, vae: VAE, image: Tensor, fit: str
    ) -> io.NodeOutput:
        latent = encode(vae, image, FITS[fit])
        prompts = (
            conditioning_set_values(
                expecting(prompt, KINDS, CONDITIONING, tuple(latent.shape[-2:]), pictures=len(latent)),
                {"concat_latent_image": latent},
            )
            for prompt in (positive, negative)
        )
        return io.NodeOutput(*prompts, {"samples": torch.zeros_like(latent)})


class IP2PGuiderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoIP2PGuider",
            display_name=GUIDER,
            category="Pentimento/condition",
            description="Guides an InstructPix2Pix model by the picture and by the instruction, as the paper does. "
            "Connect the guider to SamplerCustomAdvanced.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="InstructPix2Pix of SD 1.5 or SDXL, or CosXL Edit."),
                io.Conditioning.Input("positive", tooltip="The instruction, from InstructPix2Pix Conditioning."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The negative prompt, from InstructPix2Pix Conditioning. The prediction without the "
                    "picture uses the negative prompt too.",
                ),
                io.Float.Input(
                    "text_cfg",
                    default=7.5,
                    min=0,
                    max=100,
                    step=0.1,
                    round=0.01,
                    tooltip="How strictly the result follows the instruction. The paper's value is 7.5.",
                ),
                io.Float.Input("image_cfg", default=1.5, min=0, max=100, step=0.05, round=0.01, tooltip=IMAGE_CFG),
                io.Float.Input(
                    "rescale",
                    default=0,
                    min=0,
                    max=1,
                    step=0.01,
                    tooltip="Lowers the excess contrast of high scales: 0 = off, 1 = the contrast without guidance.",
                ),
                inputs.percent(
                    "start_percent",
                    0.0,
                    "Where in the sampling the guidance begins: 0 = at the start, 1 = at the end. Earlier steps use "
                    "the positive prompt's prediction alone.",
                ),
                inputs.percent(
                    "end_percent",
                    1.0,
                    "Where in the sampling the guidance ends: 0 = at the start, 1 = at the end. Later steps use "
                    "the positive prompt's prediction alone.",
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        text_cfg: float,
        image_cfg: float,
        rescale: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        require(model, KINDS, GUIDER)
        guider = IP2PGuider(unpatched(model))
        guider.set_conds(positive, negative)
        guider.set_guidance(text_cfg, image_cfg, rescale, start_percent, end_percent)
        return io.NodeOutput(guider)


class IP2PPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoIP2PPatch",
            display_name=PATCH,
            category="Pentimento/condition",
            description="Lets KSampler and every other sampler with one CFG scale guide an InstructPix2Pix model by "
            "the picture too. The sampler's own CFG is the text scale.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="InstructPix2Pix of SD 1.5 or SDXL, or CosXL Edit."),
                io.Float.Input("image_cfg", default=1.5, min=0, max=100, step=0.05, round=0.01, tooltip=IMAGE_CFG),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, image_cfg: float) -> io.NodeOutput:
        require(model, KINDS, PATCH)
        return io.NodeOutput(patch(model, image_cfg))


NODES = [IP2PConditioning, IP2PGuiderNode, IP2PPatch]
