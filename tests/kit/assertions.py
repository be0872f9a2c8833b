"""How far two results are apart, and whether something was changed."""

import torch


def relative_error(ours, theirs, where=None):
    """The largest difference (`where` alone, if given), relative to the reference's largest value."""
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs()
    if where is not None:
        difference = difference[where.expand_as(difference)]
    return float(difference.max() / theirs.abs().max())


def state(model):
    """All that a patch could leave behind in a model: its tensors, and what is on its patcher."""
    tensors = dict(model.model.named_parameters()) | dict(model.model.named_buffers())
    rest = model.model_options, model.object_patches, model.patches, model.wrappers, model.callbacks
    return {name: tensor.clone() for name, tensor in tensors.items()}, repr(rest)


def same_state(before, after):
    (tensors, rest), (others, rest_after) = before, after
    return (
        rest == rest_after
        and tensors.keys() == others.keys()
        and all(map(torch.equal, tensors.values(), others.values()))
    )
