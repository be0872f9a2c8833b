"""Pentimento: the Stable Diffusion era's editing techniques as ComfyUI nodes, each equal to its reference."""

from pathlib import Path

from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"


class Pentimento(ComfyExtension):
    async def on_load(self) -> None:
        import folder_paths

        from .model_patchers.comfyui import folders, photographs
        from .routes import picture, sam_preview, standins, wand_preview

        folders.register()
        photographs.put(Path(folder_paths.get_input_directory()))
        picture.add_route()
        sam_preview.add_route()
        wand_preview.add_route()
        standins.add_route()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import NODES

        return NODES


async def comfy_entrypoint() -> Pentimento:
    return Pentimento()
