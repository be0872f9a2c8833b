"""IC-Light: relights a foreground after a prompt or to match a background."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui import folders
from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.comfyui.results import home
from ...model_patchers.condition import ic_light
from ...model_patchers.pixels import checks

FOLDER = "diffusion_models"


class ICLight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoICLight",
            display_name=ic_light.MODEL_NODE,
            category="Pentimento/condition",
            description="Turns a Stable Diffusion 1.5 model into one that relights a foreground. The node reads the "
            "original IC-Light files and does not change the connected model.",
            search_aliases=["relight", "lighting", "iclight", "ic-light", "light source", "harmonize"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Stable Diffusion 1.5 or a fine-tune of it. LoRAs go before or after IC-Light."
                ),
                io.Combo.Input(
                    "ic_light_name",
                    options=folders.filenames(FOLDER),
                    tooltip=f"An IC-Light file in models/diffusion_models: {ic_light.FILES}. fc and fcon take a "
                    "foreground alone; fbc takes a foreground and a background.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: None, ic_light_name: str | None) -> str:
        return folders.fingerprint(ic_light_name, FOLDER)

    @classmethod
    def execute(cls, model: ModelPatcher, ic_light_name: str) -> io.NodeOutput:
        return io.NodeOutput(ic_light.patch(model, folders.full_path(ic_light_name, FOLDER)))


class ICLightConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoICLightConditioning",
            display_name=ic_light.CONDITIONING_NODE,
            category="Pentimento/condition",
            description="Gives an IC-Light model the foreground to relight and, for fbc, the background whose light "
            "the foreground takes.",
            search_aliases=["relight", "lighting", "iclight", "ic-light", "foreground", "background"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt: the subject and the light that falls on it."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, which gets the same pictures."),
                io.Vae.Input("vae", tooltip="Stable Diffusion 1.5's VAE."),
                io.Image.Input(
                    "foreground",
                    tooltip="The subject to relight. The picture is scaled and cropped to sides that are multiples of "
                    "64. Each picture of a batch is relit on its own.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="For fbc only: the picture whose light the subject takes, or a gradient. The background is "
                    "scaled and cropped to the foreground's size. One background for all foregrounds, one for each, or "
                    "several for one foreground.",
                ),
                io.Mask.Input(
                    "foreground_mask",
                    optional=True,
                    tooltip="A mask that is white where the subject is. The rest of the picture becomes grey. Without "
                    "a mask the foreground's alpha channel is used; without either, the whole picture is foreground.",
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
        foreground = checks.image(foreground, "foreground", whole=False)
        background = None if background is None else checks.image(background, "background")
        *prompts, latent = ic_light.condition(
            positive, negative, vae, foreground=foreground, background=background, foreground_mask=foreground_mask
        )
        return io.NodeOutput(*prompts, {**latent, "samples": home(latent["samples"])})


NODES = [ICLight, ICLightConditioning]
