"""The text encoder of ELLA."""

from comfy_api.latest import io

from ...model_patchers.comfyui.folders import filenames, full_path
from ...model_patchers.prompt.ella_t5 import PRECISIONS, load

FOLDER = "text_encoders"


class LoadELLAT5(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadELLAT5",
            display_name="Load T5 for ELLA",
            category="Pentimento/prompt",
            description="Loads flan-t5-xl, the text encoder that ELLA was trained with, computing as it did then.",
            search_aliases=["ella", "t5", "flan-t5-xl", "t5xl", "load clip", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "t5_name",
                    options=filenames(FOLDER),
                    tooltip="flan-t5-xl in models/text_encoders: its encoder alone or the whole model. Of a model in "
                    "several files choose the first (...-00001-of-00002.safetensors); the others lie beside it.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    tooltip="fp16: the features that ELLA was trained on. fp32 is more exact and therefore differs; "
                    "bf16 differs most.",
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip")],
        )

    @classmethod
    def execute(cls, t5_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(load(full_path(t5_name, FOLDER), precision))


NODES = [LoadELLAT5]
