"""Segment Anything without a prompt: masks of everything in a picture."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.segment import sam_everything
from ...model_patchers.segment.sam import SAM
from .. import sockets

DEFAULT = sam_everything.Settings()


class SAMSegmentEverything(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSAMSegmentEverything",
            display_name="SAM Segment Everything",
            category="Pentimento/segment",
            description="Makes a mask of every object in the picture, largest first. SAM segments each point of a "
            "grid; the node keeps the good masks and drops duplicates.",
            search_aliases=["segment anything", "automatic mask generator", "auto mask", "AMG", "all objects"],
            inputs=[
                sockets.SAM.Input("sam", tooltip="The SAM network, from Load SAM."),
                io.Image.Input("image", tooltip="The pictures to segment."),
                io.Int.Input(
                    "points_per_side",
                    default=DEFAULT.points_per_side,
                    min=1,
                    max=256,
                    tooltip="The number of grid points along each side of the picture. More points find smaller "
                    "objects; the time grows with the square of this number.",
                ),
                io.Float.Input(
                    "pred_iou_thresh",
                    default=DEFAULT.pred_iou_thresh,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The node keeps masks whose quality, estimated by SAM, is above this value. Lower values "
                    "keep more and worse masks; 0 keeps all.",
                ),
                io.Float.Input(
                    "stability_score_thresh",
                    default=DEFAULT.stability_score_thresh,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The node keeps masks whose stability is at least this value. A mask of stability 1 does "
                    "not change when its threshold moves. Lower values keep more masks, with vaguer edges.",
                ),
                io.Int.Input(
                    "crop_layers",
                    default=DEFAULT.crop_layers,
                    min=0,
                    max=4,
                    tooltip="Also segments crops of the picture, to find small objects: 1 adds 4 crops, 2 adds 16 "
                    "more, and so on. The time grows to 5, 21, ... times.",
                ),
                io.Int.Input(
                    "min_area",
                    default=DEFAULT.min_area,
                    min=0,
                    max=2**24,
                    tooltip="Fills holes in masks and drops detached pieces that have fewer pixels than this. 0 leaves "
                    "masks as SAM makes them.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="masks"),
                io.BoundingBox.Output(display_name="bboxes"),
                io.Image.Output(display_name="preview"),
            ],
        )

    @classmethod
    def execute(
        cls,
        sam: SAM,
        image: Tensor,
        points_per_side: int,
        pred_iou_thresh: float,
        stability_score_thresh: float,
        crop_layers: int,
        min_area: int,
    ) -> io.NodeOutput:
        settings = sam_everything.Settings(
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            crop_layers=crop_layers,
            min_area=min_area,
        )
        image = checks.image(image, "image")
        masks, boxes, preview = sam_everything.segment_everything(sam, image, settings)
        return io.NodeOutput(home(masks), boxes, home(preview))


NODES = [SAMSegmentEverything]
