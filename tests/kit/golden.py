"""The reference code's tensors in tests/golden/, and the scripts beside them that made them."""

import importlib.util

from .paths import PACK

GOLDEN = PACK / "tests" / "golden"


def maker(name):
    """The script make_`name`.py as a module, for what it draws its inputs with."""
    spec = importlib.util.spec_from_file_location(f"make_{name}", GOLDEN / f"make_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
