"""Cleaning, growing and softening of masks."""

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.segment.tune_mask import tune


class TuneMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        area = {"default": 0, "min": 0, "max": 2**31 - 1}
        return io.Schema(
            node_id="PentimentoTuneMask",
            display_name="Tune Mask",
            category="Pentimento/segment",
            description="Fills holes, removes specks, grows or shrinks, feathers and inverts a mask, in this order.",
            search_aliases=["grow mask", "shrink mask", "expand mask", "blur mask", "feather mask", "clean mask"],
            inputs=[
                io.Mask.Input("mask", tooltip="The masks to work on; each of a batch on its own."),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-1024,
                    max=1024,
                    tooltip="Pixels to grow on all sides, in a circle; a negative number shrinks. "
                    "A mask that touches the picture's border goes on touching it.",
                ),
                io.Int.Input(
                    "fill_holes",
                    **area,
                    tooltip="Fill unselected gaps of up to this many pixels in area that the mask encloses. 0 = none.",
                ),
                io.Int.Input(
                    "remove_specks",
                    **area,
                    tooltip="Drop selected regions of up to this many pixels in area. 0 = none.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Soften the edge over this many pixels to either side.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Select what is not selected, after all the rest."),
            ],
            outputs=[io.Mask.Output(display_name="mask")],
        )

    @classmethod
    def execute(
        cls, mask: Tensor, grow: int, fill_holes: int, remove_specks: int, feather: int, invert: bool
    ) -> io.NodeOutput:
        progress = Progress(mask.shape[:-2].numel())
        tuned = tune(mask, grow, fill_holes, remove_specks, feather, invert, progress)
        return io.NodeOutput(tuned.to(model_management.intermediate_device()))


NODES = [TuneMask]
