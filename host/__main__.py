"""Entry of `python3 host`: loads this folder as a package without putting the pack on sys.path."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        f"Pentimento's host needs Python 3.10 or newer; this is {sys.version.split()[0]}. Run it with a newer python3."
    )

spec = importlib.util.spec_from_file_location(
    "pentimento_host", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
)
sys.modules["pentimento_host"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pentimento_host"])

from pentimento_host.cli import main  # noqa: E402

sys.exit(main())
