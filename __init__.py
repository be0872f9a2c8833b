"""Pentimento: the Stable Diffusion era's editing techniques as ComfyUI nodes, each equal to its reference."""

from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"


class Pentimento(ComfyExtension):
    async def on_load(self) -> None:
        from .model_patchers.comfyui import folders
        from .routes import picture, sam_preview, wand_preview

        folders.register()
        picture.add_route()
        sam_preview.add_route()
        wand_preview.add_route()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import NODES

        return NODES


async def comfy_entrypoint() -> Pentimento:
    return Pentimento()
