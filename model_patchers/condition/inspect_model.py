"""The report of Inspect Model: what a model is and which inputs it takes."""

from typing import Any

from comfy.model_patcher import ModelPatcher

from ..comfyui.kinds import Kind, identify


def report(model: ModelPatcher) -> tuple[str, Kind]:
    """The report, one line for each fact, and the model's kind."""
    kind = identify(model)
    latent = model.model.latent_format
    sampling = model.get_model_object("model_sampling")
    facts = {
        "Kind": kind.title[0].upper() + kind.title[1:],
        "Channels in": _channels(kind, latent.latent_channels),
        "Scale of what is concatenated": kind.scale,
        "Global conditioning": kind.vector or ("none" if kind.name != "other" else ""),
        "Prediction": kind.prediction,
        "Noise levels": f"sigma {float(sampling.sigma_min):.4g} to {float(sampling.sigma_max):.4g}",
        "Latent": f"{latent.latent_channels} channels, x {latent.scale_factor:.6g} inside the model",
        "Patches": _patches(model),
        "Nodes for it": ", ".join(kind.nodes) or "none in Pentimento/condition",
        "Note": kind.note,
    }
    return "\n".join(f"{name}: {fact}" for name, fact in facts.items() if fact), kind


def _channels(kind: Kind, latent: int) -> str:
    if not kind.in_channels:
        return "not known here"
    if not kind.concatenated:
        return str(kind.in_channels)
    return f"{kind.in_channels} = the noisy latent ({latent}), {kind.concatenated}"


def _patches(model: ModelPatcher) -> str:
    functions = _functions(model.model_options) + _functions(model.wrappers) + _functions(model.callbacks)
    return (
        f"weights changed (LoRA and the like) {len(model.patches)}, parts replaced {len(model.object_patches)}, "
        f"functions added to sampling {functions}"
    )


def _functions(options: Any) -> int:
    """How many functions there are in nested dicts and lists."""
    if isinstance(options, dict):
        return sum(map(_functions, options.values()))
    if isinstance(options, list):
        return sum(map(_functions, options))
    return int(callable(options))
