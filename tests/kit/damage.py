"""Tensors that are not what a network needs, and the loaders that must say so."""

import torch


def misshapen(value):
    """(what was done, the result) for a tensor: other shapes with the same or about the same values."""
    if value.ndim > 1 and value.shape[0] != value.shape[1]:
        yield "transposed", value.transpose(0, 1)
    for i, size in enumerate(value.shape):
        yield f"dimension {i} one larger", torch.cat((value, value.narrow(i, 0, 1)), dim=i)
        yield f"dimension {i} one smaller", value.narrow(i, 0, size - 1)
    if value.ndim > 1:
        yield "flattened", value.flatten()
    if value.ndim:
        yield "one number", value.flatten()[0]
        yield "one dimension more", value[None]


def wrong_numbers(value):
    """(what was done, the result) for a tensor: the same shape with values of another kind."""
    for dtype in (torch.int64, torch.int8, torch.bool, torch.complex64):
        yield str(dtype).removeprefix("torch."), value.to(dtype)


def spoilt(value, number):
    """The tensor with a first value that is NaN or infinite."""
    value = value.clone()
    value.view(-1)[0] = number
    return value
