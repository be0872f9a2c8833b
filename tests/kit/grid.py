"""A small workflow of the API's form, what ComfyUI would say of its nodes, and grid files over it."""

import json

from pentimento.model_patchers.grid import check, folder, parse, run


def node(class_type, title=None, **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


GRAPH = {
    "1": node("CheckpointLoaderSimple", "Model", ckpt_name="a.safetensors"),
    "2": node("LoraLoader", "LoRA", model=["1", 0], clip=["1", 1], lora_name="x.safetensors", strength=1.0),
    "3": node("CLIPTextEncode", "Prompt", clip=["2", 1], text="a red cat, on a mat"),
    "4": node("CLIPTextEncode", "Negative", clip=["2", 1], text="blurry"),
    "5": node("EmptyLatentImage", "Size", width=64, height=64, batch_size=1),
    "6": node(
        "KSampler",
        model=["2", 0],
        positive=["3", 0],
        negative=["4", 0],
        latent_image=["5", 0],
        seed=1,
        steps=4,
        cfg=7.0,
        sampler_name="euler",
        tiled=False,
    ),
    "7": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
    "8": node("SaveImage", "Result", images=["7", 0], filename_prefix="grid"),
}


def kind(name, **options):
    return [name, options]


def described(inputs, outputs=(), output_node=False, optional=None):
    return {"input": {"required": inputs, "optional": optional or {}}, "output": outputs, "output_node": output_node}


INFO = {
    "CheckpointLoaderSimple": described(
        {"ckpt_name": [["a.safetensors", "b.safetensors"], {}]}, ["MODEL", "CLIP", "VAE"]
    ),
    "LoraLoader": described(
        {
            "model": kind("MODEL"),
            "clip": kind("CLIP"),
            "lora_name": kind("COMBO", options=["x.safetensors", "y.safetensors"]),
            "strength": kind("FLOAT", default=1.0, min=-2.0, max=2.0),
        },
        ["MODEL", "CLIP"],
    ),
    "CLIPTextEncode": described({"text": kind("STRING", multiline=True), "clip": kind("CLIP")}, ["CONDITIONING"]),
    "EmptyLatentImage": described(
        {name: kind("INT", default=512, min=1, max=16384) for name in ("width", "height", "batch_size")}, ["LATENT"]
    ),
    "KSampler": described(
        {
            "model": kind("MODEL"),
            "seed": kind("INT", default=0, min=0, max=2**64 - 1),
            "steps": kind("INT", default=20, min=1, max=10000),
            "cfg": kind("FLOAT", default=8.0, min=0.0, max=100.0),
            "sampler_name": [["euler", "dpmpp_2m", "heun"], {}],
            "positive": kind("CONDITIONING"),
            "negative": kind("CONDITIONING"),
            "latent_image": kind("LATENT"),
            "tiled": kind("BOOLEAN", default=False),
        },
        ["LATENT"],
        optional={"denoise": kind("FLOAT", default=1.0, min=0.0, max=1.0)},
    ),
    "VAEDecode": described({"samples": kind("LATENT"), "vae": kind("VAE")}, ["IMAGE"]),
    "SaveImage": described(
        {"images": kind("IMAGE"), "filename_prefix": kind("STRING", default="ComfyUI")}, output_node=True
    ),
}


def written(path, graph=GRAPH):
    """The folder, with the workflow in it."""
    (path / "workflow.json").write_text(json.dumps(graph))
    return path


def library(graph=GRAPH):
    """Gives the small workflow by any name."""
    return lambda name: (graph, None)


def spanned(axes, path=None, graph=GRAPH, **fields):
    """The grid of these axes over the small workflow."""
    return parse.parse(json.dumps({"workflow": "small", "axes": axes, **fields}), path, library(graph))


def faulty(axes, path=None, graph=GRAPH, **fields):
    """The faults of the file alone."""
    return parse.read(json.dumps({"workflow": "small", "axes": axes, **fields}), path, library(graph))[1]


class Fake:
    """A ComfyUI in this process, as `Runner` wants one: it runs a prompt when somebody asks for it.

    A picture's bytes are its prompt and its workflow. Steps 13 are refused, and cfg 66 fails.
    """

    def __init__(self):
        self.queued, self.over = {}, {}  # prompt id -> (graph, workflow); prompt id -> outcome
        self.ran, self.lost, self.most = [], set(), 0  # graphs; names of files that are gone; most in the queue
        self.files, self.forgotten, self.cancelled = {}, 0, []

    def queue(self, prompt_id, graph, workflow):
        if graph["6"]["inputs"]["steps"] == 13:
            raise run.CellError("KSampler: steps is 13, which nobody wants.")
        self.queued[prompt_id] = (graph, workflow)
        self.most = max(self.most, len(self.queued))

    def knows(self, prompt_id):
        return prompt_id in self.queued or prompt_id in self.over

    def finished(self, prompt_ids):
        prompt_id = prompt_ids[0]
        if prompt_id not in self.over:
            self.over[prompt_id] = self._ran(*self.queued.pop(prompt_id))
        return {prompt_id: self.over[prompt_id]}

    def _ran(self, graph, workflow):
        self.ran.append(graph)
        inputs = graph["6"]["inputs"]
        if inputs["cfg"] == 66:
            return run.Outcome({}, "KSampler: the number is unlucky.", 0.5)
        name = f"{len(self.ran)}.png"
        self.files[name] = json.dumps([graph, workflow], sort_keys=True).encode()
        count = graph["5"]["inputs"]["batch_size"]
        files = [{"filename": name, "subfolder": "", "type": "output"}] * count
        texts = {"3": {"text": ["seen <b>"]}} if inputs["steps"] == 5 else {}
        return run.Outcome({"8": {"images": files}, **texts}, "", 0.25)

    def fetch(self, file):
        if file["filename"] in self.lost:
            raise run.Lost("The file is gone.")
        return self.files[file["filename"]]

    def forget(self):
        self.forgotten += 1

    def cancel(self, prompt_ids):
        self.cancelled += prompt_ids
        for prompt_id in prompt_ids:
            self.queued.pop(prompt_id, None)


def runner(grid, path, server, chosen=None):
    """A run of a grid over the small workflow, in this folder."""
    folder.claim(path)
    return run.Runner(grid, folder.Folder(path), server, INFO, check.order(grid, INFO), chosen)


def shown(path):
    """What the viewer is told: the data, and {number of a cell: what came of it}."""
    text = (path / "data.js").read_text()
    data = json.loads(text.removeprefix("pentimentoGrid(").removesuffix(");\n"))
    return data, dict(data["cells"])


def pictures(path):
    """{path: content} of all results."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*.png")}
