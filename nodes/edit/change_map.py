"""Maps of how much each pixel may change."""

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.edit.change_map import change_map, check_levels


class ChangeMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        level = {"min": 0.0, "max": 1.0, "step": 0.01}
        return io.Schema(
            node_id="PentimentoChangeMap",
            display_name="Change Map",
            category="Pentimento/edit",
            description="Makes a map for Differential Img2Img from a depth picture, a gradient or a mask: levels, "
            "gamma, blur and inversion, in this order. 1 = change most.",
            search_aliases=["depth to mask", "image to mask", "levels", "gamma", "soft mask", "differential diffusion"],
            inputs=[
                io.MultiType.Input(
                    "source",
                    [io.Image, io.Mask],
                    tooltip="Pictures, of which the brightness counts, or masks. White changes most.",
                ),
                io.Float.Input("black", default=0.0, **level, tooltip="This value and all below become 0: kept."),
                io.Float.Input(
                    "white", default=1.0, **level, tooltip="This value and all above become 1: change most."
                ),
                io.Float.Input(
                    "gamma",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.01,
                    tooltip="Above 1 lifts what lies between black and white, so that more changes; below 1 lowers it.",
                ),
                io.Int.Input(
                    "blur",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="How far each value spreads, in pixels: OpenCV's GaussianBlur with a kernel of twice this "
                    "and one.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Change what was to be kept, after all the rest."),
            ],
            outputs=[io.Mask.Output(display_name="change_map")],
        )

    @classmethod
    def validate_inputs(cls, black: float | None = None, white: float | None = None) -> bool | str:
        try:  # None: it comes over a link and is not known yet
            check_levels(0.0 if black is None else black, 1.0 if white is None else white)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, source: Tensor, black: float, white: float, gamma: float, blur: int, invert: bool
    ) -> io.NodeOutput:
        progress = Progress(1 if source.ndim == 2 else len(source))
        result = change_map(source, black, white, gamma, blur, invert, progress)
        return io.NodeOutput(result.to(model_management.intermediate_device()))


NODES = [ChangeMap]
