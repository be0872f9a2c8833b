"""Segment Anything: what is under the points, in the boxes, or like the mask."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.boxes import boxes_per_picture
from ...model_patchers.comfyui.folders import filenames, full_path
from ...model_patchers.comfyui.points import parse_points, read_points
from ...model_patchers.segment.sam import PRECISIONS, SAM, load
from ...model_patchers.segment.sam_prompts import CHOICES

FOLDER = "sams"
SAMSocket = io.Custom("PENTIMENTO_SAM")


def boxes_input(tooltip: str) -> io.BoundingBox.Input:
    """An optional socket for boxes. Core's class gives it a default box, which would count as one that was drawn."""
    boxes = io.BoundingBox.Input("bboxes", optional=True, tooltip=tooltip, force_input=True)
    boxes.default = None
    return boxes


class LoadSAM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadSAM",
            display_name="Load SAM",
            category="Pentimento/segment",
            description="Loads Segment Anything (ViT-B, L or H), MobileSAM or SAM-HQ.",
            search_aliases=["sam", "segment anything", "mobile sam", "sam hq", "SAMLoader"],
            inputs=[
                io.Combo.Input(
                    "sam_name",
                    options=filenames(FOLDER),
                    tooltip="A file in models/sams, such as sam_vit_b_01ec64.pth, mobile_sam.pt or sam_hq_vit_l.pth. "
                    "What it is, is told from its contents.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="Of the image encoder. auto: bf16 where the GPU has it, else fp32. fp16 ruins ViT-H.",
                ),
            ],
            outputs=[SAMSocket.Output(display_name="sam")],
        )

    @classmethod
    def execute(cls, sam_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(load(full_path(sam_name, FOLDER), precision))


class SAMSegment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSAMSegment",
            display_name="SAM Segment",
            category="Pentimento/segment",
            description="Selects the object under the points, in the boxes, or roughly in the mask. The picture is "
            "looked at once; another click takes a moment.",
            search_aliases=["sam", "segment anything", "point to mask", "box to mask", "click to mask", "SAM detector"],
            inputs=[
                SAMSocket.Input("sam", tooltip="The network, from Load SAM."),
                io.Image.Input("image", tooltip="The pictures to segment, of any size. Points are used on each."),
                io.Combo.Input(
                    "choice",
                    options=CHOICES,
                    default="auto",
                    tooltip="SAM gives one answer to a clear prompt and three to an unclear one (a button, a coat, a "
                    "person). auto: SAM's own rule, the best of the three for a click, the one for more points. "
                    "best: the best of the three. 1, 2, 3: that one of the three. all: all three as a batch.",
                ),
                io.Int.Input(
                    "refine_iterations",
                    default=0,
                    min=0,
                    max=20,
                    tooltip="How often the mask is fed back to be improved with the same points and boxes. 1 to 3 "
                    "often gives cleaner edges.",
                ),
                io.String.Input(
                    "positive_coords",
                    default="",
                    optional=True,
                    placeholder='[{"x": 120, "y": 80}]',
                    tooltip='Points on the object: a JSON list in pixels such as [{"x": 120, "y": 80}], written here '
                    "or linked from Pick Points.",
                ),
                io.String.Input(
                    "negative_coords",
                    default="",
                    optional=True,
                    placeholder='[{"x": 300, "y": 200}]',
                    tooltip="Points that are not on the object, in the same form.",
                ),
                boxes_input(
                    "Boxes around objects: one, several for every picture, or a list for each picture. Several on a "
                    "picture are segmented one by one and joined.",
                ),
                io.Mask.Input("mask_prompt", optional=True, tooltip="A rough mask of the object. A blank one is none."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask"),
                io.Float.Output(display_name="score", is_output_list=True),
            ],
        )

    @classmethod
    def validate_inputs(cls, positive_coords: str | None = None, negative_coords: str | None = None) -> bool | str:
        try:  # None: it comes over a link and is not known yet
            read_points(positive_coords or "", "positive_coords")
            read_points(negative_coords or "", "negative_coords")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        sam: SAM,
        image: Tensor,
        choice: str,
        refine_iterations: int,
        positive_coords: str = "",
        negative_coords: str = "",
        bboxes: dict | list | None = None,
        mask_prompt: Tensor | None = None,
    ) -> io.NodeOutput:
        pictures, height, width = image.shape[:3]
        positive = parse_points(positive_coords, "positive_coords", width, height)
        negative = parse_points(negative_coords, "negative_coords", width, height)
        boxes = boxes_per_picture(bboxes, "bboxes", pictures, width, height)
        mask, scores = sam.segment(image, positive, negative, boxes, mask_prompt, choice, refine_iterations)
        return io.NodeOutput(mask, scores)


NODES = [LoadSAM, SAMSegment]
