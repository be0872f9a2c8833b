"""A grid over the graph that the node stands in."""

from comfy_api.latest import io


class InfiniteGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoGrid",
            display_name="Infinite Grid",
            category="Pentimento/grid",
            description="Runs the graph that the node stands in once for every combination of values: any number of "
            "axes over the widgets of any nodes. The buttons in the node check, run and pause the grid and show its "
            "results.",
            search_aliases=["xy plot", "xyz plot", "parameter sweep", "compare settings", "batch", "matrix", "loop"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "grid",
                    default="",
                    socketless=True,
                    extra_dict={"widgetType": "PENTIMENTO_GRID"},
                    tooltip="The axes and their values as YAML or JSON: below axes, a line such as KSampler.cfg: 5, 7 "
                    "for each widget to vary, with the node's title, a dot and the name of the input. The form in the "
                    "node writes such lines.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, grid: str) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": ["An ordinary run leaves the grid alone. Press Run in the node to start it."]})


NODES = [InfiniteGrid]
