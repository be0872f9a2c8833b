"""A loader gives None for what its file does not have: every node says so by the input's name."""

import pytest

from kit.nodes import node_classes

REQUIRED = [(cls, entry) for cls in node_classes().values() for entry in cls.GET_SCHEMA().inputs if not entry.optional]
TIPS = {
    "MODEL": "The file has no diffusion model. Load one with Load",
    "CLIP": "The checkpoint has no text encoder. Load one with Load CLIP",
    "VAE": "The checkpoint has no VAE. Load one with Load VAE.",
    "CLIP_VISION": "The checkpoint has no CLIP vision model. Load one with Load CLIP Vision.",
}


@pytest.mark.parametrize("cls, entry", REQUIRED, ids=lambda value: getattr(value, "id", None) or value.__name__)
def test_an_empty_input_is_named(cls, entry):
    sentence = f"{cls.GET_SCHEMA().display_name}: {entry.id} is empty. The node that is connected to it gives nothing."
    with pytest.raises(ValueError) as error:
        cls.execute(**{entry.id: None})
    assert str(error.value).startswith(sentence)
    assert TIPS.get(entry.get_io_type(), "Connect another") in str(error.value)


def test_the_types_of_the_tips_are_in_the_pack():
    assert TIPS.keys() <= {entry.get_io_type() for _, entry in REQUIRED}
