"""Every node's masks: values outside 0 ... 1, NaN, and the haze that files leave on opaque pixels."""

from dataclasses import is_dataclass

import pytest
import torch
from comfy_api.latest import Input

from kit.assertions import Bits
from kit.nodes import node_classes, run_node
from kit.tensors import rand

MASKS = [
    (node, entry.id)
    for node, cls in node_classes().items()
    for entry in cls.GET_SCHEMA().inputs
    if "MASK" in entry.get_io_type().split(",")
]
WHERE = [
    (node, name)
    for node, name in MASKS
    if (node, name)
    not in {
        ("PentimentoChangeMap", "source"),
        ("PentimentoDifferentialImg2Img", "change_map"),
        ("PentimentoTuneMask", "mask"),
    }
]  # masks that say where; the others are maps that say how much, and a mask that is only changed


def bits(value):
    """The bits of all tensors in a node's results, and the numbers of boxes."""
    if isinstance(value, torch.Tensor):
        return [Bits(value)]
    if isinstance(value, int):
        return [value]
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Input.Video):
        return [Bits(value.get_components().images)]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [bit for each in values for bit in bits(each)]


def test_the_nodes_that_take_masks_are_found():
    assert len(MASKS) >= 7 and len(WHERE) == len(MASKS) - 3


def soft(node_inputs, node):
    """A soft mask of the size of the node's pictures, with an empty border."""
    pictures = [value for value in node_inputs.of(node).values() if isinstance(value, torch.Tensor)]
    height, width = pictures[0].shape[1:3]
    mask = torch.zeros(1, height, width)
    mask[:, 4:-4, 5:-5] = rand(1, height - 8, width - 10, seed=4)
    return mask


@pytest.mark.parametrize(("node", "name"), MASKS)
def test_a_mask_outside_0_and_1_is_clamped_and_nan_is_0(node, name, node_inputs):
    """ComfyUI's bicubic resize of a mask goes from -0.12 to 1.23."""
    mask = soft(node_inputs, node) * 1.35 - 0.12
    mask[:, 4, 5], mask[:, 4, 6], mask[:, 3, 5] = torch.nan, torch.inf, -torch.inf
    cls, inputs, clamped = node_classes()[node], node_inputs.of(node), mask.nan_to_num(0).clamp(0, 1)
    wild, tame = (bits(run_node(cls, **inputs | {name: each})) for each in (mask, clamped))
    assert wild and wild == tame


@pytest.mark.parametrize(("node", "name"), WHERE)
def test_the_haze_of_a_file_selects_nothing(node, name, node_inputs):
    """Load Image makes 1/256 of the opaque pixels of an LA PNG or a CMYK JPEG."""
    haze = torch.full_like(soft(node_inputs, node), 1 / 256)
    inputs = node_inputs.of(node)
    if node == "PentimentoICLightConditioning":
        with pytest.raises(ValueError, match="foreground_mask selects nothing"):
            run_node(node_classes()[node], **inputs | {name: haze})
    elif node == "PentimentoKeyFrame":
        with pytest.raises(ValueError, match="mask selects nothing"):
            run_node(node_classes()[node], **inputs | {name: haze})
    elif node == "PentimentoRegionalPrompt":
        with pytest.raises(ValueError, match="Mask 1 of masks selects nothing"):
            run_node(node_classes()[node], **inputs | {name: haze})
    elif node == "PentimentoSAMSegment":
        prompts = {"positive_coords": "", "bboxes": None}
        with pytest.raises(ValueError, match="There is nothing to segment by"):
            run_node(node_classes()[node], **inputs | prompts | {name: haze})
    elif node == "PentimentoRemoveFromVideo":
        assert run_node(node_classes()[node], **inputs | {name: haze})[0] is inputs["video"]
    elif node == "PentimentoMaskToBoxes":
        assert run_node(node_classes()[node], **inputs | {name: haze}) == ([[]],)
    elif node == "PentimentoCropToMask":
        assert run_node(node_classes()[node], **inputs | {name: haze})[2].boxes == [(0, 0, 72, 64)]
    else:
        picture = inputs.get("image", inputs.get("images"))
        assert torch.equal(run_node(node_classes()[node], **inputs | {name: haze})[0], picture)
