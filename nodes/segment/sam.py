"""Segment Anything: what is under the points, in the boxes, or like the mask."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.boxes import boxes_per_picture, no_box
from ...model_patchers.comfyui.folders import filenames, fingerprint, full_path
from ...model_patchers.comfyui.points import parse_points, read_points
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.segment import sam, sam_prompts
from .. import inputs, sockets

FOLDER = "sams"


class LoadSAM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadSAM",
            display_name="Load SAM",
            category="Pentimento/segment",
            description="Loads Segment Anything (ViT-B, ViT-L or ViT-H), MobileSAM or SAM-HQ.",
            search_aliases=["sam", "segment anything", "mobile sam", "sam hq", "SAMLoader"],
            inputs=[
                io.Combo.Input(
                    "sam_name",
                    options=filenames(FOLDER),
                    tooltip="A file in models/sams, such as sam_vit_b_01ec64.pth, mobile_sam.pt or sam_hq_vit_l.pth. "
                    "The node recognises the network by its tensors, not by the file's name.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(sam.PRECISIONS),
                    default="auto",
                    tooltip="The precision of the image encoder. auto: bf16 on GPUs that support it, else fp32. "
                    "fp16 gives garbage with ViT-H.",
                ),
            ],
            outputs=[sockets.SAM.Output(display_name="sam")],
        )

    @classmethod
    def fingerprint_inputs(cls, sam_name: str | None, precision: str | None) -> str:
        return fingerprint(sam_name, FOLDER)

    @classmethod
    def execute(cls, sam_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(sam.load(full_path(sam_name, FOLDER), precision))


class SAMSegment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSAMSegment",
            display_name="SAM Segment",
            category="Pentimento/segment",
            description="Selects the object under the points, in the boxes, or roughly in the mask. The picture is "
            "encoded once; further clicks are fast.",
            search_aliases=[
                "sam",
                "segment anything",
                "point to mask",
                "box to mask",
                "click to mask",
                "SAM detector",
                "mask",
            ],
            inputs=[
                sockets.SAM.Input("sam", tooltip="The SAM network, from Load SAM."),
                io.Image.Input(
                    "image",
                    tooltip="The pictures to segment, of any size. The same points are used on every picture of a "
                    "batch.",
                ),
                io.Combo.Input(
                    "choice",
                    options=sam_prompts.CHOICES,
                    default="auto",
                    tooltip="Which mask to return. SAM makes a single mask for a clear prompt and three for an "
                    "ambiguous one (a button, a coat, a person). auto: SAM's own rule (a single click or a box alone: "
                    "the best of the three; more points: the single mask). best: the best of the three. 1, 2, 3: that "
                    "one of the three. all: all three as a batch. previous, for the frames of a clip: the one of the "
                    "three that is most like the mask of the picture before.",
                ),
                io.Int.Input(
                    "refine_iterations",
                    default=0,
                    min=0,
                    max=20,
                    tooltip="How many times SAM gets its mask back, with the same points and boxes, to improve it. "
                    "1 to 3 often gives cleaner edges.",
                ),
                inputs.points(
                    "positive_coords",
                    (120, 80),
                    'Points on the object: a JSON list in pixels such as [{"x": 120, "y": 80}]. Write the list here, '
                    "or connect Pick Points.",
                    optional=True,
                ),
                inputs.points(
                    "negative_coords",
                    (300, 200),
                    'Points that are not on the object: a JSON list in pixels such as [{"x": 300, "y": 200}].',
                    optional=True,
                ),
                inputs.boxes(
                    "bboxes",
                    "Boxes around objects: one box, a list of boxes for every picture, or a list for each picture. "
                    "Several boxes on a picture are segmented one by one, and their masks are joined.",
                ),
                io.Mask.Input(
                    "mask_prompt",
                    optional=True,
                    tooltip="A rough mask of the object. A blank mask is ignored.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask"),
                io.Float.Output(display_name="score", is_output_list=True),
            ],
        )

    @classmethod
    def validate_inputs(cls, positive_coords: str | None = None, negative_coords: str | None = None) -> bool | str:
        positive = inputs.valid(read_points, positive_coords, "positive_coords")
        return positive if positive is not True else inputs.valid(read_points, negative_coords, "negative_coords")

    @classmethod
    def execute(
        cls,
        sam: sam.SAM,
        image: Tensor,
        choice: str,
        refine_iterations: int,
        positive_coords: str = "",
        negative_coords: str = "",
        bboxes: dict | list | None = None,
        mask_prompt: Tensor | None = None,
    ) -> io.NodeOutput:
        image = checks.image(image, "image")
        pictures, height, width = image.shape[:3]
        positive = parse_points(positive_coords, "positive_coords", width, height)
        if bboxes is not None and no_box(bboxes) and not positive and mask_prompt is None:
            raise ValueError(sam_prompts.NOTHING_DETECTED)
        mask, scores = sam.segment(
            image,
            positive=positive,
            negative=parse_points(negative_coords, "negative_coords", width, height),
            boxes=boxes_per_picture(bboxes, "bboxes", pictures, width, height),
            mask=mask_prompt,
            choice=choice,
            refine_iterations=refine_iterations,
        )
        return io.NodeOutput(home(mask), scores)


NODES = [LoadSAM, SAMSegment]
