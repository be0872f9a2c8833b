"""Wildcards against the package dynamicprompts: its prompts of the three modes, from the same files and seeds."""

import collections
import itertools
import math
import random
from unittest.mock import patch

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from kit.nodes import node_classes
from kit.wildcards import Ours, Package, put
from pentimento.model_patchers.prompt import wildcards
from pentimento.model_patchers.prompt.wildcards_files import Files

COUNT = 16  # seeds, and steps of the cyclical mode
CASES = {
    "text": "A literal [low emphasis] (word:1.2) sentence, BREAK <lora:x:0.8>",
    "a choice": "A red {square|circle}",
    "an empty option": "A {red|blue|} rose{|hot,}",
    "two choices": "A {red|green} {square|circle}",
    "of two lengths": "{a|b} {c|d|e} {f|g|h|i}",
    "several": "A {2$$red|green} {square|circle}",
    "a range": "A {1-2$$red|green|blue} square",
    "a range from the other end": "{2-1$$red|green|blue}",
    "up to": "{-2$$a|b|c}",
    "from": "{2-$$a|b|c}",
    "none or one": "{0-1$$a|b|c|d} x",
    "none": "prefix,\n({0$$a|b} {1$$c|d|e}),\nsuffix",
    "more than there are": "A red {3$$square|circle}",
    "a separator": "A {2$$ and $$red|green|blue} square",
    "the separator |": "A {2$$|$$red|green|blue} square",
    "no greedy separator": "{2$$ 1| 2| 3} {2$$ 1| 2| 3}",
    "weights": "A {1::red|2::green|3::blue|.5::pink|0.25::grey} square",
    "nested": "A {red|green {square|circle}} {{a|b}|{c|d|e}}",
    "nested, several": "{1$$A|B|{2$$ and $$X|Y|Z}}",
    "empty parts of several": "{2$$, $$|a|b} {3$$-$$a||b}",
    "space": "{ a | b } {c\n|d}",
    "a wildcard": "A __colours-warm__ square",
    "beside text": "(__colours-cold__:2.3),__one__.",
    "a pattern": "__colours*__",
    "a pattern below": "__animals/*__",
    "everything below": "__tastes/**__",
    "in another file": "__all colours__",
    "a neighbour": "__animals/every__",
    "without its folder": "__cats__",
    "in yaml": "__clothes/summer__ __clothes/hat__ __animals/snakes__",
    "in json": "__tastes/sour__ __tastes/sweet/very__",
    "backslashes": "__tastes\\sour__ __/animals/cats/__",
    "choices in a file": "__nested__",
    "several of a wildcard": "{2$$__colours*__}",
    "several of a nested wildcard": "{2$$, $$__all colours__}",
    "several with a wildcard among them": "{2$$__colours*__|black}",
    "one of one wildcard": "{__colours*__} {__one__}",
    "a value": "__portrait(animal=fox, place=wood)__",
    "a value before a variable": "${animal=cat}__portrait(animal=fox, place=wood)__",
    "a variable that has a value": "${animal=cat}__kept__",
    "a variable that has none": "__kept__",
    "a value with choices": "__portrait(place={wood|field})__",
    "a variable": "${animal=cat}the animal is ${animal:dog}",
    "a default": "the animal is ${animal:dog} or ${animal:{wolf|fox}}",
    "chosen each time": "${x={a|b}}${x} ${x}",
    "chosen once": "${x=! foo}${x} ${x}",
    "a value that stays": "${place=wood}${animal?=!fox}__portrait__",
    "a variable in a name": "${heat=cold}__colours-${heat}__ __colours-${heat:warm}__",
    "a default in a name": "__colours-${heat:warm}__",
    "a wrap": "%{happy ... on a meadow$${fox|cow}}",
    "a wrap without a place": "%{happy $${fox|cow}}",
    "a wrap of choices": "%{ {cool|hot} ...$${fox|cow}}",
    "a wrap from a file": "%{__styles__$${fox|cow}}",
    "a closing brace": "prompt with closing bra}ce but {parsed|accepted}",
    "all at once": "{a|b|c|d|e} {2$$1|2|3} __colours*__",
    "syntax of A1111": "[cat|dog] [cat:dog:0.25] (a:1.1), a \\(b\\)",
    "comments": "\n one\n three # comment\n  # A comment\n {cat|dog} # another\n __one__# another\n five\n",
    "comments in choices": "{\n # 60% A\n 0.6::A\n |\n # 40% B\n 0.4::B\n }",
    "comments of other kinds": "{a|b}/* c */ d // e {c|d}// f\n g",
    "a url": "a photo of https://example.org/a::b, 2::1",
    "other scripts": "\u4e00\u53ea{\u732b|\u72d7}\uff0c__\u8272/\u6696__",
}
OF_ONE_MODE = {  # the package's random and cyclical modes know no wraps, or draw from more
    "a wrap": "cyclical",
    "a wrap without a place": "cyclical",
    "a wrap of choices": "cyclical",
    "a wrap from a file": "cyclical",
}
WRONG = {
    "drawn with putting back": (
        "_drawn",
        lambda weights, count, rng: rng.choices(range(len(weights)), weights, k=count),
    ),
    "no order among several": (
        "itertools.permutations",
        lambda things, length: itertools.combinations(things, length),
    ),
    "separators of empty parts stay": ("_joined", lambda texts, separator: separator.join(texts)),
    "the cycle in another order": ("_order", lambda number, count, least, most: [number % count] * least),
    "the last part changes slowest": (
        "_combinations",
        lambda nodes, state: (
            list(texts)[::-1] for texts in itertools.product(*(wildcards._every(n, state) for n in nodes[::-1]))
        ),
    ),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wildcards")
    put(folder)
    files = put(folder, {"\u8272/\u6696.txt": "\u7ea2\n\u9ec4\n"})
    return Ours(files), Package(folder)


@pytest.mark.parametrize("case", CASES)
def test_the_prompts_are_those_of_dynamicprompts(both, case):
    ours, package = both
    text = CASES[case]
    assert ours.combinatorial(text, 200) == package.combinatorial(text, 200)
    assert ours.random(text, COUNT) == package.random(text, COUNT)
    if OF_ONE_MODE.get(case) != "cyclical":
        assert ours.cyclical(text, COUNT) == package.cyclical(text, COUNT)


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_gives_other_prompts(both, mistake):
    ours, package = both
    name, wrong = WRONG[mistake]
    text = "{2$$, $$|a|b} {a|b} {2$$x|y|z}"
    with patch(f"{wildcards.__name__}.{name}", wrong):
        made = [getattr(ours, mode)(text, COUNT) for mode in ("combinatorial", "cyclical", "random")]
    assert made != [getattr(package, mode)(text, COUNT) for mode in ("combinatorial", "cyclical", "random")]


NAMES = ["colours-warm", "colours-cold", "animals/*", "nested", "one", "clothes/summer", "tastes/sour"]


@st.composite
def texts(draw, depth=2):
    """A row of words, choices, wildcards and variables. A word is the same at no second place."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["word", "word", "wildcard", "variable", "choice", "several"][: 6 if depth else 4]))
        if kind == "word":
            parts.append(draw(st.sampled_from(["W ", "W, (W:1.2)", " [W]", "<lora:W:1>", "W\n"])))
        elif kind == "wildcard":
            parts.append(f"__{draw(st.sampled_from(NAMES))}__")
        elif kind == "variable":
            parts.append(draw(st.sampled_from(["${v}", "${w:W}"])))
        else:
            options = draw(st.lists(texts(depth=depth - 1), min_size=2, max_size=3))
            if kind == "choice":
                weights = draw(st.lists(st.sampled_from(["", "2::", "0.5::"]), min_size=3, max_size=3))
                parts.append("{" + "|".join(map("".join, zip(weights, options, strict=False))) + "}")
            else:
                count = draw(st.sampled_from(["1", "2", "1-2", "-2", "0-1", "2-"]))
                separator = draw(st.sampled_from(["", " and $$", "|$$", ", $$"]))
                options = [f"W{option}" for option in options]  # the package leaves equal options out
                parts.append("{" + f"{count}$${separator}" + "|".join(options) + "}")
    return "".join(parts)


@settings(max_examples=30, phases=[Phase.explicit, Phase.generate])  # the package takes long to shrink
@given(texts())
@example("W{2$$W|W__colours-warm__} {W|2::W}")
def test_any_text_gives_the_prompts_of_dynamicprompts(both, text):
    ours, package = both
    words = (f"w{number}" for number in itertools.count())
    text = "${v={x|y|__one__}}" + "".join(next(words) if sign == "W" else sign for sign in text)
    assert ours.combinatorial(text, 40) == package.combinatorial(text, 40)
    assert ours.cyclical(text, 8) == package.cyclical(text, 8)
    assert ours.random(text, 4) == package.random(text, 4)


class Even(random.Random):
    """Its random() takes evenly spaced values."""

    def __init__(self, value):
        super().__init__(0)
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("{3::a|b}", {"a": 0.75, "b": 0.25}),
        ("{0.5::a|0.1::b|0.3::c|0.1::d}", {"a": 0.5, "b": 0.1, "c": 0.3, "d": 0.1}),
        ("{0::a|b}", {"b": 1}),
        ("__heavy__", {"ant": 0.05, "cow": 0.2, "whale": 0.75}),
        ("{__heavy__}", {"ant": 0.05, "cow": 0.2, "whale": 0.75}),
    ],
)
def test_shares_are_the_weights(tmp_path, text, shares):
    files = put(tmp_path, {"heavy.yaml": "heavy:\n- 15::whale\n- {weight: 4, text: cow}\n- ant\n"})
    node = wildcards.parse(text)
    steps = 200
    states = (wildcards._State("random", 0, Even((step + 0.5) / steps), files) for step in range(steps))
    counts = collections.Counter(wildcards._one(node, state) for state in states)
    assert {name: count / steps for name, count in counts.items()} == pytest.approx(shares)


def test_several_of_unequal_weights_are_drawn_by_the_weights_that_are_left(tmp_path):
    """dynamicprompts takes away the first weight of the same value, and so mixes up the rest."""
    draws = wildcards._drawn
    assert draws([10, 1, 100], 2, Even(0.5)) == [2, 0]
    assert {one("{2$$a|0::b|c}", seed) for seed in range(20)} == {"a,c", "c,a"}
    assert one("{2$$a|0::b}", 0) == "a"
    counts = collections.Counter(draws([1, 98, 1], 2, random.Random(seed))[0] for seed in range(400))
    assert counts[1] > 370


def test_a_seed_gives_the_same_prompt_on_every_machine(both):
    ours, _ = both
    assert ours.random("{a|b|c|d|e} {2$$1|2|3} __colours*__", 4) == GOLDEN


GOLDEN = ["d 1,3 red", "c 1,2 red", "a 3,2 orange", "c 2,3 yellow"]


def one(text, seed, mode="random", files=None, limit=1):
    return wildcards.prompts(text, seed, mode, files or Files([]), limit)[0]


def test_a_sampler_of_its_own_goes_on_while_the_rest_is_drawn_or_combined(both):
    ours, package = both
    for text in ("{a|b|c} {@x|y}", "A {red|{@green|blue}} {@ball|car}", "{1|2} __@colours-cold__"):
        assert ours.combinatorial(text, 50) == package.combinatorial(text, 50)
    assert [one("{@a|b|c}", seed) for seed in range(4)] == ["a", "b", "c", "a"]
    assert {one("{a|b}{~x|y}", index, "cyclical") for index in range(40)} == {"ax", "ay", "bx", "by"}
    assert {one("{!a|b}", seed) for seed in range(20)} == {"a", "b"}
    assert [one("{!a|b}", index, "cyclical") for index in range(3)] == ["a", "b", "a"]


def test_all_combinations_are_made_where_dynamicprompts_leaves_some_out(both):
    ours, package = both
    once, named = "${x=!{a|b}}${x} ${x}", "__colours-{warm|cold}__"
    assert ours.combinatorial(once, 9) == ["a a", "b b"]
    assert package.combinatorial(once, 9) == ["a a"]
    assert ours.random(once, COUNT) == package.random(once, COUNT)
    assert ours.combinatorial(named, 9) == ["orange", "red", "yellow", "blue", "green"]
    assert [one("${x=!{a|b}}${x} ${x}", index, "cyclical") for index in range(2)] == ["a a", "b b"]
    assert set(ours.combinatorial("{2$$__colours-cold__|__colours-cold__}", 9)) == {"blue,green", "green,blue"}
    assert set(ours.combinatorial("{2$$ __colours-cold__ }", 9)) == {"blue,green", "green,blue"}
    assert set(ours.combinatorial("{1-$$__colours-cold__}", 9)) == {"blue", "green", "blue,green", "green,blue"}
    assert {one("{0-1$$a}", seed) for seed in range(20)} == {"", "a"}


def test_ten_thousand_combinations_are_made_as_they_are_wanted():
    digits = "{" + "|".join("0123456789") + "}"
    texts = wildcards.prompts(digits * 4, 0, "combinatorial", Files([]), 10_000)
    assert texts == [f"{number:04}" for number in range(10_000)]
    assert wildcards.prompts(digits * 400, 0, "combinatorial", Files([]), 3)[2] == "0" * 399 + "2"
    letters = "{20$$" + "|".join(f"w{number}" for number in range(40)) + "}"
    assert len(set(wildcards.prompts(letters, 0, "combinatorial", Files([]), 50))) == 50
    last = math.perm(40, 20) - 1
    assert one(letters, last, "cyclical").startswith("w39,w38,w37")
    assert one(letters, last + 1, "cyclical").startswith("w0,w1,w2")


def test_a_choice_that_repeats_itself_is_refused_and_does_not_hang():
    with pytest.raises(ValueError, match="no combination: a choice wants more options"):
        one("{2$${a|a}|a}", 0, "combinatorial")
    same = "|".join(["{a|b}"] * 12)
    with pytest.raises(ValueError, match="same texts again and again"):
        one("{11$$" + same + "}", 0, "combinatorial")


CYCLES = {
    "itself": ({"a.txt": "x __a__"}, "__a__ -> __a__"),
    "a circle": ({"a.txt": "__b__", "b.txt": "__c__", "c.txt": "{__a__}"}, "__a__ -> __b__ -> __c__ -> __a__"),
    "a pattern": ({"a.txt": "__*__"}, r"__\*__ -> __\*__"),
    "by one line of many": (
        {"a.txt": "\n".join("xyzuvw") + "\n%{${v:{p|2::__b(c={__c__})__}}$$q}", "b.txt": "b", "c.txt": "__a__"},
        "__a__ -> __c__ -> __a__",
    ),
    "by a variable": ({"a.txt": "${x}"}, r"__a__ -> \$\{x\} -> __a__"),
}


@pytest.mark.parametrize("mode", wildcards.MODES)
@pytest.mark.parametrize("case", CYCLES)
def test_a_circle_of_wildcards_is_refused_with_its_chain(tmp_path, case, mode):
    files, chain = CYCLES[case]
    with pytest.raises(ValueError, match=f"never ends: {chain}"):
        one("${x=__a__}__a__", 0, mode, put(tmp_path, files))


REFUSED = {
    "no value": ("a ${x} b", r"variable 'x' has no value. Set it with \$\{x=...\}"),
    "a circle of variables": ("${x=${y}}${y=${x}}${x}", r"never ends: \$\{x\} -> \$\{y\} -> \$\{x\}"),
    "no file": ("a __colour__", r"no wildcard 'colour': no file colour.txt .*looked in .*Similar names: all colours."),
    "a missing file in a file": ("__broken file__", "no wildcard 'nowhere'"),
    "no weight": ("{0::a|0::b}", "All options of a choice have the weight 0"),
    "a line": ("__broken__", r"'broken' has a line that is incomplete. '\{a' in line 1, column 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_chosen_is_refused(tmp_path, case):
    text, sentence = REFUSED[case]
    put(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        one(text, 0, files=put(tmp_path, {"broken.txt": "x {a", "broken file.txt": "__nowhere__"}))


Wildcards = node_classes()["PentimentoWildcards"]


def test_a_line_that_is_not_chosen_does_no_harm(tmp_path):
    files = put(tmp_path, {"a.yaml": "a:\n- x\n- 0::__nowhere__\n- 0::{y\n- /* 1 */z"})
    assert {one("__a__", seed, files=files) for seed in range(20)} == {"x", "z"}


def run(text, seed=0, mode="random", **values):
    return Wildcards.execute(text, seed, mode, **values)


def test_the_node_gives_one_prompt_and_all():
    text, texts = run("{a|b} {c|d}", 2, "combinatorial").result
    assert texts == ["a c", "a d", "b c", "b d"]
    assert text == "b c"
    assert run("{a|b} {c|d}", 7, "combinatorial", limit=3).result == ("a d", ["a c", "a d", "b c"])
    assert run("{a|b} {c|d}", 3, "cyclical").result == ("b d", ["b d"])
    assert run("").result == ("", [""])
    (shown,) = run("{" + "|".join(map(str, range(300))) + "}", 0, "combinatorial", limit=250).ui["text"]
    assert shown.splitlines()[99:] == ["99", "... 150 more"]


def test_the_front_end_leaves_the_braces_to_the_node():
    text, seed = Wildcards.GET_SCHEMA().inputs[:2]
    assert text.dynamic_prompts is False
    assert seed.control_after_generate


def test_an_incomplete_text_is_refused_before_the_run():
    assert Wildcards.validate_inputs("{a|b}") is True
    assert Wildcards.validate_inputs(None) is True
    assert "'{a|b' in line 2, column 3" in Wildcards.validate_inputs("x\ny {a|b")


def test_an_edited_file_counts_where_it_changes_the_prompt(tmp_path, monkeypatch):
    monkeypatch.setattr(wildcards, "folders", lambda: [tmp_path])
    put(tmp_path, {"a.txt": "red", "b.txt": "blue"})
    before = Wildcards.fingerprint_inputs("__a__", 1, "random")
    linked = Wildcards.fingerprint_inputs(None, 1, "random")
    put(tmp_path, {"b.txt": "green"})
    assert Wildcards.fingerprint_inputs("__a__", 1, "random", 100) == before
    assert Wildcards.fingerprint_inputs(None, 1, "random") != linked
    put(tmp_path, {"a.txt": "yellow"})
    assert Wildcards.fingerprint_inputs("__a__", 1, "random") != before
    assert "no wildcard" in Wildcards.fingerprint_inputs("__c__", 1, "random")
