"""Prompts from a text with choices, wildcards and variables, as Dynamic Prompts makes them.

The random mode draws as dynamicprompts 0.31 does (Adi Eyal, MIT), so that a seed gives the same prompt. The cyclical
mode gives that package's prompt of an index, and the combinatorial mode all of its prompts in its order. The package
leaves out combinations of variables that are chosen at once and of choices in a wildcard's name; this file does not.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random

from .wildcards_files import Files, Line, folders
from .wildcards_grammar import (
    COMBINATORIAL,
    CYCLICAL,
    RANDOM,
    Assignment,
    Choice,
    Node,
    Option,
    Row,
    Text,
    Variable,
    Wildcard,
    Wrap,
    parse,
    parts,
)

MODES = (RANDOM, CYCLICAL, COMBINATORIAL)
PLACE = re.compile("[\u1801\u2026\u22ee\u22ef\u22f0\u22f1\ufe19]+|\\.{3,}")  # where a wrap has its inner text
LIMIT = 100  # combinations, where nobody says how many
SHOWN = 100  # prompts in the node and in metadata, at most
REPEATS = 20_000  # combinations without a new text, at most


@dataclass(frozen=True)
class _State:
    """What choosing depends on, beside the text."""

    mode: str
    index: int
    random: Random
    files: Files
    variables: dict[str, Node] = field(default_factory=dict)
    inside: tuple[str, ...] = ()  # the wildcards and variables that are being filled in
    parsed: dict[str, Node] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)  # wildcards that are in no circle

    def within(self, name: str, variables: dict[str, Node] | None = None) -> "_State":
        """For the inside of a wildcard or a variable.

        Raises:
            ValueError: It is inside of itself.
        """
        _refuse_circle(self.inside, name)
        return replace(self, inside=(*self.inside, name), variables={**self.variables, **(variables or {})})

    def having(self, name: str, value: Node) -> "_State":
        return replace(self, variables={**self.variables, name: value})

    def read(self, line: str, name: str) -> Node:
        """A line of the wildcard `name`."""
        if line not in self.parsed:
            try:
                self.parsed[line] = parse(line)
            except ValueError as error:
                raise ValueError(f"The wildcard '{name}' has a line that is incomplete. {error}") from None
        return self.parsed[line]

    def by(self, sampler: str | None) -> "_State":
        """With a sampler of its own; all combinations cannot be inside of a single choice."""
        return replace(self, mode=sampler) if sampler in (RANDOM, CYCLICAL) else self


def resolve(text: str, seed: int, mode: str, limit: int = LIMIT) -> tuple[str, list[str]]:
    """One prompt, by the seed, and all prompts, with the wildcard files of this ComfyUI. Raises as `prompts`."""
    texts = prompts(text, seed, mode, Files(folders()), limit)
    return texts[seed % len(texts)], texts


def shown(texts: list[str]) -> str:
    """Prompts for a reader: of several, each in a line of its own."""
    if len(texts) == 1:
        return texts[0]
    more = [f"... {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "\n".join([*(" ".join(text.split()) for text in texts[:SHOWN]), *more])


def fingerprint(text: str | None, seed: int | None, mode: str | None, limit: int | None) -> str:
    """For fingerprint_inputs: the prompts, so that an edited file counts where it changes them.

    A value over a link is None, and then any edited file counts.
    """
    if None in (text, seed, mode, limit):
        return Files(folders()).versions()
    try:
        return "\n".join(resolve(text, seed, mode, limit)[1])
    except ValueError as error:
        return str(error)


def prompts(text: str, seed: int, mode: str, files: Files, limit: int) -> list[str]:
    """The prompts of a text: one, or in the combinatorial mode up to `limit`.

    Args:
        seed: Of the random mode; the index of the cyclical mode, counted round.

    Raises:
        ValueError: The text is incomplete, a wildcard is missing or inside of itself, or there is no prompt.
    """
    node = parse(text)
    if mode != COMBINATORIAL:
        return [_one(node, _State(mode, seed, Random(seed), files))]
    combinations = list(itertools.islice(_every(node, _State(mode, 0, Random(seed), files)), limit))
    if not combinations:
        raise ValueError("The text has no combination: a choice wants more options than it has different ones.")
    return combinations


def _one(node: Node, state: _State) -> str:
    """A text of the random or the cyclical mode."""
    if isinstance(node, Text):
        return node.text
    if isinstance(node, Row):
        for part in node.parts:
            if isinstance(part, Assignment) and not (part.keep and part.name in state.variables):
                value = Text(_one(part.value, state)) if part.at_once else part.value
                state = state.having(part.name, value)
        return "".join(_one(part, state) for part in node.parts)
    if isinstance(node, Choice):
        return _chosen(node, state.by(node.sampler))
    if isinstance(node, Wildcard):
        name, inside = _inside(_one(node.name, state), node, state.by(node.sampler))
        lines = inside.files.lines(name)
        if inside.mode == CYCLICAL:
            index, pick = divmod(inside.index, len(lines))
            inside = replace(inside, index=index)
        else:
            pick = _line([weight for weight, _ in lines], name, inside.random)
        return _one(inside.read(lines[pick][1], name), inside)
    if isinstance(node, Variable):
        return _one(*_value(node, state))
    if isinstance(node, Wrap):
        return _wrapped(_one(node.outer, state), _one(node.inner, state))
    return ""  # an assignment


def _chosen(choice: Choice, state: _State) -> str:
    choice, state = _filled(choice, state, lambda name: [_one(name, state)])[0]
    if state.mode == CYCLICAL and choice.most != 1:
        choice = replace(choice, options=_different(choice.options))
    count = len(choice.options)
    least, most = min(choice.least, count), count if choice.most is None else min(choice.most, count)
    if state.mode == CYCLICAL:
        index, number = divmod(state.index, _orders(count, least, most))
        picks, state = _order(number, count, least, most), replace(state, index=index)
    elif count == least == 1:
        picks = [0]
    else:
        picks = _drawn([option.weight for option in choice.options], state.random.randint(least, most), state.random)
    return _joined([_one(choice.options[pick].node, state) for pick in picks], choice.separator)


def _line(weights: list[float], name: str, random: Random) -> int:
    if len(set(weights)) == 1 and weights[0]:
        return random.choice(range(len(weights)))
    if not any(weights):
        raise ValueError(f"All lines of the wildcard '{name}' have the weight 0. Give one of them a larger weight.")
    return random.choices(range(len(weights)), weights)[0]


def _drawn(weights: list[float], count: int, random: Random) -> list[int]:
    """Draws without putting back. What weighs nothing is never drawn, even if that leaves fewer."""
    if count and not any(weights):
        raise ValueError("All options of a choice have the weight 0. Give one of them a larger weight.")
    left, weights, drawn = list(range(len(weights))), list(weights), []
    while len(drawn) < count and sum(weights) > 0:
        place = random.choices(range(len(left)), weights)[0]
        drawn.append(left.pop(place))
        del weights[place]
    return drawn


def _orders(count: int, least: int, most: int) -> int:
    """In how many ways `least` to `most` of `count` things stand in a row."""
    return sum(math.perm(count, length) for length in range(least, most + 1))


def _order(number: int, count: int, least: int, most: int) -> list[int]:
    """The number-th way, in the order of itertools.permutations, the short ones first."""
    length = least
    while length < most and number >= math.perm(count, length):
        number -= math.perm(count, length)
        length += 1
    left, order = list(range(count)), []
    for place in range(length):
        pick, number = divmod(number, math.perm(count - place - 1, length - place - 1))
        order.append(left.pop(pick))
    return order


def _joined(texts: list[str], separator: str) -> str:
    """Empty texts at the ends bring no separator with them."""
    if len(texts) == 1 or not separator:
        return "".join(texts)
    return separator.join(texts).removeprefix(separator).removesuffix(separator)


def _wrapped(outer: str, inner: str) -> str:
    match = PLACE.search(outer)
    return outer[: match.start()] + inner + outer[match.end() :] if match else outer + inner


def _value(variable: Variable, state: _State) -> tuple[Node, _State]:
    value = state.variables.get(variable.name, variable.default)
    if value is None:
        name = variable.name
        raise ValueError(
            f"The variable '{name}' has no value. Set it with ${{{name}=...}}, or write ${{{name}:...}} for a value "
            "where none is set."
        )
    return value, state.within(f"${{{variable.name}}}")


def _inside(name: str, wildcard: Wildcard, state: _State) -> tuple[str, _State]:
    """The name of a wildcard's list, and the state for its lines."""
    name = name.strip()
    _check(name, state, ())
    return name, state.within(f"__{name}__", dict(wildcard.values))


