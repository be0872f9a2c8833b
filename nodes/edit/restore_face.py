"""Restoring faces with GFPGAN, RestoreFormer or CodeFormer."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.results import home
from ...model_patchers.edit import restore_face
from ...model_patchers.pixels import checks
from .. import sockets


class RestoreFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoRestoreFace",
            display_name="Restore Faces",
            category="Pentimento/edit",
            description="Restores blurred, small or damaged faces with a face model: each face is turned upright, "
            "restored at 512 x 512 pixels and blended back into the picture. Pixels outside the faces keep every bit.",
            search_aliases=[
                "face restore",
                "facerestore",
                "GFPGAN",
                "CodeFormer",
                "RestoreFormer",
                "face enhance",
                "fix faces",
                "face fix",
            ],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The pictures whose faces are restored, of any size. Grey and transparent pictures work "
                    "too. To gain detail in small faces, enlarge the pictures first.",
                ),
                io.UpscaleModel.Input(
                    "face_model",
                    tooltip="GFPGAN, RestoreFormer or CodeFormer, from Load Upscale Model. CodeFormer needs the Python "
                    "package spandrel_extra_arches.",
                ),
                sockets.FaceLandmarks.Input(
                    "landmarks",
                    tooltip="The faces, from Detect Face Landmarks (MediaPipe). Landmarks of the same picture in "
                    "another size fit too. One picture's landmarks count for all pictures of a batch.",
                ),
                io.Float.Input(
                    "fidelity",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0: the cleanest face, which may look like another person. 1: the face as it is, with less "
                    "repaired. CodeFormer alone has this setting; other models ignore it.",
                ),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=256,
                    tooltip="The restored square of 512 x 512 pixels fades into the picture over this many of its "
                    "pixels, from its edges inwards. More hides a visible square. 0 = a hard edge.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                io.Image.Output(
                    display_name="faces",
                    tooltip="The restored faces alone, upright, 512 x 512 pixels. A black picture if there are none.",
                ),
                io.Mask.Output(display_name="mask", tooltip="White where the pictures were replaced."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, face_model: Any, landmarks: Any, fidelity: float, feather: int) -> io.NodeOutput:
        image = checks.image(image, "image")
        return io.NodeOutput(*map(home, restore_face.restore(image, face_model, landmarks, fidelity, feather)))


NODES = [RestoreFace]
