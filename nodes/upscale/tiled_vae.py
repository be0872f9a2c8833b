"""A VAE on pictures of any size."""

from comfy.sd import VAE
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.upscale import tiled_vae


def tile_input() -> io.Int.Input:
    return io.Int.Input(
        "tile",
        default=512,
        min=128,
        max=4096,
        step=64,
        tooltip="The longest side, in pixels, of the part of a picture that the VAE computes at a time. It changes "
        "memory use and time, never the result.",
    )


class TiledVAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoTiledVAEDecode",
            display_name="Tiled VAE Decode, Seamless",
            category="Pentimento/upscale",
            description="Decodes pictures of any size in little video memory. The result is that of VAE Decode, "
            "without seams or shifts of colour and contrast.",
            search_aliases=["vae decode tiled", "big picture", "out of memory", "seams", "colour shift", "group norm"],
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="The latent to decode, of any size. A batch is decoded picture by picture."
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="The VAE of the model that made the latent: of Stable Diffusion 1, 2, XL, 3, x4, Flux or "
                    "their relatives, or TAESD.",
                ),
                tile_input(),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, latent: dict, vae: VAE, tile: int) -> io.NodeOutput:
        return io.NodeOutput(home(tiled_vae.decode(checks.latent(latent["samples"], "latent"), vae, tile)))


class TiledVAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoTiledVAEEncode",
            display_name="Tiled VAE Encode, Seamless",
            category="Pentimento/upscale",
            description="Encodes pictures of any size in little video memory. The result is that of VAE Encode, "
            "without seams or shifts of colour and contrast.",
            search_aliases=["vae encode tiled", "big picture", "out of memory", "seams", "colour shift", "group norm"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture to encode, of any size; grey and transparent pictures work too. A batch is "
                    "encoded picture by picture.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="The VAE of the model that will use the latent: of Stable Diffusion 1, 2, XL, 3, x4, Flux "
                    "or their relatives, or TAESD.",
                ),
                tile_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(cls, image: Tensor, vae: VAE, tile: int) -> io.NodeOutput:
        return io.NodeOutput({"samples": home(tiled_vae.encode(checks.image(image, "image"), vae, tile))})


NODES = [TiledVAEDecode, TiledVAEEncode]
