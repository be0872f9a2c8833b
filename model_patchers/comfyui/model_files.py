"""Models on disk: all files of one model, and the quantized forms that ComfyUI's own loaders read.

ComfyUI keeps a quantized layer as its `weight` in few bits, the `weight_scale` to multiply it by, and `comfy_quant`, a
JSON text that names the form. Older files of ComfyUI hold `scale_weight`, and `scaled_fp8` once for the whole network;
others state the forms in the header of the file. `read_model` brings all of them into the first form.
"""

import json
import re
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from .weights import read_state_dict

SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\..+)")
LISTED = 3  # names in a message, at most
MARK, SCALE, INPUT_SCALE = "comfy_quant", "weight_scale", "input_scale"
PARTS = (MARK, SCALE, INPUT_SCALE, "weight_scale_2", "pre_quant_scale")  # of a quantized layer, beside weight and bias
OLD_NAMES = {"scale_weight": SCALE, "scale_input": INPUT_SCALE}
OLD_MARK = "scaled_fp8"
FP8 = {  # ComfyUI's names of the forms that a scale alone turns into numbers
    torch.float8_e4m3fn: "float8_e4m3fn",
    torch.float8_e5m2: "float8_e5m2",
}
FLOAT8 = {*FP8, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}


def shards(path: str | Path) -> list[Path]:
    """All files of a model of which `path` is one file; [path] if the model has a single file.

    Raises:
        ValueError: Files are missing.
    """
    path = Path(path)
    match = SHARD.fullmatch(path.name)
    if not match:
        return [path]
    start, number, count, suffix = match.groups()
    if not 1 <= int(number) <= int(count):
        return [path]
    names = [f"{start}{i:05}-of-{count}{suffix}" for i in range(1, int(count) + 1)]
    present = {file.name for file in path.parent.iterdir()}
    if missing := [name for name in names if name not in present]:
        more = f" and {len(missing) - LISTED} more of them" if len(missing) > LISTED else ""
        raise ValueError(
            f"'{path.name}' is one of {int(count)} files of a model, and its folder has no "
            f"{' and no '.join(repr(name) for name in missing[:LISTED])}{more}. Put all of them in one folder and "
            "choose the first."
        )
    return [path.with_name(name) for name in names]


def versions(path: str | Path) -> str:
    """The times and sizes of all files of a model: another text once one of them was replaced.

    Raises:
        ValueError: Files are missing, as `shards` says.
        FileNotFoundError: The file itself is missing.
    """
    return " ".join(f"{stat.st_mtime_ns}:{stat.st_size}" for stat in (file.stat() for file in shards(path)))


