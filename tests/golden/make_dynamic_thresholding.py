"""Makes dynamic_thresholding.npz with sd-dynamic-thresholding's DynThresh and its node for ComfyUI.

    python tests/golden/make_dynamic_thresholding.py FOLDER

in the tests' environment, with github.com/mcmonkeyprojects/sd-dynamic-thresholding (73e4e04, MIT) in FOLDER.

`cond` and `uncond` are (2, 4, 6, 5). `rules` (R, 5) are percentile, separate, startpoint, measure, phi, the middle
three as indices. `single` (R, 2, 4, 6, 5) are the results at scale 20 mimicking 7 for each picture alone, `batch` those
for both at once. `scales` (12, S, F) are scales of the twelve modes at the steps `steps` (F,) of 999, for the settings
`settings` (S, 3): scale, lowest scale, the schedule's value. `runs` (N, 1, 4, 8, 8) are whole runs in ComfyUI by the
node, with RUNS. "fp16 errors" and "bf16 errors" (N,) say how far they are from these where the network computes so.
"""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CFG, MIMIC, STEPS = 20.0, 7.0, 6
STARTPOINTS, MEASURES = ["MEAN", "ZERO"], ["AD", "STD"]
RULES = [*itertools.product((1.0, 0.93, 0.0), (1, 0), (0, 1), (0, 1), (1.0, 0.7))]
SETTINGS = [(20.0, 3.0, 1.0), (7.0, 0.0, 2.5), (4.0, 5.0, 0.25)]
AT = [0, 1, 130, 499, 500, 777, 998, 999]
RUNS = [  # (mimic_mode, mimic_scale_min, cfg_mode, cfg_scale_min, sched_val, sampler)
    ("Constant", 0.0, "Constant", 0.0, 1.0, "euler"),
    ("Half Cosine Up", 3.0, "Linear Down", 4.0, 1.0, "euler"),
    ("Power Up", 1.0, "Cosine Repeating", 2.0, 3.0, "dpmpp_2m"),
    ("Sawtooth", 2.0, "Power Down", 2.0, 0.5, "heun"),
]


def main(folder: str) -> None:
    sys.path.insert(0, str(HERE.parent))
    import conftest  # noqa: F401  puts ComfyUI on sys.path
    import torch

    from kit import toy_network
    from kit.precision import HALVES, PRECISIONS
    from kit.tensors import randn

    sys.path.insert(0, str(Path(folder).parent))
    core = importlib.import_module(f"{Path(folder).name}.dynthres_core").DynThresh
    node = importlib.import_module(f"{Path(folder).name}.dynthres_comfyui").DynamicThresholdingComfyNode

    cond, uncond = randn(2, 4, 6, 5, seed=1) + 0.3, randn(2, 4, 6, 5, seed=2)
    cond[1] *= 3
    single, batch = [], []
    for percentile, separate, startpoint, measure, phi in RULES:
        names = STARTPOINTS[startpoint], MEASURES[measure]
        rule = core(MIMIC, percentile, "Constant", 0, "Constant", 0, 1, 0, 999, bool(separate), *names, phi)
        rule.step = 0
        batch.append(rule.dynthresh(cond, uncond, CFG, None))
        pictures = [rule.dynthresh(cond[i : i + 1], uncond[i : i + 1], CFG, None) for i in (0, 1)]
        single.append(torch.cat(pictures))

    scales = np.zeros((len(core.Modes), len(SETTINGS), len(AT)))
    for (m, mode), (s, (scale, least, value)) in itertools.product(enumerate(core.Modes), enumerate(SETTINGS)):
        rule = core(scale, 1, mode, least, mode, least, value, 0, 999, True, "MEAN", "AD", 1)
        for f, rule.step in enumerate(AT):
            scales[m, s, f] = rule.interpret_scale(scale, mode, least)

    with torch.inference_mode():
        runs = [run(node, toy_network, settings) for settings in RUNS]
        errors = {f"{name} errors": half_errors(node, toy_network, PRECISIONS[name], runs) for name in HALVES}
    np.savez_compressed(
        HERE / "dynamic_thresholding.npz",
        cond=cond,
        uncond=uncond,
        rules=np.array(RULES),
        single=torch.stack(single),
        batch=torch.stack(batch),
        modes=np.array(core.Modes),
        settings=np.array(SETTINGS),
        steps=np.array(AT),
        scales=scales,
        runs=torch.stack(runs),
        **errors,
    )


def half_errors(node: type, toy_network: object, dtype: object, runs: list) -> np.ndarray:
    from kit.assertions import relative_error

    half = [run(node, toy_network, settings, dtype) for settings in RUNS]
    return np.array([relative_error(*pair) for pair in zip(half, runs, strict=True)])


def run(node: type, toy_network: object, settings: tuple, *dtype: object) -> object:
    from kit import run as sampled

    mimic_mode, mimic_min, cfg_mode, cfg_min, value, sampler = settings
    model = toy_network.patcher(toy_network.Prompted(), "eps", *dtype)
    modes = MIMIC, 0.95, mimic_mode, mimic_min, cfg_mode, cfg_min, value
    (model,) = node().patch(model, *modes, "enable", "MEAN", "AD", 1.0)
    return sampled.guided(model, CFG, sampler, STEPS)


if __name__ == "__main__":
    main(sys.argv[1])
