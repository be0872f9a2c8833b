"""Long captions from short ones, with any language model between the two nodes."""

from comfy_api.latest import io

from ...model_patchers.prompt import caption


class CaptionPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoCaptionPrompt",
            display_name="Caption Prompt",
            category="Pentimento/prompt",
            description="Writes an instruction, with four examples, that has a language model turn a short prompt into "
            "a long caption like those that ELLA was trained with. Connect it to Generate Text or to any other node "
            "with a language model.",
            search_aliases=["prompt enhancer", "caption upsampling", "long prompt", "llm prompt", "ella"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="A short description of the picture. A few words are enough.",
                )
            ],
            outputs=[io.String.Output(display_name="prompt")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(caption.prompt(text))


class CleanCaption(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoCleanCaption",
            display_name="Clean Caption",
            category="Pentimento/prompt",
            description="Extracts the caption from a language model's answer: removes thoughts, introductions, "
            "quotation marks and markup, and cuts the caption to the number of tokens that ELLA reads.",
            search_aliases=["clean llm output", "strip thinking", "caption cleaner", "prompt enhancer", "ella"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, tooltip="The language model's answer to the prompt from Caption Prompt."
                ),
                io.Int.Input(
                    "max_tokens",
                    default=128,
                    min=2,
                    max=4096,
                    tooltip="The most T5 tokens that the caption may have, end token included. ELLA reads 128, about "
                    "90 words. A longer caption is cut after a sentence if at least half of the tokens remain, else "
                    "after a word.",
                ),
            ],
            outputs=[io.String.Output(display_name="text")],
        )

    @classmethod
    def execute(cls, text: str, max_tokens: int) -> io.NodeOutput:
        return io.NodeOutput(caption.clean(text, max_tokens))


NODES = [CaptionPrompt, CleanCaption]
