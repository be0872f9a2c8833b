"""No node writes to its inputs: ComfyUI hands the same objects to other nodes and keeps them for the next run."""

import pytest
import torch
from comfy_api.latest import io

from kit.nodes import node_classes, run_node
from kit.toy_network import patcher

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = node_classes()
WIDGETS = (io.String.Input, io.Int.Input, io.Float.Input, io.Boolean.Input, io.Combo.Input)
TAKING_MORE = [
    node_id
    for node_id, cls in CLASSES.items()
    if not all(isinstance(entry, WIDGETS) for entry in cls.GET_SCHEMA().inputs)
]


@pytest.mark.parametrize("node_id", TAKING_MORE)
def test_no_input_is_written_to(node_id, node_inputs):
    run_node(CLASSES[node_id], **node_inputs.of(node_id))


WRITES = {
    "to a tensor": lambda latent, model: latent["samples"].add_(1),
    "to a dict": lambda latent, model: latent.update(noise_mask=None),
    "to a model's wrappers": lambda latent, model: model.add_wrapper_with_key("kind", "key", print),
    "to a model's options": lambda latent, model: model.model_options["transformer_options"].update(patches={}),
    "to a model's weights": lambda latent, model: model.model.diffusion_model.bias.add_(1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_written_is_noticed(write):
    class Writing:
        @classmethod
        def GET_SCHEMA(cls):
            return io.Schema("Writing", "Writing", inputs=[io.Latent.Input("latent"), io.Model.Input("model")])

        @classmethod
        def execute(cls, latent, model):
            write(latent, model)
            return io.NodeOutput()

    latent, model = {"samples": torch.full((1, 4), float("nan"))}, patcher(torch.nn.Linear(2, 2))
    latent["samples"][0, 0] = 0
    with pytest.raises(AssertionError, match="Writing wrote to (latent|model)$"):
        run_node(Writing, latent=latent, model=model)
