"""OSTrack: a box that follows an object through a clip."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.boxes import boxes_per_picture
from ...model_patchers.comfyui.folders import filenames, fingerprint, full_path
from ...model_patchers.pixels import checks
from ...model_patchers.video import ostrack
from ...model_patchers.video.frames import ImageFrames
from .. import inputs, sockets

FOLDER = "ostrack"
FURTHEST = 1_000_000  # a frame's number


class LoadOSTrack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadOSTrack",
            display_name="Load OSTrack",
            category="Pentimento/video",
            description="Loads OSTrack, a network that follows an object by a box around it.",
            search_aliases=["ostrack", "object tracking", "tracker"],
            inputs=[
                io.Combo.Input(
                    "ostrack_name",
                    options=filenames(FOLDER),
                    tooltip="A file in models/ostrack, such as OSTrack_ep0300.pth.tar of OSTrack-256 or OSTrack-384. "
                    "The node recognises the network by its tensors, not by the file's name.",
                )
            ],
            outputs=[sockets.OSTrack.Output(display_name="ostrack")],
        )

    @classmethod
    def fingerprint_inputs(cls, ostrack_name: str | None) -> str:
        return fingerprint(ostrack_name, FOLDER)

    @classmethod
    def execute(cls, ostrack_name: str) -> io.NodeOutput:
        return io.NodeOutput(ostrack.load(full_path(ostrack_name, FOLDER)))


class TrackBox(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoOSTrack",
            display_name="Track Box",
            category="Pentimento/video",
            description="Follows the object in a box through a clip, and gives the box of each frame.",
            search_aliases=["ostrack", "object tracking", "follow", "bounding box", "remove anything video"],
            inputs=[
                sockets.OSTrack.Input("ostrack", tooltip="The OSTrack network, from Load OSTrack."),
                io.Image.Input("images", tooltip="The frames of the clip in their order, of any size."),
                inputs.boxes(
                    "bboxes",
                    "One box around the object, tight, on the frame that has the number in frame. Of a list for each "
                    "frame, the box of that frame counts.",
                    optional=False,
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-FURTHEST,
                    max=FURTHEST,
                    tooltip="The number of the frame that the box belongs to. The first frame is 0, and the last is "
                    "-1. Choose a frame that shows the whole object.",
                ),
                io.Combo.Input(
                    "direction",
                    options=ostrack.DIRECTIONS,
                    tooltip="Which frames get a box. both: all. forward: those after the frame with the box. backward: "
                    "those before it. The other frames get no box.",
                ),
            ],
            outputs=[
                io.BoundingBox.Output(display_name="bboxes"),
                io.Float.Output(display_name="scores", is_output_list=True),
            ],
        )

    @classmethod
    def execute(
        cls,
        ostrack: ostrack.OSTrack,
        images: Tensor,
        bboxes: dict | list,
        frame: int,
        direction: str,
    ) -> io.NodeOutput:
        images = checks.image(images, "images")
        number = _number(frame, len(images))
        boxes = boxes_per_picture(bboxes, "bboxes", len(images), images.shape[2], images.shape[1], "images")[number]
        if len(boxes) != 1:
            came = f"{len(boxes)} boxes" if boxes else "no box"
            raise ValueError(
                f"bboxes has {came} for frame {number}, and Track Box follows exactly one. Draw one box around the "
                "object in Pick Points; for several objects use one Track Box for each."
            )
        steps = ostrack.follow(ImageFrames(images), boxes[0], number, direction)
        tracked = [[dict(zip(step.place._fields, map(int, step.place), strict=True))] if step else [] for step in steps]
        return io.NodeOutput(tracked, [step.score if step else 0.0 for step in steps])


def _number(frame: int, frames: int) -> int:
    """The number of a frame counted from the start.

    Raises:
        ValueError: The clip has no such frame.
    """
    if not -frames <= frame < frames:
        raise ValueError(
            f"frame is {frame}, but the clip has {frames} frames, numbered 0 to {frames - 1}. Choose one of these, or "
            "-1 for the last."
        )
    return frame % frames


NODES = [LoadOSTrack, TrackBox]
