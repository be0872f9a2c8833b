"""Long captions from short ones, with any language model between the two nodes."""

from comfy_api.latest import io

from ...model_patchers.prompt.caption import clean, prompt


class CaptionPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoCaptionPrompt",
            display_name="Caption Prompt",
            category="Pentimento/prompt",
            description="Asks a language model, by four examples, to turn a short prompt into a long one as ELLA was "
            "trained with. Connect it to Generate Text or to any other node of a language model.",
            search_aliases=["prompt enhancer", "caption upsampling", "long prompt", "llm prompt", "ella"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture shows, in a few words.",
                )
            ],
            outputs=[io.String.Output(display_name="prompt")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(prompt(text))


class CleanCaption(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoCleanCaption",
            display_name="Clean Caption",
            category="Pentimento/prompt",
            description="Takes the caption out of a language model's answer: no thoughts, introduction, quotes or "
            "markup, and no more tokens than ELLA reads.",
            search_aliases=["clean llm output", "strip thinking", "caption cleaner", "prompt enhancer", "ella"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, tooltip="What a language model answered to the prompt of Caption Prompt."
                ),
                io.Int.Input(
                    "max_tokens",
                    default=128,
                    min=2,
                    max=4096,
                    tooltip="The most tokens of T5, the one that ends the text included. ELLA reads 128, some 90 "
                    "words. What is longer is cut after a sentence, or after a word where the sentence is too long.",
                ),
            ],
            outputs=[io.String.Output(display_name="text")],
        )

    @classmethod
    def execute(cls, text: str, max_tokens: int) -> io.NodeOutput:
        return io.NodeOutput(clean(text, max_tokens))


NODES = [CaptionPrompt, CleanCaption]
