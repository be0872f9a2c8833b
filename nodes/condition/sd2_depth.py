"""Stable Diffusion 2 depth: pictures that keep the depth of another."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.comfyui.results import home
from ...model_patchers.condition import sd2_depth
from ...model_patchers.pixels import checks


class DepthConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDepthConditioning",
            display_name=sd2_depth.NODE,
            category="Pentimento/condition",
            description="Gives Stable Diffusion 2's depth model the depth of a scene, which the new picture keeps.",
            search_aliases=["depth2img", "depth to image", "512-depth-ema", "sd2 depth", "midas"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, encoded by SD2's text encoder."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, which gets the same depth."),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent that goes on to the sampler, empty or of a picture. The depth map is resized "
                    "to the latent's size.",
                ),
                io.Image.Input(
                    "depth",
                    tooltip="A depth map, near white and far black, of any size. One map for all pictures, or one for "
                    "each. Each map is stretched to the full range.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    tooltip="Inverts the depth map: for maps where near is black, such as distance maps.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="positive"), io.Conditioning.Output(display_name="negative")],
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, latent: dict, depth: Tensor, invert: bool
    ) -> io.NodeOutput:
        depth = home(checks.image(depth, "depth", whole=False))
        return io.NodeOutput(*sd2_depth.condition(positive, negative, latent["samples"], depth, invert=invert))


NODES = [DepthConditioning]
