"""The node search box of the front end finds the pack's nodes by the words of people who come from other packs."""

import pytest

from kit.front_end import open_tab

WORDS = {  # what a user types: nodes that do it, and the place in the list that one of them has at least
    "ultimate sd upscale": (["Windowed Diffusion"], 1),
    "upscale": (["DemoFusion Upscale", "Windowed Diffusion", "SD x4 Conditioning", "Iterative Mixing Sampler"], 20),
    "hires fix": (["Windowed Diffusion", "DemoFusion Upscale", "Iterative Mixing Sampler"], 1),
    "inpaint crop": (["Crop to Mask"], 1),
    "heal": (["LaMa Fill", "Fill Without a Model"], 3),
    "clone stamp": (["LaMa Fill", "Fill Without a Model"], 1),
    "mask": (["Tune Mask", "Crop to Mask"], 25),  # ComfyUI's own masks come first
}
NAMES = """() => [...document.querySelectorAll('#results-list [role=option]')]
    .map((option) => option.innerText.split('\\n')[0])"""


@pytest.fixture(scope="module")
def page(browser, server):
    """A tab with the search box open."""
    with open_tab(browser, server) as page:
        page.wait_for_timeout(1000)  # the canvas takes clicks once the default workflow is there
        page.mouse.dblclick(800, 900)
        page.locator("input[role=combobox]").wait_for()
        yield page


@pytest.mark.parametrize("words", WORDS)
def test_words_of_other_packs_find_the_node_that_does_it(page, words):
    nodes, most = WORDS[words]
    page.locator("input[role=combobox]").fill(words)
    page.wait_for_function(f"(nodes) => ({NAMES})().some((name) => nodes.includes(name))", arg=nodes)
    names = page.evaluate(NAMES)
    assert min(names.index(node) for node in nodes if node in names) < most
