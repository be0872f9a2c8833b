"""Segment Anything without being told what: masks of everything in a picture."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.segment.sam import SAM
from ...model_patchers.segment.sam_everything import Settings, segment_everything
from .sam import SAMSocket


class SAMSegmentEverything(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSAMSegmentEverything",
            display_name="SAM Segment Everything",
            category="Pentimento/segment",
            description="Masks of everything in the picture, largest first: SAM is asked at a grid of points, and its "
            "good answers are kept once each.",
            search_aliases=["segment anything", "automatic mask generator", "auto mask", "AMG", "all objects"],
            inputs=[
                SAMSocket.Input("sam", tooltip="From Load SAM."),
                io.Image.Input("image", tooltip="The pictures to take apart."),
                io.Int.Input(
                    "points_per_side",
                    default=32,
                    min=1,
                    max=256,
                    tooltip="The grid is this many points wide and high. More find smaller things; the time goes with "
                    "the square.",
                ),
                io.Float.Input(
                    "pred_iou_thresh",
                    default=0.88,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How good SAM must think a mask to be. Lower finds more masks and worse ones; 0 takes all.",
                ),
                io.Float.Input(
                    "stability_score_thresh",
                    default=0.95,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How little a mask may change when its threshold moves: 1 is not at all. Lower finds more "
                    "masks, with vaguer edges.",
                ),
                io.Int.Input(
                    "crop_layers",
                    default=0,
                    min=0,
                    max=4,
                    tooltip="Look again in 4 crops of the picture (1), in 16 more (2), and so on: finds small things, "
                    "at 5, 21, ... times the time.",
                ),
                io.Int.Input(
                    "min_area",
                    default=0,
                    min=0,
                    max=2**24,
                    tooltip="Fill holes and drop loose pieces of masks that have fewer pixels than this. 0 leaves "
                    "masks as SAM gives them.",
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
        settings = Settings(points_per_side, pred_iou_thresh, stability_score_thresh, crop_layers, min_area)
        return io.NodeOutput(*segment_everything(sam, image, settings))


NODES = [SAMSegmentEverything]
