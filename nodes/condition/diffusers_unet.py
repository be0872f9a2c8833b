"""Load Diffusers UNet: models that ComfyUI's own loader rejects."""

from comfy_api.latest import io

from ...model_patchers.comfyui import folders
from ...model_patchers.condition import diffusers_unet

FOLDER = "diffusion_models"


class LoadConcatUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadConcatUNet",
            display_name=diffusers_unet.NODE,
            category="Pentimento/condition",
            description="Loads a UNet in diffusers' format, including UNets with 5, 7, 8, 9 or 12 input channels that "
            "Load Diffusion Model rejects: InstructPix2Pix, IC-Light merged with SD 1.5, SD 2 depth and inpainting, "
            "SD x4.",
            search_aliases=["unet loader", "diffusers", "load diffusion model", "diffusion_pytorch_model", "unet"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=folders.filenames(FOLDER),
                    tooltip="A file in models/diffusion_models, such as diffusion_pytorch_model.safetensors or .bin "
                    "from a model's folder 'unet'. The kind of model is detected from the weights.",
                )
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, unet_name: str | None) -> str:
        return folders.fingerprint(unet_name, FOLDER)

    @classmethod
    def execute(cls, unet_name: str) -> io.NodeOutput:
        return io.NodeOutput(diffusers_unet.load(folders.full_path(unet_name, FOLDER)))


NODES = [LoadConcatUNet]
