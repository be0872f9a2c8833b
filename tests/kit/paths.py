"""Where the pack and the ComfyUI under test are."""

import os
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH", PACK / ".host" / "ComfyUI"))
