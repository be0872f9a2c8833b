"""Removing a thing from a VIDEO, frame by frame into a new one."""

from typing import Any

from comfy_api.latest import Input, io
from torch import Tensor

from ...model_patchers.video import remove_from_video
from .. import inputs, sockets


class RemoveFromVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoRemoveFromVideo",
            display_name="Remove from Video",
            category="Pentimento/video",
            description="Removes a thing from a video of any length in little memory. What is behind the thing comes "
            "from the frames that show it, and the rest is filled on one frame and spread from there. Sound and frame "
            "rate stay.",
            search_aliases=[
                "video inpainting",
                "remove object from video",
                "video object removal",
                "erase from video",
                "remove anything video",
                "clean plate",
            ],
            inputs=[
                io.Video.Input(
                    "video", tooltip="The video to remove the thing from, as from Load Video. Of any length."
                ),
                io.Combo.Input(
                    "rest",
                    options=remove_from_video.RESTS,
                    tooltip="How to fill what no frame shows. patchmatch: continues the surroundings with pieces of "
                    "the frame. harmonic: blends the colours around the hole. lama: by a LaMa network, which must be "
                    "connected.",
                ),
                inputs.reach(),
                inputs.soft_edge(),
                sockets.Track.Input(
                    "track",
                    optional=True,
                    tooltip="The thing to remove, from Track in Video on the same video. Connect this or a mask.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The thing to remove: everything white or grey. One mask for each frame, or one for all. "
                    "The mask should cover the thing's shadow and reflection too. Connect this or a track.",
                ),
                sockets.LaMa.Input(
                    "lama", optional=True, tooltip="The LaMa network for the choice lama, from Load LaMa."
                ),
            ],
            outputs=[io.Video.Output(display_name="video")],
        )

    @classmethod
    def execute(
        cls,
        video: Input.Video,
        rest: str,
        reach: int,
        grow: int,
        track: Any = None,
        mask: Tensor | None = None,
        lama: Any = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(remove_from_video.remove_from_video(video, rest, reach, grow, track, mask, lama))


NODES = [RemoveFromVideo]
