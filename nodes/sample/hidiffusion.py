"""Pictures larger than a model was trained for, in one pass: HiDiffusion."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.sample import hidiffusion
from .. import inputs


class HiDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoHiDiffusion",
            display_name="HiDiffusion",
            category="Pentimento/sample",
            description="Lets SD 1.x, SD 2.x and SDXL draw pictures of two to four times their trained side in one "
            "pass, with fewer doubled subjects and in less time.",
            search_aliases=[
                "hidiffusion",
                "raunet",
                "rau-net",
                "msw-msa",
                "high resolution",
                "large picture",
                "deep shrink",
                "kohya hires fix",
                "scalecrafter",
                "duplicate subjects",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The diffusion model, after its LoRAs: Stable Diffusion 1.x or 2.x, SDXL, or a finetune.",
                ),
                io.Boolean.Input(
                    "raunet",
                    default=True,
                    tooltip="Computes the deep layers at half the size in the first steps (RAU-Net), so that the "
                    "picture has one composition instead of repeated subjects.",
                ),
                io.Boolean.Input(
                    "windows",
                    default=True,
                    tooltip="Computes the outermost self-attention in four windows that move at each step (MSW-MSA). "
                    "It saves time, most of it with SD 1.x and 2.x.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[hidiffusion.AUTO, *hidiffusion.PRESETS],
                    default=hidiffusion.AUTO,
                    tooltip="For how long the deep layers are smaller, by model and side of the picture. auto chooses "
                    "by the latent's size, and does nothing below twice the trained area. turbo 1024: SDXL Turbo, "
                    "which auto takes for SDXL.",
                ),
                inputs.seed(
                    "seed",
                    "The seed of the windows' random moves. The sampler has a seed of its own.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model for large pictures, for any sampler.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, raunet: bool, windows: bool, preset: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(hidiffusion.apply(model, raunet, windows, preset, seed))


NODES = [HiDiffusion]
