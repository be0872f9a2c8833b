"""Attaching, detaching and chaining of patches, on a model of ComfyUI's without weights."""

import pytest
from comfy.patcher_extension import CallbacksMP, WrappersMP

from kit import kinds
from pentimento.model_patchers.comfyui.patching import Call, attach, chain, detach

KEY, SLOT = "pentimento_test", "denoise_mask_function"


@pytest.fixture
def model():
    return kinds.models()["sd15"].clone()


def on(model):
    """What stands on a model under KEY."""
    parts = model.wrappers, model.callbacks
    functions = [functions[KEY] for kinds in parts for functions in kinds.values() if KEY in functions]
    return functions, model.get_additional_models_with_key(KEY)


def first(*_):
    return "first"


def second(*_):
    return "second"


def test_attach_replaces_all_that_the_key_had(model):
    extra = kinds.models()["sd2"]
    once = attach(model, KEY, {WrappersMP.OUTER_SAMPLE: first}, {CallbacksMP.ON_CLEANUP: first}, [extra])
    assert on(once) == ([[first], [first]], [extra])
    assert on(model) == ([], [])
    other = attach(once, KEY, {WrappersMP.PREDICT_NOISE: second})
    assert on(other) == ([[second]], [])
    assert on(once) == ([[first], [first]], [extra])


def test_detach_leaves_other_keys(model):
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "other", second)
    patched = attach(model, KEY, {WrappersMP.OUTER_SAMPLE: first}, {CallbacksMP.ON_CLEANUP: first})
    assert on(detach(patched, KEY)) == ([], [])
    assert detach(patched, KEY).get_all_wrappers(WrappersMP.OUTER_SAMPLE) == [second]


def calling(name):
    return lambda earlier, text: f"{name}({earlier(text) if earlier else text})"


def test_chain_calls_what_the_slot_held_and_replaces_its_own(model):
    assert chain(model, SLOT, KEY, calling("a")).model_options[SLOT]("x") == "a(x)"
    model.model_options[SLOT] = lambda text: f"theirs({text})"
    once = chain(model, SLOT, KEY, calling("a"))
    assert once.model_options[SLOT]("x") == "a(theirs(x))"
    assert chain(once, SLOT, KEY, calling("b")).model_options[SLOT]("x") == "b(theirs(x))"
    assert chain(once, SLOT, "another", calling("b")).model_options[SLOT]("x") == "b(a(theirs(x)))"
    assert model.model_options[SLOT]("x") == "theirs(x)"


def test_a_call_goes_on_with_other_arguments():
    call = Call(lambda *args: args, "model", ["conds"], 1, 2, {})
    assert call.run() == ("model", ["conds"], 1, 2, {})
    assert call.run(x=5, conds=[None]) == ("model", [None], 5, 2, {})
    assert call.x == 1
