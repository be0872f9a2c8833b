"""Wildcard files for tests, and the package dynamicprompts on them."""

import json
import logging
from itertools import islice
from random import Random

from dynamicprompts.parser.parse import parse
from dynamicprompts.sampling_context import SamplingContext, SamplingMethod
from dynamicprompts.wildcards import WildcardManager

from pentimento.model_patchers.prompt import wildcards, wildcards_files

FILES = {
    "colours-warm.txt": "# warm\nred\nyellow\n\nred\norange\n",
    "colours-cold.txt": "blue\r\ngreen\r\n",
    "all colours.txt": "__colours-warm__\n__colours-cold__\n",
    "animals/cats.txt": "tiger\nlynx",
    "animals/dogs.txt": "wolf",
    "animals/every.txt": "__cats__\n__dogs__\n",  # their neighbours, without the folder
    "animals/snakes.yaml": "- python\n- cobra\n",
    "one.txt": "single\n",
    "nested.txt": "{dark|light} __colours-cold__\nplain\n",
    "portrait.txt": "a ${animal:cat} near a ${place}\n",
    "kept.txt": "${animal?=fox}a ${animal}\n",
    "clothes.yaml": "clothes:\n  summer: [shirt, shorts]\n  winter:\n    - coat\n  hat: a hat\n  12: 5\n  empty: ''\n",
    "tastes/list.json": json.dumps({"sour": ["lemon", "lime"], "sweet": {"very": ["honey"]}}),
    "styles.txt": "Pop Art, ..., flat colours\nArt Deco \u2026\n",
}


def put(folder, files=FILES):
    """Writes {path: text or bytes}, and gives the lists in the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return wildcards_files.Files([folder])


class Package:
    """What dynamicprompts makes of a text, with the files in a folder."""

    def __init__(self, folder):
        logging.getLogger("dynamicprompts").setLevel(logging.ERROR)
        self.manager = WildcardManager(folder)

    def prompts(self, text, method, count, seed=0):
        context = SamplingContext(method, self.manager, rand=Random(seed))
        return [str(prompt) for prompt in islice(context.sample_prompts(text), count)]

    def combinatorial(self, text, limit):
        return self.prompts(parse(text), SamplingMethod.COMBINATORIAL, limit)

    def cyclical(self, text, count):
        return self.prompts(parse(text), SamplingMethod.CYCLICAL, count)

    def random(self, text, count):
        command = parse(text)  # once, as it takes long
        return [self.prompts(command, SamplingMethod.RANDOM, 1, seed)[0] for seed in range(count)]


class Ours:
    """The same of this pack."""

    def __init__(self, files):
        self.files = files

    def combinatorial(self, text, limit):
        return wildcards.prompts(text, 0, "combinatorial", self.files, limit)

    def cyclical(self, text, count):
        return [wildcards.prompts(text, index, "cyclical", self.files, 1)[0] for index in range(count)]

    def random(self, text, count):
        return [wildcards.prompts(text, seed, "random", self.files, 1)[0] for seed in range(count)]
