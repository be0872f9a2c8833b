"""Makes vectorscope.npz with the extension sd-webui-vectorscope-cc (Haoming, MIT, commit ff384b6, version 2.4.0).

    PYTHONPATH=sd-webui-vectorscope-cc python tests/golden/make_vectorscope.py

in an environment with torch, where sd-webui-vectorscope-cc is a clone of
https://github.com/Haoming02/sd-webui-vectorscope-cc. The web UI around it is replaced by empty objects: the extension's
own process_batch prepares the settings and its own cc_callback edits. Its noise comes from torch's global generator and
from `random`, so both are seeded for the step.

`x` and `denoised` go in; `<sd or xl>_<denoised or x>_<target>_<schedule>` comes out, at step STEP of STEPS.
"""

import sys
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch

STEP, STEPS, SEED = 3, 8, 11
SETTINGS = {"bri": 1.5, "con": -0.8, "sat": 1.4, "r": 0.7, "g": -1.1, "b": 2.3}
TARGETS = {
    "straight": "Straight",
    "straight abs": "Straight Abs.",
    "cross": "Cross",
    "cross abs": "Cross Abs.",
    "ones": "Ones",
    "normal": "N.Random",
    "uniform": "U.Random",
    "multi-res": "Multi-Res",
    "multi-res abs": "Multi-Res Abs.",
}
SCHEDULES = {"flat": "Flat", "cos": "Cos", "sin": "Sin", "1 - cos": "1 - Cos", "1 - sin": "1 - Sin"}
CASES = [
    *product(("sd", "xl"), ("denoised", "x"), TARGETS, ("flat",)),
    *product(("sd", "xl"), ("denoised",), ("straight",), list(SCHEDULES)[1:]),
]


def latents() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(2, 4, 9, 11, generator=generator) for name in ("x", "denoised")}


def web_ui() -> type:
    """Puts empty modules in place of the web UI's; the class that the extension hooks."""

    class KDiffusionSampler:
        def callback_state(self, d):
            return None

    contents = {
        "modules": {"scripts": SimpleNamespace(Script=object, AlwaysVisible=True)},
        "modules.sd_samplers_kdiffusion": {"KDiffusionSampler": KDiffusionSampler},
        "modules.script_callbacks": {"on_script_unloaded": MagicMock(), "on_ui_settings": MagicMock()},
        "modules.shared": {"opts": SimpleNamespace()},
        "gradio": {},
        **{f"lib_cc.{name}": None for name in ("settings", "colorpicker", "style", "xyz")},
    }
    for name, values in contents.items():
        module = MagicMock() if values is None else ModuleType(name)
        vars(module).update(values or {})
        sys.modules[name] = module
    return KDiffusionSampler


def main() -> None:
    sampler = web_ui()
    from lib_cc import callback
    from scripts.cc import VectorscopeCC

    callback.random = lambda: torch.rand(()).item()
    script, out = VectorscopeCC(), {name: value.numpy() for name, value in latents().items()}
    for model, mode, target, schedule in CASES:
        p = SimpleNamespace(steps=STEPS, sd_model=SimpleNamespace(is_sdxl=model == "xl"), extra_generation_params={})
        more = {"doHR": False, "doAD": False, "doRN": False, "batch_number": 0, "prompts": [""], "subseeds": [0]}
        more |= {"method": TARGETS[target], "scaling": SCHEDULES[schedule], "seeds": [0]}
        script.process_batch(p, enable=True, latent=mode == "x", **SETTINGS, **more)
        torch.manual_seed(int(np.random.SeedSequence((SEED, STEP)).generate_state(1, np.uint64)[0]))
        d = {**latents(), "i": STEP}
        instance = sampler()
        instance.p = p
        sampler.callback_state(instance, d)
        out[f"{model}_{mode}_{target}_{schedule}"] = d[mode].numpy()
    np.savez_compressed(Path(__file__).with_name("vectorscope.npz"), **out)


if __name__ == "__main__":
    main()
