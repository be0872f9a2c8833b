"""Pentimento: the Stable Diffusion era's editing techniques as ComfyUI nodes, each equal to its reference."""

from pathlib import Path

from .model_patchers.comfyui import version

try:
    from comfy_api.latest import ComfyExtension, io
except ImportError:  # before 0.3.48, where nothing calls comfy_entrypoint
    raise ImportError(version.refusal()) from None

WEB_DIRECTORY = None if version.refusal() else "./web"


class Pentimento(ComfyExtension):
    async def on_load(self) -> None:
        import folder_paths

        from .model_patchers.comfyui import folders, photographs
        from .routes import grid, picture, sam_preview, standins, wand_preview, wildcards

        folders.register()
        photographs.put(Path(folder_paths.get_input_directory()))
        picture.add_route()
        grid.add_route()
        sam_preview.add_route()
        wand_preview.add_route()
        standins.add_route()
        wildcards.add_handler()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import NODES

        return NODES


async def comfy_entrypoint() -> Pentimento:
    """
    Raises:
        RuntimeError: ComfyUI is too old. ComfyUI logs the sentence and goes on without the pack.
    """
    if refusal := version.refusal():
        raise RuntimeError(refusal)
    return Pentimento()
