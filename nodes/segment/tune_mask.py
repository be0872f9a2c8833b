"""Cleaning, growing and softening of masks."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.segment import tune_mask


class TuneMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        area = {"default": 0, "min": 0, "max": 2**31 - 1}
        return io.Schema(
            node_id="PentimentoTuneMask",
            display_name="Tune Mask",
            category="Pentimento/segment",
            description="Makes a mask hard, fills its holes, removes specks, grows or shrinks, feathers and inverts "
            "it, in this order.",
            search_aliases=[
                "grow mask",
                "shrink mask",
                "expand mask",
                "blur mask",
                "feather mask",
                "clean mask",
                "threshold",
                "mask",
            ],
            inputs=[
                io.Mask.Input("mask", tooltip="The masks to change, each mask of a batch by itself."),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-1024,
                    max=1024,
                    tooltip="Grows the mask by this many pixels on all sides, in a circle; a negative number shrinks "
                    "it. A mask that touches the picture's border still touches the border after shrinking.",
                ),
                io.Int.Input(
                    "fill_holes",
                    **area,
                    tooltip="Fills gaps that the mask encloses, of up to this many pixels in area. 0 fills none.",
                ),
                io.Int.Input(
                    "remove_specks",
                    **area,
                    tooltip="Drops connected regions of the mask of up to this many pixels in area. 0 drops none.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Softens the mask's edge over this many pixels to either side.",
                ),
                io.Boolean.Input(
                    "invert", default=False, tooltip="Swaps selected and unselected pixels, after all other changes."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Makes the mask hard before all other changes: values from this number on become 1 "
                    "(white), lower values become 0 (black). 0 keeps soft values.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask")],
        )

    @classmethod
    def execute(
        cls,
        mask: Tensor,
        grow: int,
        fill_holes: int,
        remove_specks: int,
        feather: int,
        invert: bool,
        threshold: float = 0.0,
    ) -> io.NodeOutput:
        mask = checks.mask(mask, "mask")
        progress = Progress(len(mask))
        tuned = tune_mask.tune(mask, grow, fill_holes, remove_specks, feather, invert, threshold, progress)
        return io.NodeOutput(home(tuned))


NODES = [TuneMask]
