"""The grammar of Wildcards against the parser of dynamicprompts: trees, and what only this pack's grammar takes."""

import pytest
from dynamicprompts.commands import (
    LiteralCommand,
    SequenceCommand,
    VariantCommand,
    WildcardCommand,
    WrapCommand,
)
from dynamicprompts.commands.variable_commands import VariableAccessCommand, VariableAssignmentCommand
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.parser.parse import parse as package_parse
from pyparsing import ParseException

from kit.wildcards import Ours, put
from pentimento.model_patchers.prompt.wildcards_grammar import (
    DEEPEST,
    Assignment,
    Choice,
    Option,
    Row,
    Text,
    Variable,
    Wildcard,
    Wrap,
    parse,
)

SAMPLERS = {SamplingMethod.RANDOM: "random", SamplingMethod.CYCLICAL: "cyclical", None: None}
SAMPLERS |= {SamplingMethod.COMBINATORIAL: "combinatorial"}


def tree(command):
    """A command of dynamicprompts as this pack's node."""
    if isinstance(command, str):
        return Text(command)
    if isinstance(command, LiteralCommand):
        return Text(command.literal)
    if isinstance(command, SequenceCommand):
        return Row(tuple(map(tree, command.tokens)))
    if isinstance(command, VariantCommand):
        options = tuple(Option(tree(variant.value), variant.weight) for variant in command.variants)
        bounds = command.min_bound, command.max_bound
        return Choice(options, *bounds, command.separator, SAMPLERS[command.sampling_method])
    if isinstance(command, WildcardCommand):
        values = tuple((name, tree(value)) for name, value in command.variables.items())
        return Wildcard(tree(command.wildcard), SAMPLERS[command.sampling_method], values)
    if isinstance(command, VariableAssignmentCommand):
        return Assignment(command.name, tree(command.value), command.immediate, not command.overwrite)
    if isinstance(command, VariableAccessCommand):
        return Variable(command.name, None if command.default is None else tree(command.default))
    assert isinstance(command, WrapCommand)
    return Wrap(tree(command.wrapper), tree(command.inner))


@pytest.mark.parametrize(
    "text",
    [
        "A literal sentence.",
        "{cat|dog}",
        "{cat|dog|}{|red|blue}{}",
        "{new york|washing-ton!|\u00e4nder}",
        "{ a |\tb\n| c } {\n}",
        "{1::cat|2::dog|.5::bird|1.::fish|0.25::x|a::b|+1.5::c}",
        "{1:: cat|1 ::dog}",
        "{2$$cat|dog|bird}{1-2$$a|b|c}{3-1$$a|b|c}{-2$$a|b}{0$$a|b}{10$$a}",
        "{2$$ and $$cat|dog}{2$$|$$a|b|c}{2$$  $$a|b}{1-2$$, $$a|b}{2$$::$$1::a|b}",
        "{~red|green}{@red|green}{!red|green}{!__a/b__}{~1-3$$ and $$red|green}{@0.2::red|green}",
        "{__a/b__|{__c__|d}} {x __a__ y|__b__ z}",
        "__colours__ __a/b-c/d e__ __colours*__ __**/x__",
        "__~path/to/colours__ __!\u00e4nder__ __@\u00e4nder__",
        "__colours-{hot|cold}__ __${a}__ __x/${a:b}/${c}__",
        "__foo(animal=bear)__ __foo(animal=fox,color=red)__ __foo( color = {A|B|C} , x=__y__ )__",
        "a___b___c",
        "${animal=cat}${animal:dog}${animal}",
        "${a =! cat}${a?=cat}${a ?=! cat}${ b = {x|y} }${-c_d-1=e}",
        "%{a ... b$$c} %{ {x|y} ...$${c|d}} {%{a$$b}|c}",
        "[cat|dog] [cat:dog:0.25] (a:1.2), c\\(d\\) a|b} c}",
        "one # two\nthree\n# four\n{a|b} # five\n__c__# six\nseven # eight",
        "{\n# 60% A\n0.6::A\n|\n# 40% B\n0.4::B\n}",
        "{a|b}// c\n/* d\ne */{f|g} // h",
        "https://a.b/c a/*b*/ c//d",
        "<lora:x-1.5_y:0.8> a:b, 1:2::3",
    ],
)
def test_the_tree_is_that_of_dynamicprompts(text):
    assert parse(text) == tree(package_parse(text))


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("100% wool, $5, 5$|6", ["100% wool, $5, 5$|6"]),
        ("{5$|10 %} off", ["5$ off", "10 % off"]),
        ("1girl, <lora:tama5___StyleLora_v10:0.7>", ["1girl, <lora:tama5___StyleLora_v10:0.7>"]),
        ("{a|b} <lora:Sakusei__Nurses:0.7>, c", ["a <lora:Sakusei__Nurses:0.7>, c", "b <lora:Sakusei__Nurses:0.7>, c"]),
        ("<lora:a:{0.5|1}>", ["<lora:a:0.5>", "<lora:a:1>"]),
        ("\\{a\\|b\\} \\#ff0000 5\\$\\$ \\%{x} \\__a\\__ \\// b", ["{a|b} #ff0000 5$$ %x __a__ // b"]),
        ("{a\\|b|c}", ["a|b", "c"]),
        ("C:\\models\\x {a|b}\\n", ["C:\\models\\x a\\n", "C:\\models\\x b\\n"]),
        ("{2$$\u3001$$\u732b|\u72d7}", ["\u732b\u3001\u72d7", "\u72d7\u3001\u732b"]),
        ("${\u989c\u8272=\u7ea2}${\u989c\u8272}", ["\u7ea2"]),
        ("{${x=a}${x}|b}", ["a", "b"]),
    ],
)
def test_more_texts_are_texts_than_in_dynamicprompts(text, prompts):
    assert Ours(None).combinatorial(text, 100) == prompts


