"""Inspect Model: which kind of model one holds."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from server import PromptServer

from ...model_patchers.condition.inspect_model import report


class InspectModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoInspectModel",
            display_name="Inspect Model",
            category="Pentimento/condition",
            description="Tells what a model is: its kind, what it wants concatenated and at which scale, what it "
            "predicts, and which nodes fit it. Told from its weights and patches, whatever its file is called.",
            search_aliases=["model info", "model type", "channels", "what model is this", "expected input to have"],
            inputs=[io.Model.Input("model", tooltip="The model as the sampler gets it: with its LoRAs and patches.")],
            outputs=[
                io.String.Output(display_name="report"),
                io.String.Output(display_name="kind"),
                io.Int.Output(display_name="in_channels"),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,  # so that it can be run alone
        )

    @classmethod
    def execute(cls, model: ModelPatcher) -> io.NodeOutput:
        text, kind = report(model)
        if cls.hidden:
            PromptServer.instance.send_progress_text(text, cls.hidden.unique_id)  # the front end shows it on the node
        return io.NodeOutput(text, kind.name, kind.in_channels)


NODES = [InspectModel]
