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

ALIASES = ["ip2p", "instruct-pix2pix", "pix2pix", "edit by instruction", "CosXL edit", "image cfg"]
IMAGE_CFG = (
    "How closely to keep to the picture: 1 adds no guidance by it, 1.5 is the paper's value, 2 keeps more. Below 1 "
    "leaves more freedom."
)


class IP2PConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoIP2PConditioning",
            display_name=CONDITIONING,
            category="Pentimento/condition",
            description="Gives an InstructPix2Pix or CosXL Edit model the picture to edit. Follow with InstructPix2Pix "
            "Guider, or with InstructPix2Pix for Any Sampler.",
            search_aliases=ALIASES,
            inputs=[
                io.Conditioning.Input("positive", tooltip="The instruction, as text: 'make it snow'."),
                io.Conditioning.Input("negative", tooltip="What to avoid; an empty text as a rule."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="Pictures to edit. About 512 pixels a side for SD 1.5, 1024 for SDXL."),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="multiple of 64",
                    tooltip="The picture is resized, its sides to the nearest multiples of so many pixels. The "
                    "reference takes 64; with 8 the size stays nearer.",
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
        *prompts, samples = instruct_pix2pix.condition(positive, negative, vae, image, FITS[fit])
        return io.NodeOutput(*prompts, {"samples": home(samples)})


class IP2PGuiderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoIP2PGuider",
            display_name=GUIDER,
            category="Pentimento/condition",
            description="Guides an InstructPix2Pix model by the picture and by the instruction, as the paper does. For "
            "SamplerCustomAdvanced.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="InstructPix2Pix of SD 1.5 or SDXL, or CosXL Edit."),
                io.Conditioning.Input("positive", tooltip="The instruction, from InstructPix2Pix Conditioning."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The negative prompt, from InstructPix2Pix Conditioning. The prediction without the "
                    "picture is made from it.",
                ),
                io.Float.Input(
                    "text_cfg",
                    default=7.5,
                    min=0,
                    max=100,
                    step=0.1,
                    round=0.01,
                    tooltip="How strictly to follow the instruction. The paper's value is 7.5.",
                ),
                io.Float.Input("image_cfg", default=1.5, min=0, max=100, step=0.05, round=0.01, tooltip=IMAGE_CFG),
                io.Float.Input(
                    "rescale",
                    default=0,
                    min=0,
                    max=1,
                    step=0.01,
                    tooltip="Against too much contrast at high scales: 0 = off, 1 = the contrast without guidance.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0,
                    min=0,
                    max=1,
                    step=0.001,
                    tooltip="Where in the sampling guidance begins. Before it, the prompt's prediction alone is taken.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1,
                    min=0,
                    max=1,
                    step=0.001,
                    tooltip="Where in the sampling guidance ends. After it, the prompt's prediction alone is taken.",
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
            description="Lets KSampler and every other sampler guide an InstructPix2Pix model by the picture too. The "
            "sampler's own CFG is the text scale.",
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
