"""ELLA: long prompts for Stable Diffusion 1.5."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy_api.latest import io

from ...model_patchers.comfyui import folders
from ...model_patchers.prompt import ella as connector
from .. import sockets

FOLDER = "ella"


class LoadELLA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadELLA",
            display_name="Load ELLA",
            category="Pentimento/prompt",
            description="Loads the ELLA connector, with which Stable Diffusion 1.5 follows long prompts that T5 "
            "encodes.",
            search_aliases=["ella", "tsc", "long prompt", "t5 for sd 1.5", "prompt following"],
            inputs=[
                io.Combo.Input(
                    "ella_name",
                    options=folders.filenames(FOLDER),
                    tooltip="The ELLA connector's file in models/ella. ELLA's authors published one: "
                    "ella-sd1.5-tsc-t5xl.safetensors.",
                )
            ],
            outputs=[sockets.ELLA.Output(display_name="ella")],
        )

    @classmethod
    def fingerprint_inputs(cls, ella_name: str | None) -> str:
        return folders.fingerprint(ella_name, FOLDER)

    @classmethod
    def execute(cls, ella_name: str) -> io.NodeOutput:
        return io.NodeOutput(connector.load(folders.full_path(ella_name, FOLDER)))


class ELLATextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoELLATextEncode",
            display_name="ELLA Text Encode",
            category="Pentimento/prompt",
            description="Encodes a long prompt with T5, and optionally with CLIP, for a model with Apply ELLA. Use one "
            "node for the positive and one for the negative prompt.",
            search_aliases=["ella", "t5", "long prompt", "text encode", "prompt"],
            inputs=[
                sockets.ELLA.Input("ella", tooltip="The ELLA connector from Load ELLA."),
                io.Clip.Input("t5", tooltip="The T5 text encoder from Load T5 for ELLA."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt for T5: a description of the picture in sentences. T5 reads parentheses as "
                    "plain text, so they set no weights.",
                ),
                io.Combo.Input(
                    "length",
                    options=list(connector.LENGTHS),
                    tooltip="How many T5 tokens ELLA gets. 128 tokens: as in ELLA's training, about 90 words; a longer "
                    "prompt is cut. flexible: as many tokens as the prompt has.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The checkpoint's own text encoder. It adds CLIP's tokens after ELLA's, for trigger words, "
                    "weights, embeddings, and finetunes that need them. Connect it for both prompts or for neither.",
                ),
                io.String.Input(
                    "clip_text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    optional=True,
                    tooltip="The prompt for CLIP; empty = the prompt for T5. Weights such as (word:1.2) and "
                    "embedding:name work. Ignored if no clip is connected.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(
        cls, ella: connector.ELLA, t5: CLIP, text: str, length: str, clip: CLIP | None = None, clip_text: str = ""
    ) -> io.NodeOutput:
        return io.NodeOutput(connector.encode(ella, t5, text, length, clip=clip, clip_text=clip_text))


class ApplyELLA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoApplyELLA",
            display_name="Apply ELLA",
            category="Pentimento/prompt",
            description="Recomputes ELLA's text tokens at every timestep, with any sampler and scheduler.",
            search_aliases=["ella", "long prompt", "ella apply"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to patch: Stable Diffusion 1.5, its inpainting model or a finetune."
                ),
                sockets.ELLA.Input(
                    "ella", tooltip="The ELLA connector from Load ELLA, the same one that encoded the prompts."
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, ella: connector.ELLA) -> io.NodeOutput:
        return io.NodeOutput(connector.apply(model, ella))


NODES = [LoadELLA, ELLATextEncode, ApplyELLA]
