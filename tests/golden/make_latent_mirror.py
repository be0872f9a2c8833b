"""Makes latent_mirror.npz with dfaker's script for A1111: what it makes of a model's input.

    python tests/golden/make_latent_mirror.py FILE

in the tests' environment, with scripts/latent_mirroring.py of github.com/dfaker/SD-latent-mirroring (05df9e8, without a
licence) as FILE. A1111's modules and gradio are empty stand-ins here.

`x` is (2, 4, 6, 6). `styles` (S,) are our names of its styles, `pans` (P, 2) in x and y. `alternate` and `blend`
(S, P, 2, 4, 6, 6) are its two modes. `calls` (F, N) says for the fractions `fractions` (F,) at which of
N steps it acts.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

HERE = Path(__file__).parent
STYLES = ["left-right", "up-down", "both", "quarter turn", "half turn", "channels", "none"]  # in its order
PANS = [(0.0, 0.0), (0.4, 0.0), (-0.3, 0.4)]
FRACTIONS, STEPS = [0.0, 0.25, 0.3, 1.0], 10


def script(path: str) -> object:
    for name in ("gradio", "modules", "modules.scripts", "modules.script_callbacks", "modules.processing"):
        sys.modules[name] = ModuleType(name)
    sys.modules["modules.scripts"].Script = object
    sys.modules["modules.script_callbacks"].on_cfg_denoiser = None
    for name in ("scripts", "processing"):
        setattr(sys.modules["modules"], name, sys.modules[f"modules.{name}"])
    spec = importlib.util.spec_from_file_location("latent_mirroring", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.Script()
    found.is_hires, found.enable_hr, found.run_callback = False, False, True
    return found


def main(path: str) -> None:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(5))
    theirs = script(path)

    def changed(mode: int, style: int, pan: tuple[float, float], fraction: float = 1.0, step: int = 0) -> torch.Tensor:
        theirs.mirror_mode, theirs.mirror_style = mode, style
        (theirs.x_pan, theirs.y_pan), theirs.mirroring_max_step_fraction = pan, fraction
        params = SimpleNamespace(x=x.clone(), sampling_step=step, total_sampling_steps=STEPS)
        theirs.denoise_callback(params)
        return params.x

    def table(mode: int) -> torch.Tensor:
        return torch.stack([torch.stack([changed(mode, s, pan) for pan in PANS]) for s in range(len(STYLES))])

    calls = [[not torch.equal(changed(1, 0, PANS[0], f, i), x) for i in range(STEPS)] for f in FRACTIONS]
    np.savez_compressed(
        HERE / "latent_mirror.npz",
        x=x,
        styles=np.array(STYLES),
        pans=np.array(PANS),
        alternate=table(1),
        blend=table(2),
        fractions=np.array(FRACTIONS),
        calls=np.array(calls),
    )


if __name__ == "__main__":
    main(sys.argv[1])
