"""The text encoder of ELLA."""

from comfy_api.latest import io

from ...model_patchers.comfyui import folders
from ...model_patchers.prompt import ella_t5

FOLDER = "text_encoders"


class LoadELLAT5(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadELLAT5",
            display_name="Load T5 for ELLA",
            category="Pentimento/prompt",
            description="Loads flan-t5-xl, the text encoder that ELLA was trained with. In fp16 it computes the same "
            "features as in ELLA's training.",
            search_aliases=["ella", "t5", "flan-t5-xl", "t5xl", "load clip", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "t5_name",
                    options=folders.filenames(FOLDER),
                    tooltip="The flan-t5-xl file in models/text_encoders: the encoder alone or the whole model. If the "
                    "model comes in several files, keep them in one folder and choose the first "
                    "(...-00001-of-00002.safetensors).",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(ella_t5.PRECISIONS),
                    tooltip="The precision in which T5 computes. fp16 gives the features that ELLA was trained on. "
                    "fp32 is more exact, and so gives other features. The features of bf16 differ most.",
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip")],
        )

    @classmethod
    def fingerprint_inputs(cls, t5_name: str | None, precision: str | None) -> str:
        return folders.fingerprint(t5_name, FOLDER)

    @classmethod
    def execute(cls, t5_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(ella_t5.load(folders.full_path(t5_name, FOLDER), precision))


NODES = [LoadELLAT5]
