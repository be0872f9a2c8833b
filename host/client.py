"""ComfyUI's HTTP API, as workflows/api/run.py speaks it: one client for users, the tool and the tests."""

import importlib.util
import sys

from .environment import PACK

_spec = importlib.util.spec_from_file_location("pentimento_run", PACK / "workflows" / "api" / "run.py")
_run = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_run)

Graph, RunError = _run.Graph, _run.RunError
get, names, replace, run = _run.get, _run.names, _run.replace, _run.run