def test_a_name_in_a_tag_may_be_a_wildcard(tmp_path):
    files = put(tmp_path, {"styles.txt": "ink\noil"})
    assert Ours(files).combinatorial("<lora:__styles__:1>", 9) == ["<lora:ink:1>", "<lora:oil:1>"]


REFUSED = {
    "an open brace": ("a {cat|dog", r"^'\{cat\|dog' in line 1, column 3 of the text is not closed\. Write \} behind"),
    "an open brace inside": ("a\nb {x|{y|z}", r"^'\{x\|\{y\|z\}' in line 2, column 3"),
    "an open wildcard": (
        "a __cat and {b|c}",
        "'__cat and .* begins a wildcard without an end. .* Write \\\\__ for real",
    ),
    "no name": ("a ____ b", "names no file"),
    "a dollar in a separator": ("{2$$ $ $$a|b}", r"'\$\$a\|b\}' in line 1, column 8 .* a separator without \$"),
    "dollars without a count": ("{$$a|b}", "'.*' in line 1, column 2 .* Write a number before the first"),
    "a negative weight": ("{-1.5::a|b}", "is a negative weight. Write 0 or more"),
    "a price before a choice": ("for ${5|10}", "is not a complete variable.* for a real .*Choices need braces"),
    "choices of a variable": ("${x=a|b}", "'.*' in line 1, column 1 .*Choices need braces of their own"),
    "an open variable": ("${x", "is not a complete variable"),
    "half a wrap": ("100%{a|b}", "is not a complete wrap.* for a real %"),
    "brackets without a value": ("__a(b)__", r"has brackets without values. Write __name\(variable=value\)__"),
    "an open bracket": ("__a(b=c", "has a bracket that is not closed"),
    "a variable that is set in a name": ("__a${b=c}__", "sets a variable in its name"),
    "too deep": ("{" * 2000 + "}" * 2000, f"is inside of too many braces. Use {DEEPEST} levels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_incomplete_text_is_refused_with_its_place(case):
    text, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        parse(text)


TAKEN = {"a negative weight", "too deep", "a variable that is set in a name", "brackets without a value"}


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in TAKEN])
def test_dynamicprompts_refuses_the_same(case):
    with pytest.raises((ParseException, AssertionError, ValueError)):
        package_parse(REFUSED[case][0])


def test_a_long_text_takes_no_longer_than_its_length():
    assert parse("word, " * 50_000 + "{a|b}").parts[0].text == "word, " * 50_000
    assert len(parse("{a|b} x " * 2000).parts) == 4000
    assert parse(" " * 20_000 + "#" + " " * 20_000 + "{a}")
