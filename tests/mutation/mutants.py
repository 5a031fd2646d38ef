"""Single changes of a source file that a test ought to notice, and how some of them are drawn.

The operators are those of mutmut, which change numbers, strings, operators, arguments, assignments, keywords and
branches, and five of our own: a condition negated, a call dropped, a `raise` dropped or made an AssertionError, and a
value not returned. Left out is what no one is promised: docstrings and annotations, strings in a `raise` (the
wording of a message), imports and decorators (`frozen`, `slots`), logging, and the type in a `cast`.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_string

LEFT_OUT = (
    cst.Annotation,
    cst.Import,
    cst.ImportFrom,
    cst.Decorator,
    cst.SubscriptElement,
    cst.TypeAlias,
)  # a subscript may be an index: `of_index` lets those through
LOGGERS = {"log", "logger", "logging", "warnings"}


@dataclass(frozen=True)
class Mutant:
    """One change: `source` is the whole changed file."""

    path: str
    line: int
    operator: str
    diff: str
    source: str

    @property
    def key(self) -> str:
        """What names it in results, as long as its lines stand."""
        return f"{self.path}\n{self.diff}"


def negated(node: cst.If | cst.While) -> Iterator[cst.CSTNode]:
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))


def call_dropped(node: cst.Expr) -> Iterator[cst.CSTNode]:
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def raise_changed(node: cst.Raise) -> Iterator[cst.CSTNode]:
    yield cst.Pass()
    if node.exc is not None:
        yield node.with_changes(exc=cst.Name("AssertionError"), cause=None)


def nothing_returned(node: cst.Return) -> Iterator[cst.CSTNode]:
    if node.value is not None and not (isinstance(node.value, cst.Name) and node.value.value == "None"):
        yield node.with_changes(value=cst.Name("None"))


def argument_dropped(node: cst.Call) -> Iterator[cst.CSTNode]:
    """The changes that shorten the call. None for an argument mostly ends in a TypeError, which proves little."""
    yield from (changed for changed in operator_arg_removal(node) if len(changed.args) < len(node.args))


def text_changed(node: cst.SimpleString) -> Iterator[cst.CSTNode]:
    """The first change alone: upper and lower case would weigh strings threefold."""
    yield from list(operator_string(node))[:1]


OPERATORS = [
    *((kind, change) for kind, change in mutation_operators if change not in (operator_string, operator_arg_removal)),
    (cst.Call, argument_dropped),
    (cst.SimpleString, text_changed),
    (cst.If, negated),
    (cst.While, negated),
    (cst.Expr, call_dropped),
    (cst.Raise, raise_changed),
    (cst.Return, nothing_returned),
]


def is_text(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.SimpleString | cst.FormattedString | cst.ConcatenatedString)


def name_of(node: cst.CSTNode) -> str:
    """The first name of `a.b.c`."""
    while isinstance(node, cst.Attribute):
        node = node.value
    return node.value if isinstance(node, cst.Name) else ""


class Places(cst.CSTVisitor):
    """The nodes that may be changed, in order, each with whether it is part of a `raise`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, bool]] = []
        self._raises = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Subscript):
            node.value.visit(self)
            if not self._names_a_type(node):
                for element in node.slice:
                    element.slice.visit(self)
            return False
        if isinstance(node, LEFT_OUT) or self._is_prose(node):
            return False
        self._raises += isinstance(node, cst.Raise)
        self.found.append((node, self._raises > 0))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self._raises -= isinstance(original_node, cst.Raise)

    def _is_prose(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Expr) and is_text(node.value):
            return True  # a docstring
        if isinstance(node, cst.Call) and name_of(node.func) in LOGGERS | {"cast", "TypeVar", "NewType"}:
            return True
        return self._raises > 0 and is_text(node)

    def _names_a_type(self, node: cst.Subscript) -> bool:
        return name_of(node.value)[:1].isupper() or name_of(node.value) in {"tuple", "list", "dict", "set", "frozenset"}


def changes(node: cst.CSTNode, in_raise: bool) -> Iterator[tuple[str, cst.CSTNode]]:
    """(operator, changed node) of every single change of this node itself."""
    for kind, change in OPERATORS:
        if not isinstance(node, kind):
            continue
        for changed in change(node):
            if not (in_raise and isinstance(node, cst.Call) and _loses_text(node, changed)):
                yield change.__name__.removeprefix("operator_"), changed


def _loses_text(node: cst.Call, changed: cst.CSTNode) -> bool:
    """Whether an argument that was taken away is the wording of a message."""
    if not isinstance(changed, cst.Call):
        return False
    kept = {id(argument.value) for argument in changed.args}
    return any(is_text(argument.value) and id(argument.value) not in kept for argument in node.args)


def places(path: str, source: str) -> list[tuple[str, int, cst.Module, cst.CSTNode, str, int]]:
    """All changes of one file, unrendered: (path, line, module, node, operator, which of its changes)."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    positions = wrapper.resolve(PositionProvider)
    visitor = Places()
    wrapper.module.visit(visitor)
    found = []
    for node, in_raise in visitor.found:
        for index, (operator, _) in enumerate(changes(node, in_raise)):
            found.append((path, positions[node].start.line, wrapper.module, node, operator, index + 1000 * in_raise))
    return found


def rendered(place: tuple[str, int, cst.Module, cst.CSTNode, str, int]) -> Mutant | None:
    """The changed file; None if it is no Python or means the same."""
    path, line, module, node, operator, index = place
    changed = list(changes(node, index >= 1000))[index % 1000][1]
    before, after = module.code, module.deep_replace(node, changed).code
    try:
        same = ast.dump(ast.parse(before)) == ast.dump(compile(after, path, "exec", ast.PyCF_ONLY_AST))
        compile(after, path, "exec", dont_inherit=True)
    except SyntaxError:
        return None
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    diff = "\n".join(entry for entry in lines if not entry.startswith(("---", "+++", "@@")))
    return None if same else Mutant(path, line, operator, diff, after)


def drawn(root: Path, files: Iterable[str], count: int, seed: int) -> tuple[int, list[Mutant]]:
    """How many changes there are, and `count` of them, distinct, in random order: a beginning is a sample as well."""
    everything = [place for path in sorted(files) for place in places(path, (root / path).read_text("utf-8"))]
    order = list(everything)
    Random(seed).shuffle(order)
    chosen: dict[str, Mutant] = {}
    for place in order:
        if len(chosen) == count:
            break
        mutant = rendered(place)
        if mutant is not None:
            chosen.setdefault(f"{mutant.path}:{mutant.source}", mutant)
    return len(everything), list(chosen.values())
