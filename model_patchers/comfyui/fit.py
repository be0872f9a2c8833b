"""Whether the tensors of a file are those of a network: names, shapes, kinds of numbers, and no NaN."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

FLOAT_NAMES = "floating-point numbers (fp32, fp16, bf16 or fp8)"


def is_counter(key: str) -> bool:
    """Whether a tensor counts training steps: nothing reads it, and some converters drop it."""
    return key.endswith("num_batches_tracked")


@contextmanager
def sizes_of(file: str, what: str) -> Iterator[None]:
    """Around code that reads sizes off the tensors of a file and raises ValueError: "it lacks 'a.weight'".

    Raises:
        ValueError: The same, with the file's name.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"'{file}' is no whole {what}: {error}. Download it again.") from None


def check(
    weights: Mapping[str, Tensor],
    network: Mapping[str, Tensor],
    file: str,
    what: str,
    needed: str = "",
    unused: str = "(?!)",
) -> None:
    """Refuses weights that are not those of a network.

    Args:
        weights: Of the file, under the network's names.
        network: The network's own state dict, which may be on the device meta.
        file: The name to use in messages.
        what: The network's name, such as "SAM", for messages.
        needed: A sentence that says which file to choose, for messages.
        unused: A regular expression of names that files have and the network does not read; by default of none.

    Raises:
        ValueError: Tensors are missing, left over, or have other shapes or kinds of numbers; or values are NaN or
            infinite.
    """
    if missing := [key for key in network if key not in weights and not is_counter(key)]:
        raise ValueError(
            f"'{file}' is an incomplete {what}: it lacks {len(missing)} tensors such as '{missing[0]}'. Download it "
            "again; if it is one file of several, keep their names (...-00001-of-00002.safetensors)."
        )
    if extra := [key for key in weights if key not in network and not re.match(unused, key)]:
        raise ValueError(
            f"'{file}' is a {what} with {len(extra)} tensors that {what} does not have, such as '{extra[0]}'. {needed}"
        )
    read = {key: value for key, value in weights.items() if key in network and not is_counter(key)}
    check_shapes(read, network, file, what)
    check_numbers({key: value for key, value in read.items() if network[key].is_floating_point()}, file)


def check_shapes(weights: Mapping[str, Tensor], network: Mapping[str, Tensor], file: str, what: str) -> None:
    """Refuses tensors of other shapes than the network's.

    Raises:
        ValueError: A shape differs.
    """
    wrong = [key for key, value in weights.items() if value.shape != network[key].shape]
    if wrong:
        key = wrong[0]
        others = f" {len(wrong) - 1} more of its tensors do not fit either." if len(wrong) > 1 else ""
        raise ValueError(
            f"'{file}' does not fit together: its '{key}' is {tuple(weights[key].shape)}, and the other sizes of this "
            f"{what} need {tuple(network[key].shape)}.{others} It is damaged, or was converted wrongly. Download it "
            "again."
        )


def check_numbers(weights: Mapping[str, Tensor], file: str) -> None:
    """Refuses tensors that are not of finite floating-point numbers.

    Raises:
        ValueError: A tensor holds whole, complex or logical values, NaN or infinity.
    """
    for key, value in weights.items():
        if not value.is_floating_point():
            name = str(value.dtype).removeprefix("torch.")
            raise ValueError(
                f"'{file}' holds '{key}' as {name}, and needs {FLOAT_NAMES} there. It may be quantized in a form that "
                "is not known here. Choose the model in one of these."
            )
    spoilt = {key: count for key, value in weights.items() if (count := not_finite(value))}
    if spoilt:
        key, count = next(iter(spoilt.items()))
        raise ValueError(
            f"'{file}' is damaged: {len(spoilt)} of its tensors hold NaN or infinity, such as '{key}' ({count:,} of "
            f"{weights[key].numel():,} values). Download it again, or make it again if you merged or trained it."
        )


def not_finite(value: Tensor) -> int:
    """How many values are NaN or infinite. The sum tells whether there are any; it is fast, and may itself overflow."""
    value = value.to(torch.float16) if value.dtype.itemsize == 1 else value
    return 0 if value.sum().isfinite() else int((~value.isfinite()).sum())
