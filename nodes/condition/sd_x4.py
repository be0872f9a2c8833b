"""Stable Diffusion's x4 upscaler."""

from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.comfyui.results import home
from ...model_patchers.condition import sd_x4
from ...model_patchers.pixels import checks
from .. import inputs


class SDx4Conditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSDx4Conditioning",
            display_name=sd_x4.NODE,
            category="Pentimento/condition",
            description="Gives Stable Diffusion's x4 upscaler the small picture, with noise on it as in training.",
            search_aliases=["x4 upscaler", "sd upscale", "4x", "super resolution", "upscale diffusion"],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt: a description of the picture, encoded by SD2's text encoder. A few words are "
                    "enough.",
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt, which gets the same picture."),
                io.Image.Input(
                    "image",
                    tooltip="The small picture, of any size. The result is four times as wide and as high. One picture "
                    "or a batch; an alpha channel is ignored.",
                ),
                io.Int.Input(
                    "noise_level",
                    default=20,
                    min=0,
                    max=sd_x4.MAX_LEVEL,
                    tooltip="The level of the noise on the small picture; the model gets this level too. More noise "
                    "lets the model clean up and invent more, 0 stays closest to the picture. Stability's default is "
                    "20.",
                ),
                inputs.seed(
                    "noise_seed", "The seed of the noise on the small picture. The sampler has a seed of its own."
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The checkpoint's VAE. The node returns the same VAE with a better estimate of the memory "
                    "that decoding takes.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
                io.Vae.Output(display_name="vae"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        image: Tensor,
        noise_level: int,
        noise_seed: int,
        vae: VAE | None = None,
    ) -> io.NodeOutput:
        estimated = None if vae is None else sd_x4.with_decode_estimate(vae)
        image = home(checks.image(image, "image"))
        *prompts, samples = sd_x4.condition(positive, negative, image, noise_level=noise_level, noise_seed=noise_seed)
        return io.NodeOutput(*prompts, {"samples": samples}, estimated)


NODES = [SDx4Conditioning]
