"""The pack's own sockets, for what one node makes and another takes."""

from comfy_api.latest import io

SAM = io.Custom("PENTIMENTO_SAM")
LaMa = io.Custom("PENTIMENTO_LAMA")
Crops = io.Custom("PENTIMENTO_CROPS")
ELLA = io.Custom("PENTIMENTO_ELLA")
