"""One table of a configuration, of a policy or of settings: closed, immutable, and exact about types.

No value is taken for one of another type: "2" is no number, true is no 1 and 1 is no true. The libraries that read
tables would turn one into the other without a word, and their author meant something else.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction01 = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
PLAIN = (bool, int, float, str)
LONGEST_TEXT = 4096  # characters: no file has a longer path
UNUSABLE_TEXT = "unusable_text"
ANOTHER_TYPE = "another_type"  # the kind of a refusal below; whoever words it says what is allowed


class Section(BaseModel):
    """One table of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    of_several_lines: ClassVar[frozenset[str]] = frozenset()  # keys whose texts a model reads, not a person at a screen

    @field_validator("*", mode="before")
    @classmethod
    def of_its_own_type(cls, value: Any, about: ValidationInfo) -> Any:
        """Not even of a type that could be read as the right one."""
        name = str(about.field_name)
        _check(value, _plain_of(cls, name), "\n\t" if name in cls.of_several_lines else "")
        return value


def _check(value: Any, allowed: frozenset[type], besides: str) -> None:
    """Refuses if `value`, or one inside it, is of a plain type that is not in `allowed`, or a text that cannot be
    printed, but for the characters `besides`. With no plain type allowed, the tables inside check what is theirs."""
    if not allowed:
        return
    for each in (value,) if type(value) in PLAIN else _leaves(value):
        empty = value == ""  # in a list, whoever reads the list knows more about its entries
        if (
            isinstance(each, str)
            and str in allowed
            and (empty or len(each) > LONGEST_TEXT or not _printable(each, besides))
        ):
            raise PydanticCustomError(UNUSABLE_TEXT, "is empty, too long, or holds what cannot be printed")
        kind = type(each)
        taken = kind in allowed or (kind is int and float in allowed)
        if kind in PLAIN and not taken:
            raise PydanticCustomError(ANOTHER_TYPE, "of another type than the key's")


def _printable(text: str, besides: str) -> bool:
    return text.isprintable() or (besides != "" and all(letter.isprintable() or letter in besides for letter in text))


@cache  # a plan's settings are read at every step of every client, and types do not change
def _plain_of(section: type[Section], field: str) -> frozenset[type]:
    """The plain types that some part of a key's annotation has."""
    return frozenset(_plain(section.model_fields[field].annotation))


def _plain(annotation: Any) -> Iterable[type]:
    if annotation in PLAIN:
        yield annotation
    elif get_origin(annotation) is Literal:
        yield from {type(choice) for choice in get_args(annotation)}
    else:
        for part in get_args(annotation):
            yield from _plain(part)


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
