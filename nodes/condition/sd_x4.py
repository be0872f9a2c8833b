"""Stable Diffusion's x4 upscaler."""

from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.condition.sd_x4 import MAX_LEVEL, condition, with_decode_estimate


class SDx4Conditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSDx4Conditioning",
            display_name="SD x4 Conditioning",
            category="Pentimento/condition",
            description="Gives Stable Diffusion's x4 upscaler the small picture, with noise as in training.",
            search_aliases=["x4 upscaler", "sd upscale", "4x", "super resolution", "upscale diffusion"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="What the picture shows, from SD2's text encoder. A few words do."
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt. It sees the same picture."),
                io.Image.Input(
                    "image",
                    tooltip="The small picture, of any size. The result is four times as wide and as high. One or a "
                    "batch; grey and transparent ones too.",
                ),
                io.Int.Input(
                    "noise_level",
                    default=20,
                    min=0,
                    max=MAX_LEVEL,
                    tooltip="How much noise is put on the picture, which the model is told: more lets it invent more "
                    "and clean more. 20 is Stability's; 0 keeps closest.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise on the picture. The sampler has its own seed.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The checkpoint's VAE. It comes out with a true estimate of the memory it takes to decode.",
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
        cls, positive: list, negative: list, image: Tensor, noise_level: int, noise_seed: int, vae: VAE | None = None
    ) -> io.NodeOutput:
        told = None if vae is None else with_decode_estimate(vae)
        *prompts, samples = condition(positive, negative, image, noise_level, noise_seed)
        return io.NodeOutput(*prompts, {"samples": samples}, told)


NODES = [SDx4Conditioning]
