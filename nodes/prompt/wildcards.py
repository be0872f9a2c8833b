"""Wildcards: prompts from choices, files and variables."""

from comfy_api.latest import io

from ...model_patchers.comfyui import saved_text
from ...model_patchers.prompt import wildcards, wildcards_grammar
from .. import inputs


class Wildcards(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoWildcards",
            display_name="Wildcards",
            category="Pentimento/prompt",
            description="Writes a prompt from a text with choices, wildcard files and variables, in the grammar of "
            "Dynamic Prompts. The prompt is shown in the node and saved with the picture.",
            search_aliases=[
                "dynamic prompts",
                "random prompt",
                "wildcard",
                "prompt matrix",
                "combinatorial",
                "variants",
            ],
            is_output_node=True,  # so that it can be run alone
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,  # else the front end would choose before the node can
                    tooltip="A text with choices. {red|blue} chooses one, {2::red|blue} chooses red twice as often, "
                    "{2$$ and $$red|blue|green} chooses two. __colour__ takes a line of colour.txt in "
                    "models/wildcards. ${x=!{cat|dog}} sets a variable and ${x} uses it. A # begins a comment.",
                ),
                inputs.seed(
                    "seed",
                    "random: the same seed gives the same prompt. cyclical: the number of the prompt. combinatorial: "
                    "which of the combinations becomes the output text; the counting starts again after the last one.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(wildcards.MODES),
                    default=wildcards.RANDOM,
                    tooltip="random: chooses by the weights. cyclical: takes the options of each choice in turn, one "
                    "step for each seed. combinatorial: makes all combinations, for the output all.",
                ),
                io.Int.Input(
                    "limit",
                    default=wildcards.LIMIT,
                    min=1,
                    max=100_000,
                    optional=True,
                    tooltip="How many combinations the combinatorial mode makes at most. The other modes make one "
                    "prompt.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="text"),
                io.String.Output(display_name="all", is_output_list=True),
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        return inputs.valid(wildcards_grammar.parse, text)

    @classmethod
    def fingerprint_inputs(
        cls,
        text: str | None = None,
        seed: int | None = None,
        mode: str | None = None,
        limit: int | None = wildcards.LIMIT,
    ) -> str:
        return wildcards.fingerprint(text, seed, mode, limit)

    @classmethod
    def execute(cls, text: str, seed: int, mode: str, limit: int = wildcards.LIMIT) -> io.NodeOutput:
        prompt, prompts = wildcards.resolve(text, seed, mode, limit)
        shown = wildcards.shown(prompts)
        if cls.hidden and cls.hidden.extra_pnginfo is not None:
            saved_text.save(cls.hidden.extra_pnginfo, cls.hidden.unique_id, shown)
        return io.NodeOutput(prompt, prompts, ui={"text": [shown]})


NODES = [Wildcards]
