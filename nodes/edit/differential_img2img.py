"""Img2img with a strength of its own for every pixel."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.edit.differential_img2img import RULES, encode, patch


class DifferentialImg2Img(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDifferentialImg2Img",
            display_name="Differential Img2Img",
            category="Pentimento/edit",
            description="Img2img with a strength of its own for every pixel (Differential Diffusion): white parts of "
            "the map change most, black ones not at all, and there are no seams between them. For any sampler.",
            search_aliases=["differential diffusion", "soft inpainting", "change map", "gradient mask", "inpaint"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, after its LoRAs and other patches."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="The pictures to change."),
                io.Mask.Input(
                    "change_map",
                    tooltip="How much each pixel changes: 1 (white) most, 0 (black) not at all. One for all pictures "
                    "or one for each. Change Map makes one from a mask, a depth picture or a gradient.",
                ),
                io.Combo.Input(
                    "rule",
                    options=list(RULES),
                    tooltip="paper: a pixel of 0.3 changes in the last 30 % of the steps, as in the authors' code. "
                    "timestep: in the last 30 % of the timesteps, as core's Differential Diffusion counts. They differ "
                    "with schedulers such as karras.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For the sampler that gets the latent."),
                io.Latent.Output(display_name="latent", tooltip="The pictures' latent, the map as its noise mask."),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, vae: VAE, image: Tensor, change_map: Tensor, rule: str) -> io.NodeOutput:
        return io.NodeOutput(patch(model, rule), encode(vae, image, change_map))


NODES = [DifferentialImg2Img]
