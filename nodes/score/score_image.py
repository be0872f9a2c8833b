"""Score Image: PSNR, SSIM, LPIPS and sharpness."""

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...model_patchers.comfyui.folders import filenames, fingerprint, full_path
from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.pixels import checks
from ...model_patchers.score import lpips, output, score_image

FOLDER = "lpips"
NONE = "none"


class ScoreImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = [NONE, *filenames(FOLDER)]
        return io.Schema(
            node_id="PentimentoScoreImage",
            display_name="Score Image",
            category="Pentimento/score",
            description="Measures pictures: PSNR, SSIM and LPIPS against a reference, and sharpness. A grid collects "
            "the numbers of its cells.",
            search_aliases=["metric", "quality", "psnr", "ssim", "lpips", "sharpness", "similarity", "compare", "blur"],
            is_output_node=True,  # so that a grid reads its numbers in ComfyUI's history
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The pictures to score. The numbers are the means over a batch, and the report names each "
                    "picture's. Alpha is not read.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="What the pictures should look like, in the same size: one picture for all, or one for "
                    "each. Without it, sharpness alone is measured.",
                ),
                io.Combo.Input(
                    "lpips_name",
                    options=files,
                    default=NONE,
                    optional=True,
                    tooltip="A file of LPIPS in models/lpips. LPIPS measures how different two pictures look to "
                    "people. The file is alex.pth or vgg.pth of the authors, or one with the whole network. none: the "
                    "node does not measure LPIPS.",
                ),
                io.Combo.Input(
                    "backbone_name",
                    options=files,
                    default=NONE,
                    optional=True,
                    tooltip="The network below LPIPS in models/lpips: alexnet-owt-7be5be79.pth for alex.pth, "
                    "vgg16-397923af.pth for vgg.pth. none: the file of LPIPS holds it.",
                ),
            ],
            outputs=[
                io.Float.Output(display_name="psnr"),
                io.Float.Output(display_name="ssim"),
                io.Float.Output(display_name="lpips"),
                io.Float.Output(display_name="sharpness"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        image: None = None,
        reference: None = None,
        lpips_name: str | None = NONE,
        backbone_name: str | None = NONE,
    ) -> str:
        return " ".join(fingerprint(name, FOLDER) for name in (lpips_name, backbone_name)).strip()

    @classmethod
    def execute(
        cls, image: Tensor, reference: Tensor | None = None, lpips_name: str = NONE, backbone_name: str = NONE
    ) -> io.NodeOutput:
        image = checks.image(image, "image")
        network, files = (
            None,
            [None if name == NONE else full_path(name, FOLDER) for name in (lpips_name, backbone_name)],
        )
        if reference is not None:
            reference = checks.image(reference, "reference")
            network = lpips.load(*files) if files[0] else None
        scores = score_image.score(image, reference, network, Progress(len(image)))
        means, report = score_image.means(scores), score_image.report(scores)
        numbers = [means.get(name, ExecutionBlocker(missing(name, reference is None))) for name in score_image.WORDS]
        return io.NodeOutput(*numbers, report, ui={"text": [report], output.NAME: [means]})


def missing(name: str, alone: bool) -> str:
    """Why a score is not there, for the node that wants it."""
    to_do = "connect a reference" if alone else "choose a file as lpips_name"
    return f"Score Image gives no {name} here: {to_do}, or disconnect {name}."


NODES = [ScoreImage]
