"""The grammar of Dynamic Prompts: from a text with choices, wildcards and variables to a tree.

{a|b} chooses, {2::a|b} weighs, {2$$ and $$a|b|c} chooses several, __name__ takes a line of a wildcard file, ${x=a} and
${x} are variables, %{a ... b$$c} wraps, and #, // and /* */ begin comments. ~, @ and ! behind a { or __ are a sampler.

Unlike in Dynamic Prompts, $ and % may stand alone, a backslash takes the meaning from a sign, and underscores in the
name of a tag such as <lora:a__b:1> are text.

Grammar: dynamicprompts 0.31, docs/SYNTAX.md (Adi Eyal, MIT).
"""

import re
from dataclasses import dataclass

RANDOM, CYCLICAL, COMBINATORIAL = "random", "cyclical", "combinatorial"
SAMPLERS = {"~": RANDOM, "@": CYCLICAL, "!": COMBINATORIAL}
DEEPEST = 50  # braces inside of braces

SPECIAL = re.compile(r"[\\#{$%]|__|//|/\*")
COMMENT = r"(?:#.*|//.*|/\*(?:[^*]|\*(?!/))*\*/)"
COMMENTS = re.compile(rf"(?:\s*{COMMENT})*")
SPACE = re.compile(rf"(?:\s|{COMMENT})*")
ESCAPED = re.compile(r"\\([{}|#$%]|__|//|/\*)")
PLAIN = re.compile(r"[^\\#{}|$%_<,)]+")
TAG = re.compile(r"<\w+:[^<>{}\n]*>")
COUNT = re.compile(r"(?:(\d+)-(\d+)|-(\d+)|(\d+)-|(\d+))\$\$(?:([^${}]+)\$\$)?")
WEIGHT = re.compile(r"([+-]?(?:\d+\.\d*|\.\d+)|\d+)::")
VARIABLE = re.compile(r"[^\W\d][\w-]*|-[\w-]*")
ASSIGNED = re.compile(r"(\??)=(!?)")
NAME = re.compile(r"(?:(?!__)[^(){}|$%#\n])+")
IN_CHOICE = ("|", "}")


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Row:
    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Option:
    node: "Node"
    weight: float = 1.0


@dataclass(frozen=True)
class Choice:
    """`least` to `most` of the options; most is None for all of them."""

    options: tuple[Option, ...]
    least: int = 1
    most: int | None = 1
    separator: str = ","
    sampler: str | None = None


@dataclass(frozen=True)
class Wildcard:
    """A line of the lists that `name` names, with values for the line's variables."""

    name: "Node"
    sampler: str | None = None
    values: "tuple[tuple[str, Node], ...]" = ()


@dataclass(frozen=True)
class Assignment:
    """Of a variable. at_once: its value is chosen once. keep: a value that it has stays."""

    name: str
    value: "Node"
    at_once: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Variable:
    name: str
    default: "Node | None" = None


@dataclass(frozen=True)
class Wrap:
    outer: "Node"
    inner: "Node"


Node = Text | Row | Choice | Wildcard | Assignment | Variable | Wrap


def parse(text: str) -> Node:
    """
    Raises:
        ValueError: A brace, a wildcard or a variable is not complete. The sentence says where.
    """
    return _Reader(text).row(()) if SPECIAL.search(text) else Text(text)


def parts(node: Node) -> "tuple[Node, ...]":
    """The nodes right below a node."""
    if isinstance(node, Row):
        return node.parts
    if isinstance(node, Choice):
        return tuple(option.node for option in node.options)
    if isinstance(node, Wildcard):
        return (node.name, *(value for _, value in node.values))
    if isinstance(node, Assignment):
        return (node.value,)
    if isinstance(node, Wrap):
        return node.outer, node.inner
    return (node.default,) if isinstance(node, Variable) and node.default else ()