def _check(name: str, state: _State, above: tuple[str, ...]) -> None:
    """Refuses a wildcard that leads to itself by any of its lines, so that no seed finds it later."""
    _refuse_circle(above, f"__{name}__")
    if name not in state.checked:
        try:
            lines = state.files.lines(name)
        except ValueError:  # of a line that may never be chosen
            return
        for other in _references(lines):
            _check(other, state, (*above, f"__{name}__"))
        state.checked.add(name)


def _refuse_circle(above: tuple[str, ...], name: str) -> None:
    if name in above:
        chain = " -> ".join((*above[above.index(name) :], name))
        raise ValueError(f"The text never ends: {chain}. Take one of them out of the other.")


@lru_cache(256)
def _references(lines: tuple[Line, ...]) -> tuple[str, ...]:
    """The wildcards that lines name without a variable or a choice."""
    names: dict[str, None] = {}
    for _, line in lines:
        if "__" in line:
            with suppress(ValueError):  # a line that is incomplete is refused when it is chosen
                names.update(dict.fromkeys(_names(parse(line))))
    return tuple(names)


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Wildcard) and isinstance(node.name, Text):
        yield node.name.text.strip()
    for part in parts(node):
        yield from _names(part)


def _filled(choice: Choice, state: _State, names: Callable[[Node], list[str]]) -> list[tuple[Choice, _State]]:
    """The choice; of the lines of a wildcard, where that is its only option. One for each of the wildcard's names."""
    wildcard = choice.options[0].node
    if isinstance(wildcard, Row) and choice.most != 1:  # {2$$ __name__ }
        written = [part for part in wildcard.parts if not (isinstance(part, Text) and not part.text.strip())]
        wildcard = written[0] if len(written) == 1 else wildcard
    if len(choice.options) > 1 or not isinstance(wildcard, Wildcard):
        return [(choice, state)]
    filled = []
    for name in names(wildcard.name):
        name, inside = _inside(name, wildcard, state)
        options = tuple(Option(inside.read(line, name), weight) for weight, line in inside.files.lines(name))
        filled.append((replace(choice, options=options), inside))
    return filled


