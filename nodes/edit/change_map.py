"""Maps of how much each pixel may change."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.results import home
from ...model_patchers.edit import change_map
from ...model_patchers.pixels import checks
from .. import inputs


class ChangeMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        level = {"min": 0.0, "max": 1.0, "step": 0.01}
        return io.Schema(
            node_id="PentimentoChangeMap",
            display_name="Change Map",
            category="Pentimento/edit",
            description="Makes a map for Differential Img2Img from a depth picture, a gradient or a mask, by levels, "
            "gamma, blur and inversion, in this order. In the map 1 = change most.",
            search_aliases=["depth to mask", "image to mask", "levels", "gamma", "soft mask", "differential diffusion"],
            inputs=[
                io.MultiType.Input(
                    "source",
                    [io.Image, io.Mask],
                    tooltip="The pictures or masks to make the map from. White changes most. Pictures are read by "
                    "their brightness.",
                ),
                io.Float.Input(
                    "black", default=0.0, **level, tooltip="Source values at or below this level become 0 (keep)."
                ),
                io.Float.Input(
                    "white",
                    default=1.0,
                    **level,
                    tooltip="Source values at or above this level become 1 (change most).",
                ),
                io.Float.Input(
                    "gamma",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.01,
                    tooltip="A gamma above 1 raises the values between black and white, so that more changes; a gamma "
                    "below 1 lowers these values.",
                ),
                io.Int.Input(
                    "blur",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="How far each value spreads, in pixels. The blur is OpenCV's GaussianBlur with a kernel of "
                    "2 x blur + 1. 0 = no blur.",
                ),
                io.Boolean.Input(
                    "invert", default=False, tooltip="Swaps 0 (keep) and 1 (change most), after all other steps."
                ),
            ],
            outputs=[io.Mask.Output(display_name="change_map")],
        )

    @classmethod
    def validate_inputs(cls, black: float | None = None, white: float | None = None) -> bool | str:
        black, white = 0.0 if black is None else black, 1.0 if white is None else white  # None: a link, any level
        return inputs.valid(change_map.check_levels, black, white)

    @classmethod
    def execute(
        cls, source: Tensor, black: float, white: float, gamma: float, blur: int, invert: bool
    ) -> io.NodeOutput:
        source = checks.image_or_mask(source, "source")
        progress = Progress(len(source))
        return io.NodeOutput(home(change_map.change_map(source, black, white, gamma, blur, invert, progress)))


NODES = [ChangeMap]
