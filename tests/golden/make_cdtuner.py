"""Makes cdtuner.npz with the extension sd-webui-cd-tuner (hako-mikan, AGPL-3.0, commit e5d0914), none of whose code is
in this project.

    python tests/golden/make_cdtuner.py sd-webui-cd-tuner/scripts/cdtuner.py

in an environment with torch and packaging, where sd-webui-cd-tuner is a clone of
https://github.com/hako-mikan/sd-webui-cd-tuner. The web UI around it is replaced by empty objects, and its model by a
few small layers of the same names. The extension's own process_batch and callbacks change them.

`before_<name>` and `after_<name>` are the weights; `x` is a prediction, `<sd or xl>_x` the same after the callback.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import nn

SETTINGS = {"d1": 3.0, "d2": -4.5, "cont1": 2.0, "cont2": -1.5, "bri": 1.2, "col1": 0.7, "col2": -2.2, "col3": 3.1}
VAE = {"sat": 2.5, "sat2": -3.0}
STEPS = 20


def layers() -> nn.Module:
    """A model with the layers that the extension changes, and an upsampling and a shortcut that it leaves alone."""
    torch.manual_seed(3)
    model, convolution = nn.Module(), lambda: nn.Conv2d(2, 2, 3)
    model.model, model.first_stage_model = nn.Module(), nn.Module()
    model.model.diffusion_model = nn.Module()
    model.model.diffusion_model.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 8, 3)])])
    model.model.diffusion_model.out = nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3))
    nn.init.normal_(model.model.diffusion_model.out[0].weight)
    nn.init.normal_(model.model.diffusion_model.out[0].bias)
    decoder = model.first_stage_model.decoder = nn.Module()
    decoder.conv_in, decoder.conv_out, decoder.up = convolution(), convolution(), nn.ModuleList()
    for _ in range(4):
        level, block = nn.Module(), nn.Module()
        level.upsample, block.nin_shortcut = nn.Module(), convolution()
        level.upsample.conv, level.block = convolution(), nn.ModuleList([block])
        decoder.up.append(level)
    return model


def web_ui(model: nn.Module) -> None:
    """Puts empty modules in place of the web UI's."""
    kinds = {name: type(name, (), {}) for name in ("Button", "Accordion", "Checkbox")}
    gradio = {
        **kinds,
        "components": SimpleNamespace(FormComponent=type("FormComponent", (), {})),
        "__version__": "4.0.0",
    }
    networks = SimpleNamespace(parse_prompts=lambda prompts: (prompts, {}))
    options = {"cmd_opts": SimpleNamespace(ui_config_file=""), "sd_model": model}
    options["opts"] = SimpleNamespace(sd_model_checkpoint="model")
    callbacks = ("CFGDenoiserParams", "on_cfg_denoiser", "CFGDenoisedParams", "on_cfg_denoised")
    shared = ModuleType("modules.shared")
    vars(shared).update(options)
    contents = {
        "gradio": gradio,
        "PIL": {},
        "modules": {"scripts": SimpleNamespace(Script=object, AlwaysVisible=True)}
        | {"shared": shared, "extra_networks": networks}
        | {"devices": SimpleNamespace(device="cpu", dtype=torch.float32)},
        "modules.ui": {},
        "modules.script_callbacks": {name: MagicMock() for name in callbacks},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        sys.modules[name] = module
    sys.modules["modules.shared"] = shared
    sys.modules["modules"].ui = sys.modules["modules.ui"]


def main(path: str) -> None:
    model = layers()
    web_ui(model)
    spec = importlib.util.spec_from_file_location("cdtuner", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = {f"before_{name}": weight.detach().clone().numpy() for name, weight in model.named_parameters()}
    x = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(4))
    out["x"] = x.numpy().copy()
    for name in ("sd", "xl"):
        if name == "xl":
            model.conditioner = nn.Module()
        script = module.Script()
        p = SimpleNamespace(all_prompts=[""], enable_hr=False, extra_generation_params={}, refiner_switch_at=None)
        rest = {"hd1": 0, "hd2": 0, "scaling": False, "stop": -1, "stoph": -1, "ratios": "1,1", "cmode": "Horizontal"}
        script.process_batch(p, True, **SETTINGS, **rest, **VAE, colors="", fst=2, att=1, opts=[])
        script.denoiser_callback(SimpleNamespace(x=x.clone(), sampling_step=0))
        if name == "sd":
            out |= {f"after_{name}": weight.detach().clone().numpy() for name, weight in model.named_parameters()}
        for step in range(STEPS):
            moved = SimpleNamespace(x=x.clone(), sampling_step=step, total_sampling_steps=STEPS)
            script.denoised_callback(moved)
            if step == STEPS - 2:
                out[f"{name}_x"] = moved.x.numpy()
            else:
                assert torch.equal(moved.x, x)
        script.postprocess_batch(p)
    np.savez_compressed(Path(__file__).with_name("cdtuner.npz"), **out)


if __name__ == "__main__":
    main(sys.argv[1])
