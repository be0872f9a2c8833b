"""SAM 2: an object followed through a clip."""

from comfy_api.latest import io

from ...model_patchers.comfyui.folders import filenames, fingerprint, full_path
from ...model_patchers.video import sam2
from .. import sockets

FOLDERS = "sam2", "sams"


class LoadSAM2(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadSAM2",
            display_name="Load SAM 2",
            category="Pentimento/video",
            description="Loads SAM 2 or 2.1 (tiny, small, base+ or large), which follows objects through a clip.",
            search_aliases=["sam2", "segment anything 2", "sam 2.1", "hiera", "video segmentation", "object tracking"],
            inputs=[
                io.Combo.Input(
                    "sam2_name",
                    options=filenames(*FOLDERS),
                    tooltip="A file in models/sam2 or models/sams, such as sam2.1_hiera_tiny.pt or "
                    "sam2_hiera_large.safetensors. The node recognises the version and the size by the file's "
                    "tensors, not by its name.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(sam2.PRECISIONS),
                    default="auto",
                    tooltip="The precision of the image encoder and of the memory. auto: bf16 on GPUs that support "
                    "it, else fp32. The mask decoder always computes in fp32.",
                ),
            ],
            outputs=[sockets.SAM2.Output(display_name="sam2")],
        )

    @classmethod
    def fingerprint_inputs(cls, sam2_name: str | None, precision: str | None) -> str:
        return fingerprint(sam2_name, *FOLDERS)

    @classmethod
    def execute(cls, sam2_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(sam2.load(full_path(sam2_name, *FOLDERS), precision))


NODES = [LoadSAM2]
