"""Load Diffusers UNet: models that the host's own loader rejects."""

from comfy_api.latest import io

from ...model_patchers.comfyui.folders import filenames, full_path
from ...model_patchers.condition.diffusers_unet import NODE, load

FOLDER = "diffusion_models"


class LoadConcatUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadConcatUNet",
            display_name=NODE,
            category="Pentimento/condition",
            description="Loads a UNet in diffusers' format, also those with 5, 7, 8, 9 or 12 channels in that Load "
            "Diffusion Model rejects: InstructPix2Pix, IC-Light merged with SD 1.5, SD 2 depth and inpainting, SD x4.",
            search_aliases=["unet loader", "diffusers", "load diffusion model", "diffusion_pytorch_model", "unet"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=filenames(FOLDER),
                    tooltip="A file in models/diffusion_models, such as diffusion_pytorch_model.safetensors or .bin "
                    "from the folder 'unet' of a model. What it is, is told from its contents.",
                )
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, unet_name: str) -> io.NodeOutput:
        return io.NodeOutput(load(full_path(unet_name, FOLDER)))


NODES = [LoadConcatUNet]
