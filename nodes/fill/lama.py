"""LaMa: fills holes with a network that sees the whole picture at once."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.folders import filenames, fingerprint, full_path
from ...model_patchers.comfyui.results import home
from ...model_patchers.fill import lama
from ...model_patchers.pixels import checks
from .. import sockets

FOLDERS = ("inpaint", "lama")


class LoadLaMa(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadLaMa",
            display_name="Load LaMa",
            category="Pentimento/fill",
            description="Loads a LaMa network, which fills holes in pictures without a prompt.",
            search_aliases=["lama", "big-lama", "inpaint model", "remove object", "eraser"],
            inputs=[
                io.Combo.Input(
                    "lama_name",
                    options=filenames(*FOLDERS),
                    tooltip="A LaMa file in models/inpaint or models/lama: TorchScript, Lightning .ckpt, .pth or "
                    ".safetensors. The node recognises the network by its tensors, not by the file's name.",
                )
            ],
            outputs=[sockets.LaMa.Output(display_name="lama")],
        )

    @classmethod
    def fingerprint_inputs(cls, lama_name: str | None) -> str:
        return fingerprint(lama_name, *FOLDERS)

    @classmethod
    def execute(cls, lama_name: str) -> io.NodeOutput:
        return io.NodeOutput(lama.load(full_path(lama_name, *FOLDERS)))


class LaMaFill(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLaMaFill",
            display_name="LaMa Fill",
            category="Pentimento/fill",
            description="Fills the masked part of a picture from its surroundings. Pixels outside the mask keep every "
            "bit.",
            search_aliases=[
                "lama",
                "inpaint",
                "remove object",
                "erase",
                "cleanup",
                "heal",
                "healing brush",
                "clone stamp",
            ],
            inputs=[
                sockets.LaMa.Input("lama", tooltip="The LaMa network, from Load LaMa."),
                io.Image.Input(
                    "image", tooltip="The pictures to fill, of any size. Grey and transparent pictures work too."
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The part to fill: everything white or grey, soft edges included. Noise below 6 % of "
                    "white is ignored. One mask for all pictures, or one for each.",
                ),
                io.Combo.Input(
                    "area",
                    options=lama.AREAS,
                    tooltip="How much the network sees at a time. each hole: one hole with its surroundings, at the "
                    "picture's own resolution; fast on big pictures. whole picture: everything at once.",
                ),
                io.Int.Input(
                    "context",
                    default=128,
                    min=0,
                    max=4096,
                    tooltip="How many pixels around each hole the network sees. Ignored when area is 'whole picture'.",
                ),
                io.Int.Input(
                    "refine_steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Makes big holes sharper by optimising against a smaller version of the picture: 0 = off, "
                    "15 = as in the paper. Slow. Ignored where the network sees fewer than 725 pixels in height or "
                    "width.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(
        cls, lama: lama.LaMa, image: Tensor, mask: Tensor, area: str, context: int, refine_steps: int
    ) -> io.NodeOutput:
        image = checks.image(image, "image", whole=False)
        filled = lama.fill(image, mask, area=area, context=context, refine_steps=refine_steps)
        return io.NodeOutput(home(filled))


NODES = [LoadLaMa, LaMaFill]
