"""Key frames: what a user says about an object on a frame of a clip."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.points import read_points
from ...model_patchers.pixels import checks
from ...model_patchers.video import track
from .. import inputs, sockets

FURTHEST = 1_000_000  # a frame's number
MOST = 1000  # objects


class KeyFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoKeyFrame",
            display_name="Key Frame",
            category="Pentimento/video",
            description="Marks an object on any frame of a clip, by points, a box or a mask, for Track. Chain several "
            "for several objects, or to correct a track on other frames.",
            search_aliases=["sam2", "prompt frame", "add points", "track prompt", "sam2 add points", "correct a track"],
            inputs=[
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-FURTHEST,
                    max=FURTHEST,
                    tooltip="The number of the frame on which the object is marked. The first frame of the clip is 0, "
                    "and the last is -1. Get the picture of that frame with Image From Batch.",
                ),
                io.Int.Input(
                    "object",
                    default=1,
                    min=1,
                    max=MOST,
                    tooltip="The number of the object. Key Frames with the same number mark the same object on several "
                    "frames; another number is another object.",
                ),
                inputs.points(
                    "positive_coords",
                    (120, 80),
                    'Points on the object: a JSON list in pixels of the clip such as [{"x": 120, "y": 80}]. Write the '
                    "list here, or connect Pick Points.",
                    optional=True,
                ),
                inputs.points(
                    "negative_coords",
                    (300, 200),
                    "Points that are not on the object: a JSON list in pixels of the clip such as "
                    '[{"x": 300, "y": 200}].',
                    optional=True,
                ),
                inputs.boxes(
                    "bboxes",
                    "One box around the object. Of a list for each frame of the clip, the boxes of this frame count.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A mask of the object on this frame, in place of points and box: painted, or from Magic "
                    "Wand, SAM Segment or SAM 3. Of a mask for each frame of the clip, the mask of this frame counts. "
                    "A blank mask is ignored where there are points or a box.",
                ),
                sockets.KeyFrames.Input(
                    "before",
                    optional=True,
                    tooltip="Key frames from another Key Frame node, to which this one is added.",
                ),
            ],
            outputs=[sockets.KeyFrames.Output(display_name="key_frames")],
        )

    @classmethod
    def validate_inputs(cls, positive_coords: str | None = None, negative_coords: str | None = None) -> bool | str:
        positive = inputs.valid(read_points, positive_coords, "positive_coords")
        return positive if positive is not True else inputs.valid(read_points, negative_coords, "negative_coords")

    @classmethod
    def execute(
        cls,
        frame: int,
        object: int,
        positive_coords: str = "",
        negative_coords: str = "",
        bboxes: dict | list | None = None,
        mask: Tensor | None = None,
        before: track.KeyFrames | None = None,
    ) -> io.NodeOutput:
        mask = None if mask is None else checks.mask(mask, "mask")
        key = track.KeyFrame(frame, object, positive_coords, negative_coords, bboxes, mask)
        return io.NodeOutput(track.key_frames(key, before or ()))


NODES = [KeyFrame]