def _every(node: Node, state: _State) -> Iterator[str]:
    """All texts, the first part changing slowest. A choice with a sampler of its own does not add to them."""
    if _single(node):
        yield _one(node, state)
    elif isinstance(node, Row):
        for inside in _settings([part for part in node.parts if isinstance(part, Assignment)], state):
            yield from map("".join, _product(node.parts, inside))
    elif isinstance(node, Choice):
        for choice, inside in _filled(node, state, lambda name: list(_every(name, state))):
            yield from _choices(choice, inside)
    elif isinstance(node, Wildcard):
        for name in _every(node.name, state):
            name, inside = _inside(name, node, state)
            for _, line in inside.files.lines(name):
                yield from _every(inside.read(line, name), inside)
    elif isinstance(node, Variable):
        yield from _every(*_value(node, state))
    elif isinstance(node, Wrap):
        yield from (_wrapped(outer, inner) for outer, inner in _product((node.outer, node.inner), state))
    else:
        yield ""  # an assignment


def _single(node: Node) -> bool:
    return isinstance(node, Text) or getattr(node, "sampler", None) in (RANDOM, CYCLICAL)


def _settings(assignments: list[Assignment], state: _State) -> Iterator[_State]:
    """The states after the assignments: one for each value that is chosen at once."""
    if not assignments:
        yield state
        return
    first, *rest = assignments
    if first.keep and first.name in state.variables:
        yield from _settings(rest, state)
    elif not first.at_once:
        yield from _settings(rest, state.having(first.name, first.value))
    else:
        for text in _every(first.value, state):
            yield from _settings(rest, state.having(first.name, Text(text)))


def _choices(choice: Choice, state: _State) -> Iterator[str]:
    nodes = [option.node for option in _different(choice.options)]
    count = len(nodes)
    least, most = min(choice.least, count), count if choice.most is None else min(choice.most, count)
    seen, repeats = set(), 0
    for length in range(least, most + 1):
        for texts in itertools.chain.from_iterable(
            _product(row, state) for row in itertools.permutations(nodes, length)
        ):
            if len(set(texts)) == length and tuple(texts) not in seen:
                seen.add(tuple(texts))
                yield _joined(texts, choice.separator)
                repeats = 0
            elif (repeats := repeats + 1) > REPEATS:
                raise ValueError(f"A choice of {length} options gives the same texts again and again. Choose fewer.")


def _different(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Without a text that an earlier option is."""
    texts: set[Node] = set()
    different = []
    for option in options:
        if option.node not in texts:
            different.append(option)
        if isinstance(option.node, Text):
            texts.add(option.node)
    return tuple(different)


def _product(nodes: tuple[Node, ...], state: _State) -> Iterator[list[str]]:
    """All combinations of texts. A choice with a sampler of its own gives its next text for each of them."""
    turning = [_single(node) and not isinstance(node, Text) for node in nodes]
    others = [node for node, turns in zip(nodes, turning, strict=True) if not turns]
    for index, texts in enumerate(_combinations(others, state)):
        rest, now = iter(texts), replace(state, index=index)
        yield [_one(node, now) if turns else next(rest) for node, turns in zip(nodes, turning, strict=True)]


def _combinations(nodes: list[Node], state: _State) -> Iterator[list[str]]:
    """itertools.product over endless or long iterators, which would be read to their ends first."""
    iterators: list[Iterator[str]] = []
    texts: list[str] = []
    while True:
        if len(texts) == len(nodes):
            yield texts.copy()
        else:
            iterators.append(_every(nodes[len(texts)], state))
        while iterators:
            text = next(iterators[-1], None)
            if text is not None:
                texts[len(iterators) - 1 :] = [text]
                break
            iterators.pop()
        else:
            return
