"""How a patch is attached to a model: under a key of its own, so that applying it twice is applying it once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor

from .conditioning import Cond


def attach(
    model: ModelPatcher,
    key: str,
    wrappers: Mapping[str, Callable] | None = None,
    callbacks: Mapping[str, Callable] | None = None,
    models: Sequence[ModelPatcher] = (),
) -> ModelPatcher:
    """A clone of the model with functions under `key`, which replace all that the model had under that key.

    Args:
        wrappers: {one of WrappersMP: function}.
        callbacks: {one of CallbacksMP: function}.
        models: Loaded with the model whenever it is sampled.
    """
    model = detach(model, key)
    for kind, wrapper in (wrappers or {}).items():
        model.add_wrapper_with_key(kind, key, wrapper)
    for kind, callback in (callbacks or {}).items():
        model.add_callback_with_key(kind, key, callback)
    if models:
        model.set_additional_models(key, list(models))
    return model


def detach(model: ModelPatcher, key: str) -> ModelPatcher:
    """A clone of the model without the functions and models under `key`."""
    model = model.clone()
    for kind in model.wrappers:
        model.remove_wrappers_with_key(kind, key)
    for kind in model.callbacks:
        model.remove_callbacks_with_key(kind, key)
    model.remove_additional_models(key)
    return model


def chain(model: ModelPatcher, slot: str, key: str, function: Callable) -> ModelPatcher:
    """A clone of the model with a function in a slot of its options that holds a single one.

    Args:
        slot: The option's name, such as "denoise_mask_function".
        key: The patch's own. A function that the slot holds under the same key is replaced.
        function: (earlier, *args, **kwargs). `earlier` is the function that the slot held before, or None. The
            function must call it.
    """
    model = model.clone()
    earlier = model.model_options.get(slot)
    if isinstance(earlier, Chained) and earlier.key == key:
        earlier = earlier.earlier
    model.model_options[slot] = Chained(key, function, earlier)
    return model


def first_after_guidance(model: ModelPatcher, key: str, function: Callable[[dict[str, Any]], Tensor]) -> ModelPatcher:
    """A clone of the model with a function that changes the guided prediction before all other post-CFG functions.

    ComfyUI calls post-CFG functions in the order in which they were added. This one comes before those that the model
    has and those that it gets later, so the order of the nodes does not matter. One under the same key is replaced.

    Args:
        function: As of `set_model_sampler_post_cfg_function`.
    """
    model = model.clone()
    others = model.model_options.get("sampler_post_cfg_function", [])
    others = [other for other in others if not (isinstance(other, Keyed) and other.key == key)]
    model.model_options["sampler_post_cfg_function"] = [Keyed(key, function), *others]
    return model


class Keyed(NamedTuple):
    """A post-CFG function of `first_after_guidance`, as it stands among the others."""

    key: str
    function: Callable[[dict[str, Any]], Tensor]

    def __call__(self, args: dict[str, Any]) -> Tensor:
        return self.function(args)


class Chained(NamedTuple):
    """A function of `chain`, as it stands in the slot."""

    key: str
    function: Callable
    earlier: Callable | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.earlier, *args, **kwargs)


class Call(NamedTuple):
    """The arguments of a wrapper of CALC_COND_BATCH: `Call(*args)`.

    Attributes:
        executor: The wrappers that come after this one, and ComfyUI's own calculation.
        model: The model that samples.
        conds: As process_conds made them, a list for each prompt; None for a prompt that is not computed.
        x: (B, C, H, W) or (B, C, T, H, W).
        sigma: (B,).
        options: The model options.
    """

    executor: WrapperExecutor
    model: BaseModel
    conds: list[list[Cond] | None]
    x: Tensor
    sigma: Tensor
    options: dict[str, Any]

    def run(self, **changes: Any) -> list[Tensor]:
        """Calls the next wrapper, with `changes` in place of these arguments: a tensor like x for each prompt."""
        executor, *args = self._replace(**changes)
        return executor(*args)
