"""Entry of `python3 host`: loads this folder as a package without putting the pack on sys.path."""

import sys
from pathlib import Path

from load_package import load_package

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        f"Pentimento's host needs Python 3.10 or newer; this is {sys.version.split()[0]}. Run it with a newer python3."
    )

load_package("pentimento_host", Path(__file__).resolve().parent)

from pentimento_host.cli import main  # noqa: E402

sys.exit(main())
