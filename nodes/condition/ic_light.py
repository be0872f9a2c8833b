"""IC-Light: relights a foreground after a prompt or to match a background."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.comfyui.folders import filenames, full_path
from ...model_patchers.condition.ic_light import CONDITIONING_NODE, FILES, MODEL_NODE, condition, patch

FOLDER = "diffusion_models"


class ICLight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoICLight",
            display_name=MODEL_NODE,
            category="Pentimento/condition",
            description="Turns a Stable Diffusion 1.5 model into one that relights a foreground. Reads the original "
            "files; the model itself is left as it is.",
            search_aliases=["relight", "lighting", "iclight", "ic-light", "light source", "harmonize"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Stable Diffusion 1.5 or a fine-tune of it. LoRAs go before or after IC-Light."
                ),
                io.Combo.Input(
                    "ic_light_name",
                    options=filenames(FOLDER),
                    tooltip=f"{FILES}, in models/diffusion_models. fc, fcon: a foreground alone; fbc: a foreground and "
                    "a background.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, ic_light_name: str) -> io.NodeOutput:
        return io.NodeOutput(patch(model, full_path(ic_light_name, FOLDER)))


class ICLightConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoICLightConditioning",
            display_name=CONDITIONING_NODE,
            category="Pentimento/condition",
            description="Gives an IC-Light model the foreground to relight and, for fbc, the background whose light it "
            "takes.",
            search_aliases=["relight", "lighting", "iclight", "ic-light", "foreground", "background"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt: the subject and the light that falls on it."),
                io.Conditioning.Input("negative", tooltip="The negative prompt. It sees the pictures too."),
                io.Vae.Input("vae", tooltip="Stable Diffusion 1.5's VAE."),
                io.Image.Input(
                    "foreground",
                    tooltip="The subject. Scaled and cropped to sides that are multiples of 64. Several are relit each "
                    "on its own.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="For fbc only: the picture whose light the subject takes, or a gradient. Scaled to cover "
                    "the foreground. One for all foregrounds or one for each.",
                ),
                io.Mask.Input(
                    "foreground_mask",
                    optional=True,
                    tooltip="White where the subject is; grey goes around it. Without a mask a transparent picture's "
                    "alpha is used, and of any other all is foreground.",
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
        cls,
        positive: Conditioning,
        negative: Conditioning,
        vae: VAE,
        foreground: Tensor,
        background: Tensor | None = None,
        foreground_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(*condition(positive, negative, vae, foreground, background, foreground_mask))


NODES = [ICLight, ICLightConditioning]
