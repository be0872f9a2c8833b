"""STTN: fills the holes of a clip from all its frames."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.folders import filenames, fingerprint, full_path
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.pixels.images import put_rgb
from ...model_patchers.pixels.masks import selected
from ...model_patchers.video import sttn
from ...model_patchers.video.frames import ImageFrames, MaskBatch
from .. import sockets

FOLDER = "sttn"


class LoadSTTN(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadSTTN",
            display_name="Load STTN",
            category="Pentimento/video",
            description="Loads STTN, a network that fills the holes of a clip from all its frames.",
            search_aliases=["sttn", "video inpainting", "remove object from video"],
            inputs=[
                io.Combo.Input(
                    "sttn_name",
                    options=filenames(FOLDER),
                    tooltip="A file in models/sttn, such as sttn.pth. The node recognises the network by its tensors, "
                    "not by the file's name.",
                )
            ],
            outputs=[sockets.STTN.Output(display_name="sttn")],
        )

    @classmethod
    def fingerprint_inputs(cls, sttn_name: str | None) -> str:
        return fingerprint(sttn_name, FOLDER)

    @classmethod
    def execute(cls, sttn_name: str) -> io.NodeOutput:
        return io.NodeOutput(sttn.load(full_path(sttn_name, FOLDER)))


class STTNFill(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSTTNFill",
            display_name="STTN Fill",
            category="Pentimento/video",
            description="Fills the masked part of each frame of a clip from the other frames, as Inpaint-Anything's "
            "Remove Anything Video does. Pixels outside the mask keep every bit.",
            search_aliases=["sttn", "video inpainting", "remove object from video", "remove anything video"],
            inputs=[
                sockets.STTN.Input("sttn", tooltip="The STTN network, from Load STTN."),
                io.Image.Input(
                    "images",
                    tooltip="The frames of the clip in their order, of any size. Grey and transparent frames work too.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The part to fill: everything white or grey, soft edges included. Noise below 6 % of "
                    "white is ignored. One mask for each frame, or one for all.",
                ),
                io.Combo.Input(
                    "area",
                    options=sttn.AREAS,
                    tooltip="What the network sees of a frame; it sees 432 x 240 pixels. each hole: one crop around "
                    "the holes of all frames, so that the result is sharper. whole picture: the whole frame, as in "
                    "Inpaint-Anything.",
                ),
                io.Int.Input(
                    "stride",
                    default=5,
                    min=1,
                    max=100,
                    tooltip="How many frames before and after a frame are filled together with it. More needs more "
                    "memory. 5 is Inpaint-Anything's.",
                ),
                io.Int.Input(
                    "reference_every",
                    default=10,
                    min=1,
                    max=10000,
                    tooltip="Every how many frames of the clip one is looked at for all other frames. Fewer frames "
                    "between them need more memory. 10 is Inpaint-Anything's.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(
        cls, sttn: sttn.STTN, images: Tensor, mask: Tensor, area: str, stride: int, reference_every: int
    ) -> io.NodeOutput:
        images = checks.image(images, "images", whole=False)
        masks = MaskBatch(checks.mask(mask, "mask"), ImageFrames(images))
        whole = checks.finite(images, "images", unread=selected(masks[:]), where=" outside the mask")
        frames = ImageFrames(images if whole else images.nan_to_num(0, 0, 0))
        result = images.clone()
        for filled in sttn.fill(frames, masks, area, stride, reference_every):
            crop = (slice(filled.number, filled.number + 1), *filled.box.slices)
            result[crop] = put_rgb(images[crop], filled.colours[None].to(images.device), filled.hole[None])
        return io.NodeOutput(home(result))


NODES = [LoadSTTN, STTNFill]
