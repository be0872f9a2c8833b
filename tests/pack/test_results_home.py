"""Every picture, mask and latent that leaves a node goes where ComfyUI keeps results."""

from types import SimpleNamespace

import pytest
import torch

from kit.nodes import node_classes, run_node
from pentimento.model_patchers.comfyui import results

pytestmark = pytest.mark.usefixtures("one_thread")
TENSORS = {"IMAGE", "MASK", "LATENT", "PENTIMENTO_CROPS"}
CLASSES = {
    node_id: cls
    for node_id, cls in node_classes().items()
    if any(output.get_io_type() in TENSORS for output in cls.GET_SCHEMA().outputs)
}


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [value["samples"]]
    if isinstance(value, (int, float)):
        return []  # of a box in the crops
    return [tensor for each in value for tensor in tensors(each)]  # a list output


@pytest.mark.parametrize("node_id", CLASSES)
def test_results_come_home(node_id, node_inputs, monkeypatch):
    inputs = node_inputs.of(node_id)
    home = torch.device("meta")  # a device where nothing else is
    monkeypatch.setattr(results, "model_management", SimpleNamespace(intermediate_device=lambda: home))
    cls = CLASSES[node_id]
    values = zip(cls.GET_SCHEMA().outputs, run_node(cls, **inputs), strict=True)
    moved = [tensor.device for output, value in values if output.get_io_type() in TENSORS for tensor in tensors(value)]
    assert moved and set(moved) == {home}
