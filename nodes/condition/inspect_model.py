"""Inspect Model: a report about a model."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.condition import inspect_model


class InspectModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoInspectModel",
            display_name="Inspect Model",
            category="Pentimento/condition",
            description="Reports the kind of a model, its input channels, the channels that are concatenated to the "
            "latent and their scale, the type of prediction, and the nodes that work with the model. The kind is "
            "detected from the weights and patches, not from the file name.",
            search_aliases=["model info", "model type", "channels", "what model is this", "expected input to have"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to inspect, with its LoRAs and patches, as the sampler gets it."
                )
            ],
            outputs=[
                io.String.Output(display_name="report"),
                io.String.Output(display_name="kind"),
                io.Int.Output(display_name="in_channels"),
            ],
            is_output_node=True,  # so that it can be run alone
        )

    @classmethod
    def execute(cls, model: ModelPatcher) -> io.NodeOutput:
        text, kind = inspect_model.report(model)
        return io.NodeOutput(text, kind.name, kind.in_channels, ui={"text": [text]})


NODES = [InspectModel]
