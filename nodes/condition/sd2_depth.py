"""Stable Diffusion 2 depth: pictures that keep the depth of another."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.condition.sd2_depth import condition


class DepthConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDepthConditioning",
            display_name="SD2 Depth Conditioning",
            category="Pentimento/condition",
            description="Gives Stable Diffusion 2's depth model the depth of a scene, which the new picture keeps.",
            search_aliases=["depth2img", "depth to image", "512-depth-ema", "sd2 depth", "midas"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, from SD2's text encoder."),
                io.Conditioning.Input("negative", tooltip="The negative prompt. It sees the same depth."),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent that goes on to the sampler, empty or of a picture; the depth is resampled to "
                    "its size.",
                ),
                io.Image.Input(
                    "depth",
                    tooltip="A depth map, near white and far black, of any size: one for all pictures or one for each. "
                    "Each is stretched to the full range.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    tooltip="Turn on where near is black, as in maps of distance.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="positive"), io.Conditioning.Output(display_name="negative")],
        )

    @classmethod
    def execute(cls, positive: list, negative: list, latent: dict, depth: Tensor, invert: bool) -> io.NodeOutput:
        return io.NodeOutput(*condition(positive, negative, latent["samples"], depth, invert))


NODES = [DepthConditioning]
