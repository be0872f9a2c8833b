"""Boxes made into masks, and masks made into boxes."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.boxes import boxes_per_picture
from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.segment import mask_boxes
from .. import inputs

ONE, EACH = "one mask", "one per box"


class BoxesToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoBoxesToMask",
            display_name="Boxes to Mask",
            category="Pentimento/segment",
            description="Makes masks of boxes: white inside the boxes, black elsewhere.",
            search_aliases=["bbox to mask", "bounding box", "rectangle mask", "detector", "segs"],
            inputs=[
                inputs.boxes(
                    "bboxes",
                    "The boxes to fill, from a detector, from Pick Points or from Mask to Boxes: one box, a list for "
                    "all pictures, or a list for each picture. Labels and scores are ignored.",
                    optional=False,
                ),
                io.Image.Input(
                    "image",
                    tooltip="The pictures that the boxes lie on. The masks have their size, and as many as there are "
                    "pictures.",
                ),
                io.Combo.Input(
                    "each",
                    options=[ONE, EACH],
                    default=ONE,
                    tooltip="one mask: all boxes of a picture in one mask. one per box: a mask for every box, picture "
                    "by picture, in the order of the boxes.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask")],
        )

    @classmethod
    def execute(cls, bboxes: Any, image: Tensor, each: str) -> io.NodeOutput:
        pictures, height, width = checks.image(image, "image", whole=False).shape[:3]
        boxes = boxes_per_picture(bboxes, "bboxes", pictures, width, height)
        return io.NodeOutput(home(mask_boxes.masks_of(boxes, height, width, each == EACH)))


class MaskToBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoMaskToBoxes",
            display_name="Mask to Boxes",
            category="Pentimento/segment",
            description="Gives the box around each connected region of a mask, for every node that takes bounding "
            "boxes.",
            search_aliases=["mask to bbox", "bounding box", "mask to region", "connected components", "segs"],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="The masks to draw boxes around. Each mask of a batch has its own list of boxes.",
                ),
                io.Int.Input(
                    "min_area",
                    default=0,
                    min=0,
                    max=100_000_000,
                    tooltip="Regions with fewer pixels than this have no box. 0 keeps all regions.",
                ),
                io.Int.Input(
                    "padding",
                    default=0,
                    min=0,
                    max=16_384,
                    tooltip="Pixels that each box grows on every side. At the border of the picture the box ends.",
                ),
            ],
            outputs=[io.BoundingBox.Output(display_name="bboxes")],
        )

    @classmethod
    def execute(cls, mask: Tensor, min_area: int, padding: int) -> io.NodeOutput:
        mask = checks.mask(mask, "mask")
        boxes = mask_boxes.boxes_of(mask, min_area, padding, Progress(len(mask)))
        return io.NodeOutput([[box._asdict() for box in entries] for entries in boxes])


NODES = [BoxesToMask, MaskToBoxes]
