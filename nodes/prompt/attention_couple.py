"""Regions of a picture with prompts of their own, in cross-attention."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.prompt import attention_couple


class AttentionCouple(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoAttentionCouple",
            display_name="Attention Couple",
            category="Pentimento/prompt",
            description="Computes the prompts of all regions in one pass of SD 1.x, SD 2.x or SDXL: each text attends "
            "in its own region, as in Regional Prompter's attention mode. The picture stays one piece and a step takes "
            "less time than with one pass for each region.",
            search_aliases=[
                "attention couple",
                "regional prompter",
                "regional prompt",
                "latent couple",
                "two characters",
                "area composition",
                "mask prompt",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The diffusion model: Stable Diffusion 1.x or 2.x, SDXL, or a finetune, before or "
                    "after its LoRAs.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The positive prompt with its regions: from Regional Prompt, or from Conditioning (Set "
                    "Mask) for each region and Conditioning (Combine). A part without a mask is the base, which counts "
                    "everywhere.",
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The negative prompt, with regions of its own or without.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model for these prompts, for any sampler."),
                io.Conditioning.Output(display_name="positive", tooltip="The positive prompt, for this model alone."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt, for this model alone."),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, positive: Conditioning, negative: Conditioning) -> io.NodeOutput:
        return io.NodeOutput(*attention_couple.apply(model, positive, negative))


NODES = [AttentionCouple]