class _Reader:
    def __init__(self, text: str):
        self.text = text
        self.at = 0
        self.depth = 0
        self.tag_end = 0

    def row(self, stops: tuple[str, ...]) -> Node:
        """All up to one of the stops, which is left, or to the end."""
        parts: list[Node] = []
        while True:
            self.at = COMMENTS.match(self.text, self.at).end()
            if self.at == len(self.text) or self.text.startswith(stops, self.at):
                return parts[0] if len(parts) == 1 else Row(tuple(parts))
            if self.opens():
                parts.append(self.special())
            elif (text := self.literal(stops)) and parts and isinstance(parts[-1], Text):
                parts[-1] = Text(f"{parts[-1].text} {text}")  # a comment was between them
            elif text:
                parts.append(Text(text))

    def opens(self) -> bool:
        """Whether something other than text begins here."""
        if self.text.startswith("__", self.at):
            before = self.text[self.at - 1 : self.at]
            return self.at >= self.tag_end or not (before.isalnum() or before == "_")
        return self.text.startswith(("{", "${", "%{"), self.at)

    def special(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.error(self.at, "is inside of too many braces", f"Use {DEEPEST} levels at most.")
        readers = {"{": self.choice, "$": self.variable, "%": self.wrap, "_": self.wildcard}
        node = readers[self.text[self.at]](self.at)
        self.depth -= 1
        return node

    def literal(self, stops: tuple[str, ...]) -> str:
        pieces = []
        while self.at < len(self.text):
            if match := PLAIN.match(self.text, self.at):
                pieces.append(match[0])
            elif match := ESCAPED.match(self.text, self.at):
                pieces.append(match[1])
            elif self.text[self.at] == "#" or self.text.startswith(stops, self.at) or self.opens():
                break
            elif stops == IN_CHOICE and self.text.startswith("$$", self.at):
                advice = "Write a number before the first $$, a separator without $ and braces, or \\$ for a real $."
                raise self.error(self.at, "is neither behind a count nor behind a separator", advice)
            else:
                if match := TAG.match(self.text, self.at):
                    self.tag_end = match.end()
                pieces.append(self.text[self.at])
                self.at += 1
                continue
            self.at = match.end()
        return "".join(pieces)

    def choice(self, start: int) -> Choice:
        self.at += 1
        self.space()
        sampler = self.sampler()
        least, most, separator = self.count()
        options = [self.option(start)]
        while self.taken("|"):
            options.append(self.option(start))
        self.at += 1
        return Choice(tuple(options), least, most, separator, sampler)

    def option(self, start: int) -> Option:
        self.space()
        match = WEIGHT.match(self.text, self.at)
        if match:
            self.at = match.end()
            if float(match[1]) < 0:
                raise self.error(match.start(), "is a negative weight", "Write 0 or more.")
        node = self.row(IN_CHOICE)
        if self.at == len(self.text):
            raise self.error(start, "is not closed", "Write } behind the last option, or \\{ for a real brace.")
        return Option(node, float(match[1]) if match else 1.0)

    def count(self) -> tuple[int, int | None, str]:
        match = COUNT.match(self.text, self.at)
        if not match:
            return 1, 1, ","
        self.at = match.end()
        low, high, most, least, exact, separator = match.groups()
        if least:
            return int(least), None, separator or ","
        ends = sorted((int(low or exact or 1), int(high or exact or most)))
        return *ends, separator or ","

    def wildcard(self, start: int) -> Wildcard:
        self.at += 2
        sampler, parts, values = self.sampler(), [], ()
        while not self.text.startswith(("__", "("), self.at):
            if match := NAME.match(self.text, self.at):
                parts.append(Text(match[0]))
                self.at = match.end()
            elif self.text.startswith("${", self.at):
                variable = self.special()
                if isinstance(variable, Assignment):
                    raise self.error(start, "sets a variable in its name", "Set the variable before the wildcard.")
                parts.append(Variable(variable.name, variable.default or Text(variable.name)))
            elif self.text.startswith("{", self.at):
                parts.append(self.special())
            else:
                break
        if parts and self.taken("("):
            values = self.values(start)
        if not parts or not self.taken("__"):
            advice = "A wildcard is written __name__. Write \\__ for real underscores."
            raise self.error(start, "begins a wildcard without an end" if parts else "names no file", advice)
        return Wildcard(parts[0] if len(parts) == 1 else Row(tuple(parts)), sampler, values)

    def values(self, start: int) -> tuple[tuple[str, Node], ...]:
        """name=value, separated by commas, up to a closing bracket."""
        values = []
        while not self.taken(")"):
            name = self.name()
            if not name or not self.taken("="):
                raise self.error(start, "has brackets without values", "Write __name(variable=value)__.")
            self.space()
            values.append((name, _without_end(self.row((",", ")")))))
            if self.at == len(self.text):
                raise self.error(start, "has a bracket that is not closed", "Write __name(variable=value)__.")
            self.taken(",")
        return tuple(values)

    def variable(self, start: int) -> Assignment | Variable:
        self.at += 2
        name = self.name()
        node: Assignment | Variable = Variable(name)
        if name and (assigned := ASSIGNED.match(self.text, self.at)):
            self.at = assigned.end()
            self.space()
            node = Assignment(name, self.row(IN_CHOICE), bool(assigned[2]), bool(assigned[1]))
        elif name and self.taken(":"):
            self.space()
            node = Variable(name, self.row(IN_CHOICE))
        if not name or not self.taken("}"):
            advice = "Write ${name=value}, ${name=!value}, ${name} or ${name:default}, or \\$ for a real $."
            raise self.error(start, "is not a complete variable", f"{advice} Choices need braces of their own.")
        return node

    def wrap(self, start: int) -> Wrap:
        self.at += 2
        self.space()
        outer = self.row(("$$", "}"))
        if self.taken("$$"):
            self.space()
            inner = self.row(("}",))
            if self.taken("}"):
                return Wrap(outer, inner)
        advice = "Write %{text before ... text behind$$text inside}, or \\% for a real %."
        raise self.error(start, "is not a complete wrap", advice)

    def name(self) -> str:
        """Of a variable, with the space around it."""
        self.space()
        match = VARIABLE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        self.space()
        return match[0] if match else ""

    def sampler(self) -> str | None:
        sampler = SAMPLERS.get(self.text[self.at : self.at + 1])
        self.at += sampler is not None
        return sampler

    def space(self) -> None:
        """Skips space and comments."""
        self.at = SPACE.match(self.text, self.at).end()

    def taken(self, sign: str) -> bool:
        """Whether the sign is here; it is skipped."""
        here = self.text.startswith(sign, self.at)
        self.at += len(sign) * here
        return here

    def error(self, at: int, what: str, advice: str) -> ValueError:
        before = self.text[:at]
        line, column = before.count("\n") + 1, at - before.rfind("\n")
        quoted = self.text[at : at + 20].split("\n")[0]
        return ValueError(f"'{quoted}' in line {line}, column {column} of the text {what}. {advice}")


def _without_end(node: Node) -> Node:
    """A value without the space at its end."""
    if isinstance(node, Text):
        return Text(node.text.rstrip())
    if isinstance(node, Row) and node.parts:
        *parts, last = node.parts
        parts += [last] if (last := _without_end(last)) != Text("") else []
        return parts[0] if len(parts) == 1 else Row(tuple(parts))
    return node
