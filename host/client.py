"""ComfyUI's HTTP API, as workflows/api/run.py speaks it: one client for users, the tool and the tests."""

import importlib.util
import sys

from .environment import PACK

_spec = importlib.util.spec_from_file_location("pentimento_run", PACK / "workflows" / "api" / "run.py")
_run = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_run)

Graph, RunError, Gone, Events = _run.Graph, _run.RunError, _run.Gone, _run.Events
get, post, names, replace, run = _run.get, _run.post, _run.names, _run.replace, _run.run
queue, cancel, failed = _run.queue, _run.cancel, _run.failed
INTERRUPTED, SERVER, address = _run.INTERRUPTED, _run.SERVER, _run.address
