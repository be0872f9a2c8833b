"""LaMa: fills holes with a network that sees the whole picture at once."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.folders import filenames, full_path
from ...model_patchers.fill.lama import AREAS, LaMa, load

FOLDERS = ("inpaint", "lama")
LaMaSocket = io.Custom("PENTIMENTO_LAMA")


class LoadLaMa(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadLaMa",
            display_name="Load LaMa",
            category="Pentimento/fill",
            description="Loads a LaMa network, which fills holes without a prompt, from any form its files come in.",
            search_aliases=["lama", "big-lama", "inpaint model", "remove object", "eraser"],
            inputs=[
                io.Combo.Input(
                    "lama_name",
                    options=filenames(*FOLDERS),
                    tooltip="A LaMa file in models/inpaint or models/lama: TorchScript, Lightning .ckpt, .pth or "
                    ".safetensors. What it is, is told from its contents.",
                )
            ],
            outputs=[LaMaSocket.Output(display_name="lama")],
        )

    @classmethod
    def execute(cls, lama_name: str) -> io.NodeOutput:
        return io.NodeOutput(load(full_path(lama_name, *FOLDERS)))


class LaMaFill(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLaMaFill",
            display_name="LaMa Fill",
            category="Pentimento/fill",
            description="Fills the masked part of a picture from its surroundings. The rest keeps every bit.",
            search_aliases=["lama", "inpaint", "remove object", "erase", "cleanup"],
            inputs=[
                LaMaSocket.Input("lama", tooltip="The network, from Load LaMa."),
                io.Image.Input("image", tooltip="Pictures of any size; grey and transparent ones too."),
                io.Mask.Input(
                    "mask", tooltip="What to fill: everything above 0. One for all pictures or one for each."
                ),
                io.Combo.Input(
                    "area",
                    options=AREAS,
                    tooltip="each hole: the network sees each hole with its surroundings, at the picture's own "
                    "resolution; fast on big pictures. whole picture: it sees everything at once.",
                ),
                io.Int.Input(
                    "context",
                    default=128,
                    min=0,
                    max=4096,
                    tooltip="How many pixels around a hole the network sees when area is 'each hole'.",
                ),
                io.Int.Input(
                    "refine_steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Makes big holes sharper by optimising against a smaller version of the picture: 0 = off, "
                    "15 = as the paper. Slow. Has an effect where the area is at least 725 pixels high and wide.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(
        cls, lama: LaMa, image: Tensor, mask: Tensor, area: str, context: int, refine_steps: int
    ) -> io.NodeOutput:
        return io.NodeOutput(lama.fill(image, mask, area, context, refine_steps))


NODES = [LoadLaMa, LaMaFill]
