"""Img2img with a strength of its own for every pixel."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.results import home
from ...model_patchers.edit import differential_img2img
from ...model_patchers.pixels import checks


class DifferentialImg2Img(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDifferentialImg2Img",
            display_name="Differential Img2Img",
            category="Pentimento/edit",
            description="Img2img with a strength of its own for every pixel (Differential Diffusion): white parts of "
            "the map change most, black parts stay, and no seams show between them. Works with any sampler.",
            search_aliases=["differential diffusion", "soft inpainting", "change map", "gradient mask", "inpaint"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, after its LoRAs and other patches."),
                io.Vae.Input("vae", tooltip="The VAE of the diffusion model."),
                io.Image.Input("image", tooltip="The pictures to change."),
                io.Mask.Input(
                    "change_map",
                    tooltip="How much each pixel changes: 1 (white) most, 0 (black) not at all. One map for all "
                    "pictures, or one for each. Change Map makes a map from a mask, a depth picture or a gradient.",
                ),
                io.Combo.Input(
                    "rule",
                    options=list(differential_img2img.RULES),
                    tooltip="When a pixel starts to change. paper: a pixel of 0.3 changes in about the last 30 % of "
                    "the steps, as in the authors' code. timestep: in the last 30 % of the timesteps, as in ComfyUI's "
                    "Differential Diffusion. The rules differ with schedulers such as karras.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The patched model, for the sampler of the latent."),
                io.Latent.Output(
                    display_name="latent", tooltip="The encoded pictures, with the change map as the noise mask."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, vae: VAE, image: Tensor, change_map: Tensor, rule: str) -> io.NodeOutput:
        latent = differential_img2img.encode(vae, checks.image(image, "image"), change_map)
        return io.NodeOutput(differential_img2img.patch(model, rule), {name: home(x) for name, x in latent.items()})


NODES = [DifferentialImg2Img]
