"""InstructPix2Pix: pictures edited by instruction."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.comfyui.results import home
from ...model_patchers.comfyui.schedule import Interval
from ...model_patchers.condition import instruct_pix2pix
from ...model_patchers.condition.instruct_pix2pix import CONDITIONING, FITS, GUIDER, PATCH
from ...model_patchers.pixels import checks
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
        image = checks.image(image, "image")
        *prompts, samples = instruct_pix2pix.condition(positive, negative, vae, image, FITS[fit])
        return io.NodeOutput(*prompts, {"samples": home(samples)})


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
        interval = Interval(start_percent, end_percent)
        return io.NodeOutput(instruct_pix2pix.guider(model, positive, negative, text_cfg, image_cfg, rescale, interval))


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
        return io.NodeOutput(instruct_pix2pix.patch(model, image_cfg))


NODES = [IP2PConditioning, IP2PGuiderNode, IP2PPatch]