def read_model(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a model, from all of its files, with quantized layers in ComfyUI's form.

    Args:
        path: Of the model's only file, or of one of several files in the same folder.

    Raises:
        ValueError: As of read_state_dict, or a file of several is missing, or the statement of a form is unreadable.
    """
    weights: dict[str, Tensor] = {}
    marks: dict[str, Tensor] = {}
    for file in shards(path):
        weights |= read_state_dict(file)
        marks |= _stated_forms(file)
    return _in_new_form(weights | marks)


def _stated_forms(path: Path) -> dict[str, Tensor]:
    """The marks that ComfyUI's header of a safetensors file states for its layers."""
    with path.open("rb") as file:
        if file.read(9)[8:] != b"{":
            return {}
    with safetensors.safe_open(path, "pt") as file:
        statement = (file.metadata() or {}).get("_quantization_metadata")
    if statement is None:
        return {}
    try:
        return {f"{layer}.{MARK}": _mark(form) for layer, form in json.loads(statement)["layers"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(
            f"'{path.name}' is damaged: its header states how its layers are quantized, and the statement is "
            "unreadable. Download it again."
        ) from None


def _mark(form: dict) -> Tensor:
    return torch.tensor(list(json.dumps(form).encode()), dtype=torch.uint8)


def _in_new_form(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scaled fp8 of any age in ComfyUI's new form: layers with a scale get a mark, unless they have one."""
    old = [value for key, value in weights.items() if _part(key) == OLD_MARK]
    exact = {"full_precision_matrix_mult": True} if any(mark.numel() == 2 for mark in old) else {}
    new = {}
    for key, value in weights.items():
        layer, part = _layer(key), _part(key)
        part = OLD_NAMES.get(part, part) if f"{layer}.weight" in weights else part
        if part == OLD_MARK or (part == INPUT_SCALE and value.numel() == 1 and bool(value == 1)):  # 1: not measured
            continue
        new[f"{layer}.{part}" if layer else part] = value
        form = FP8.get(weights[f"{layer}.weight"].dtype) if part == SCALE and f"{layer}.weight" in weights else None
        if form and f"{layer}.{MARK}" not in weights:
            new[f"{layer}.{MARK}"] = _mark({"format": form, **exact})
    return new


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _part(key: str) -> str:
    return key.rpartition(".")[2]


def forms(weights: dict[str, Tensor]) -> dict[str, str]:
    """{layer: ComfyUI's name of its form} of the quantized layers, of weights from read_model."""
    marks = {_layer(key): value for key, value in weights.items() if _part(key) == MARK}
    return {layer: _form(mark) for layer, mark in marks.items() if f"{layer}.weight" in weights}


def scaled_fp8(weights: dict[str, Tensor]) -> set[str]:
    """The layers whose weight is fp8 numbers and a scale, of weights from read_model."""
    names = FP8.values()
    return {
        layer for layer, form in forms(weights).items() if form in names and weights[f"{layer}.weight"].dtype in FP8
    }


def _form(mark: Tensor) -> str:
    try:
        return str(json.loads(bytes(mark.flatten().tolist()))["format"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return "an unknown form"


def dequantized(
    weights: dict[str, Tensor], file: str, dtype: torch.dtype = torch.float32, layers: set[str] | None = None
) -> dict[str, Tensor]:
    """The weights in numbers of at least 16 bits: W = scale * W8 for scaled fp8, the same value for plain fp8.

    Args:
        weights: From read_model, or some of them.
        file: The file's name, for messages.
        dtype: Of the weights that have a scale. Plain fp8 becomes float16, which holds each of its values.
        layers: The quantized layers to change; the others, and plain fp8, stay as they are. None: all.

    Raises:
        ValueError: A layer is quantized in another form than fp8, or its scale does not fit.
    """
    quantized, scaled = forms(weights), scaled_fp8(weights)
    changed = quantized.keys() if layers is None else layers & quantized.keys()
    result = {}
    for key, value in weights.items():
        layer, part = _layer(key), _part(key)
        if layer in changed and part in PARTS:
            continue
        if layer in changed and part == "weight":
            if layer not in scaled:
                raise ValueError(
                    f"'{file}' is quantized as {quantized[layer]}, which this node cannot load: '{key}' for example. "
                    "Choose the model in fp32, fp16, bf16 or fp8."
                )
            value = (value.float() * scale(weights, layer, file)).to(dtype)
        elif layers is None and value.dtype in FLOAT8:
            value = value.to(torch.float16)
        result[key] = value
    return result


def scale(weights: dict[str, Tensor], layer: str, file: str) -> Tensor:
    """What to multiply a layer's fp8 weight by: one number, or one for each row, (out, 1, ...); 1 without a scale.

    Raises:
        ValueError: It is neither.
    """
    weight = weights[f"{layer}.weight"]
    value = weights.get(f"{layer}.{SCALE}", torch.ones(()))
    rows = len(weight) if weight.ndim else 1
    if not value.is_floating_point() or value.numel() not in (1, rows):
        raise ValueError(
            f"'{file}' does not fit together: '{layer}.{SCALE}' is {tuple(value.shape)}, and needs to be one number "
            f"or one for each of the {rows} rows of '{layer}.weight'. Download the file again."
        )
    return value.float().reshape(-1, *[1] * (weight.ndim - 1)) if value.numel() > 1 else value.float().reshape(())


def widest(weights: dict[str, Tensor]) -> torch.dtype:
    """The dtype that holds every floating-point value of the weights, float32 at most; float32 if there is none."""
    types = {value.dtype for value in weights.values() if value.is_floating_point()}
    dtype = next(iter(types), torch.float32)
    for other in types:
        dtype = torch.promote_types(dtype, other)
    return torch.float32 if dtype == torch.float64 else dtype
