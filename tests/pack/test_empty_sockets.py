"""A loader gives None for what its file does not have: every node says so by the input's name."""

import pytest

from kit.nodes import node_classes

INPUTS = [(cls, entry) for cls in node_classes().values() for entry in cls.GET_SCHEMA().inputs]
TIPS = {
    "MODEL": "The file has no diffusion model. Load one with Load",
    "CLIP": "The checkpoint has no text encoder. Load one with Load CLIP",
    "VAE": "The checkpoint has no VAE. Load one with Load VAE.",
    "CLIP_VISION": "The checkpoint has no CLIP vision model. Load one with Load CLIP Vision.",
}
REQUIRED = [(cls, entry) for cls, entry in INPUTS if not entry.optional]
PARTS = [(cls, entry) for cls, entry in INPUTS if entry.optional and entry.get_io_type() in TIPS]


@pytest.mark.parametrize("cls, entry", REQUIRED, ids=lambda value: getattr(value, "id", None) or value.__name__)
def test_an_empty_input_is_named(cls, entry):
    sentence = f"{cls.GET_SCHEMA().display_name}: {entry.id} is empty. The node that is connected to it gives nothing."
    with pytest.raises(ValueError) as error:
        cls.execute(**{entry.id: None})
    assert str(error.value).startswith(sentence)
    assert TIPS.get(entry.get_io_type(), "Connect another") in str(error.value)


@pytest.mark.parametrize("cls, entry", PARTS, ids=lambda value: getattr(value, "id", None) or value.__name__)
def test_a_part_that_a_checkpoint_lacks_is_not_taken_for_an_unconnected_input(cls, entry):
    with pytest.raises(ValueError, match=rf"{entry.id} is empty\..*Or disconnect {entry.id}\."):
        cls.execute(**{entry.id: None})


def test_the_types_of_the_tips_are_in_the_pack():
    assert TIPS.keys() <= {entry.get_io_type() for _, entry in REQUIRED}
