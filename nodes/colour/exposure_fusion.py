"""Several exposures joined into one picture."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.colour import exposure_fusion
from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks


class ExposureFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        exponent = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.1}
        return io.Schema(
            node_id="PentimentoExposureFusion",
            display_name="Exposure Fusion",
            category="Pentimento/colour",
            description="Joins several exposures of the same scene into one picture with visible shadows and "
            "highlights, by Mertens' method, which needs no exposure times. Each part comes from the exposures that "
            "show it best.",
            search_aliases=["hdr", "mertens", "tone mapping", "merge exposures", "bracketing", "dynamic range"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="A batch of 2 to 64 exposures of the same scene, from Exposure Brackets or a camera, in "
                    "any order. Exposures of a camera must be aligned. Rebatch Images makes a batch of a list.",
                ),
                io.Float.Input(
                    "contrast",
                    **exponent,
                    tooltip="How much an exposure counts where it has fine detail. 0 ignores the detail.",
                ),
                io.Float.Input(
                    "saturation",
                    **exponent,
                    tooltip="How much an exposure counts where its colours are strong. 0 ignores the colours. Grey "
                    "pictures are fused without it.",
                ),
                io.Float.Input(
                    "exposure",
                    **exponent,
                    tooltip="How much an exposure counts where its brightness is near mid grey. 0 ignores the "
                    "brightness, which is OpenCV's default. 1 opens shadows and highlights most.",
                ),
                io.Combo.Input(
                    "range",
                    options=exposure_fusion.RANGES,
                    tooltip="What happens to the values that fusion makes below 0 (black) and above 1 (white). "
                    "clamp: cuts them off. shift: adds one number to all values, so that the darkest is 0. keep: "
                    "returns them, to be saved as EXR or graded.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The fused picture.")],
        )

    @classmethod
    def execute(cls, images: Tensor, contrast: float, saturation: float, exposure: float, range: str) -> io.NodeOutput:
        images = checks.image(images, "images")
        exposure_fusion.check(images)
        weights = exposure_fusion.Weights(contrast, saturation, exposure)
        return io.NodeOutput(home(exposure_fusion.fuse(images, weights, range, Progress(2 * len(images)))))


NODES = [ExposureFusion]
