"""CD Tuner's sliders for the VAE."""

from comfy.sd import VAE
from comfy_api.latest import io

from ...model_patchers.colour import vae_saturation


def slider(name: str, tooltip: str) -> io.Float.Input:
    """A setting of CD Tuner, 0 by default."""
    return io.Float.Input(name, default=0.0, min=-20.0, max=20.0, step=0.1, tooltip=tooltip)


class VAESaturation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoVAESaturation",
            display_name="VAE Saturation",
            category="Pentimento/colour",
            description="CD Tuner's two sliders for the VAE: they scale a few convolutions of the decoder, which makes "
            "the colours of decoded pictures stronger or weaker.",
            search_aliases=["cd tuner", "saturation", "vibrance", "washed out", "desaturate", "vae"],
            inputs=[
                io.Vae.Input("vae", tooltip="A VAE built as Stable Diffusion's: of SD 1, 2, XL, 3 or Flux."),
                slider(
                    "saturation_1",
                    "CD Tuner's sat: multiplies two convolutions near the end of the decoder by 1 + 0.075 of it. Try "
                    "-5 to 5.",
                ),
                slider(
                    "saturation_2",
                    "CD Tuner's sat2: multiplies five other convolutions by 1 + 0.02 of it. Try -5 to 5.",
                ),
            ],
            outputs=[
                io.Vae.Output(
                    display_name="vae", tooltip="The changed VAE, for decoding. It encodes as the VAE that came in."
                )
            ],
        )

    @classmethod
    def execute(cls, vae: VAE, saturation_1: float, saturation_2: float) -> io.NodeOutput:
        return io.NodeOutput(vae_saturation.apply(vae, saturation_1, saturation_2))


NODES = [VAESaturation]
