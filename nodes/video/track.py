"""Objects followed through a clip by SAM 2 or between key frames, and their masks."""

from comfy_api.latest import Input, io
from torch import Tensor

from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.video import frames, sam2, track
from .. import inputs, sockets

LONGEST = 1_000_000  # frames


OVERLAP = "Whether several objects may share pixels. Off: each pixel belongs to the object that "


def _settings() -> list[io.Input]:
    return [
        sockets.KeyFrames.Input(
            "key_frames",
            tooltip="The objects to follow, from Key Frame: one object on any frame, several objects, or one object on "
            "several frames.",
        ),
        io.Combo.Input(
            "direction",
            options=track.DIRECTIONS,
            default="both",
            tooltip="Where an object is looked for. both: in the whole clip. forward: from its first key frame to the "
            "end. backward: from its last key frame to the beginning. The other frames get an empty mask.",
        ),
        io.Int.Input(
            "fill_holes",
            default=8,
            min=0,
            max=1000,
            tooltip="Holes in a mask up to this area are filled, in cells of SAM 2's mask, which has 256 x 256 cells "
            "for a whole frame. 8 is SAM 2's own value; 0 fills none.",
        ),
        io.Boolean.Input(
            "overlap",
            default=True,
            tooltip=f"{OVERLAP}SAM 2 is surest of.",
        ),
    ]


class Track(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoTrack",
            display_name="Track",
            category="Pentimento/video",
            description="Follows objects through a batch of pictures with SAM 2, from the key frames on which they are "
            "marked, forwards and backwards.",
            search_aliases=["sam2", "video segmentation", "object tracking", "follow", "propagate mask", "rotoscope"],
            inputs=[
                sockets.SAM2.Input("sam2", tooltip="The SAM 2 network, from Load SAM 2."),
                io.Image.Input(
                    "images",
                    tooltip="The frames of the clip in their order, of any size, such as from Get Video "
                    "Components. For long clips, Track in Video needs far less memory.",
                ),
                *_settings(),
            ],
            outputs=[
                io.Mask.Output(display_name="mask"),
                sockets.Track.Output(display_name="track"),
                io.String.Output(display_name="present"),
            ],
        )

    @classmethod
    def execute(
        cls,
        sam2: sam2.SAM2,
        images: Tensor,
        key_frames: track.KeyFrames,
        direction: str,
        fill_holes: int,
        overlap: bool,
    ) -> io.NodeOutput:
        clip = frames.ImageFrames(checks.image(images, "images"))
        result = track.follow(sam2, clip, key_frames, direction, fill_holes, overlap)
        return io.NodeOutput(home(result.masks()[:]), result, result.present())


class TrackVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoTrackVideo",
            display_name="Track in Video",
            category="Pentimento/video",
            description="Follows objects through a video with SAM 2, as Track does. Frames are decoded as they are "
            "read, so that a video of any length needs little memory.",
            search_aliases=["sam2", "video segmentation", "object tracking", "follow", "long video"],
            inputs=[
                sockets.SAM2.Input("sam2", tooltip="The SAM 2 network, from Load SAM 2."),
                io.Video.Input("video", tooltip="The video, from Load Video, Trim Video or Create Video."),
                *_settings(),
            ],
            outputs=[sockets.Track.Output(display_name="track")],
        )

    @classmethod
    def execute(
        cls,
        sam2: sam2.SAM2,
        video: Input.Video,
        key_frames: track.KeyFrames,
        direction: str,
        fill_holes: int,
        overlap: bool,
    ) -> io.NodeOutput:
        return io.NodeOutput(track.follow(sam2, frames.of_video(video), key_frames, direction, fill_holes, overlap))


class TrackWithoutModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoTrackWithoutModel",
            display_name="Track Without a Model",
            category="Pentimento/video",
            description="Moves masks and boxes straight from key frame to key frame, and changes their shape on the "
            "way. Needs no model file: for things that stand still or move evenly, and for what SAM 2 loses.",
            search_aliases=["interpolate masks", "keyframe mask", "moving mask", "rotoscope", "tween", "animate mask"],
            inputs=[
                sockets.KeyFrames.Input(
                    "key_frames",
                    tooltip="Key Frames with a mask or a box: one for an object that stands still, two or more for one "
                    "that moves. Before the first and after the last key frame the mask stays where it is.",
                ),
                io.Video.Input("video", optional=True, tooltip="The clip as a VIDEO. Connect either this or images."),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The clip as a batch of pictures in their order. Connect either this or video.",
                ),
                io.Boolean.Input(
                    "overlap",
                    default=True,
                    optional=True,
                    tooltip=f"{OVERLAP}it lies deepest in.",
                ),
            ],
            outputs=[sockets.Track.Output(display_name="track")],
        )

    @classmethod
    def execute(
        cls,
        key_frames: track.KeyFrames,
        video: Input.Video | None = None,
        images: Tensor | None = None,
        overlap: bool = True,
    ) -> io.NodeOutput:
        if (video is None) == (images is None):
            both = "None is connected." if video is None else "Both are connected: disconnect one."
            raise ValueError(f"The clip comes from video or from images. {both}")
        clip = frames.of_video(video) if images is None else frames.ImageFrames(checks.image(images, "images"))
        return io.NodeOutput(track.move(clip, key_frames, overlap))


class TrackToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoTrackToMask",
            display_name="Track to Mask",
            category="Pentimento/video",
            description="The masks of some or all objects of a track, for some or all frames.",
            search_aliases=["sam2", "track to mask", "masks of objects", "video mask"],
            inputs=[
                sockets.Track.Input("track", tooltip="From Track, Track in Video or Track Without a Model."),
                io.String.Input(
                    "objects",
                    default="",
                    placeholder="1, 2",
                    tooltip="The numbers of the objects whose masks are joined, such as 1, 3. Empty: all objects.",
                ),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=LONGEST,
                    tooltip="The number of the first frame to make a mask for; 0 is the first frame of the clip.",
                ),
                io.Int.Input(
                    "length",
                    default=0,
                    min=0,
                    max=LONGEST,
                    tooltip="The number of masks, at most as many as there are frames from start on. 0: all of these.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask")],
        )

    @classmethod
    def validate_inputs(cls, objects: str | None) -> bool | str:
        return inputs.valid(track.read_objects, objects)

    @classmethod
    def execute(cls, track: track.Track, objects: str, start: int, length: int) -> io.NodeOutput:
        return io.NodeOutput(home(track.part(objects, start, length)))


NODES = [Track, TrackVideo, TrackWithoutModel, TrackToMask]
