"""Filling holes of a clip from the frames that show what is behind."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.video import fill_from_frames, motion
from .. import inputs, sockets


class FillFromFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoFillFromFrames",
            display_name="Fill from Other Frames",
            category="Pentimento/video",
            description="Removes a moving thing from a clip: what is behind the thing is taken from the frames that "
            "show it, while the camera pans, turns or zooms. Needs no model. Pixels outside the mask keep every bit.",
            search_aliases=[
                "video inpainting",
                "remove object from video",
                "clean plate",
                "background plate",
                "temporal fill",
                "video object removal",
            ],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The frames of the clip in their order, of any size. Grey and transparent pictures work "
                    "too.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The thing to remove: everything white or grey. One mask for each frame, or one for all. "
                    "The mask should cover the thing's shadow and reflection too.",
                ),
                io.Combo.Input(
                    "motion",
                    options=list(motion.MOTIONS),
                    tooltip="How the background moves. auto: measures the motion and takes the simplest kind that "
                    "fits. still: a camera on a tripod; pixels are copied without any change. pan: shifts. similarity: "
                    "shifts, turns and zooms. affine: also stretches and shears. perspective: also tilts.",
                ),
                inputs.reach(),
                inputs.soft_edge(),
                sockets.OpticalFlow.Input(
                    "optical_flow",
                    optional=True,
                    tooltip="For scenes with parallax: the model of Load Optical Flow Model. It fills what the motion "
                    "of the background leaves. With `motion` auto it also fills the frames in which the surroundings "
                    "of the mask move differently from the background.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="The frames without the thing. Pixels of `left` keep their values."
                ),
                io.Mask.Output(display_name="left", tooltip="The masked pixels that no frame within reach shows."),
                io.Int.Output(
                    display_name="key_frame",
                    tooltip="The number of the frame with the most pixels in `left`, from 0. The frame to edit first.",
                ),
                sockets.Motion.Output(display_name="motion", tooltip="How the background moves."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        mask: Tensor,
        motion: str,
        reach: int,
        grow: int,
        optical_flow: ModelPatcher | None = None,
    ) -> io.NodeOutput:
        images = checks.image(images, "images", whole=False)
        progress = Progress(2 * len(images) + (optical_flow is not None) * (len(images) - 1))
        filled, left, key, measured = fill_from_frames.fill_images(
            images, mask, motion, reach, grow, progress, optical_flow
        )
        return io.NodeOutput(home(filled), home(left), key, measured)


NODES = [FillFromFrames]
