"""What a GGUF file says of itself, read without believing it: nothing is built, and no count asks for more work than
the file has bytes.

    magic "GGUF", version | number of tensors, number of keys | keys with values | tensors: name, shape, type, offset

The library that reads such files later takes each of these numbers as it stands: a length of 2^63 is a traceback
there, and a network of 2^31 layers is built before the first weight is looked for.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4
NUMBERS_PER_BYTE = 8  # no kind of quantisation packs more

Number = int | float | bool
Value = Number | str | tuple[Number, ...] | None


class Malformed(ValueError):
    """The file is no GGUF file, or contradicts itself; the sentence says in what."""


@dataclass(frozen=True, slots=True)
class Header:
    """`keys` with their values, texts in lists left out; `tensors` with their shapes."""

    keys: Mapping[str, Value]
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def numbers(self) -> int:
        """How many weights the file holds."""
        return sum(math.prod(shape) for shape in self.tensors.values())


def read(path: Path) -> Header:
    """The header of the file. Raises Malformed, and OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        source = _Source(file, size)
        if source.take(4) != MAGIC:
            raise Malformed("it does not begin with 'GGUF'")
        if source.number("I") not in VERSIONS:
            raise Malformed("its version is neither 2 nor 3")
        tensors, keys = source.count(24), source.count(13)
        header = Header(dict(source.key() for _ in range(keys)), dict(source.tensor() for _ in range(tensors)))
    if header.numbers > NUMBERS_PER_BYTE * size:
        raise Malformed("its tensors are larger than the file")
    _check(header)
    return header


class _Source:
    """The bytes of a file, of which no more are asked for than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def take(self, length: int) -> bytes:
        if length > self._left:
            raise Malformed("it ends before its header does")
        self._left -= length
        return self._file.read(length)

    def number(self, kind: str) -> int:
        return int(self._scalar(kind))

    def count(self, smallest: int) -> int:
        """Of things of at least `smallest` bytes each."""
        found = self.number("Q")
        if found * smallest > self._left:
            raise Malformed("it ends before its header does")
        return found

    def text(self) -> str:
        try:
            return self.take(self.count(1)).decode()
        except UnicodeDecodeError:
            raise Malformed("a text in its header is not UTF-8") from None

    def key(self) -> tuple[str, Value]:
        return self.text(), self._value(self.number("I"))

    def tensor(self) -> tuple[str, tuple[int, ...]]:
        name, dimensions = self.text(), self.number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise Malformed(f"a tensor has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        self.take(12)  # type and offset: the library checks these
        return name, shape

    def _value(self, kind: int) -> Value:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self._scalar(_format(kind))
        inner = self.number("I")
        if inner == STRING:
            for _ in range(self.count(8)):
                self.take(self.count(1))
            return None
        kind_of_all = _format(inner)
        length = self.count(struct.calcsize(kind_of_all))
        data = self.take(length * struct.calcsize(kind_of_all))
        return tuple(struct.unpack(f"<{length}{kind_of_all}", data))

    def _scalar(self, kind: str) -> Number:
        (found,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))
        if isinstance(found, int | float):
            return found
        raise Malformed("a number in its header is none")


def _format(kind: int) -> str:
    if kind not in SCALARS:
        raise Malformed(f"a value in its header has the unknown type {kind}")
    return SCALARS[kind]


def _check(header: Header) -> None:
    """Every whole number that its keys state of the network is one that its tensors bear out.

    Raises Malformed. A length of texts (a context, a window) is no size of anything that is built.
    """
    family = header.keys.get("general.architecture")
    if not isinstance(family, str) or not header.tensors:
        raise Malformed("it names no architecture, or holds no weights")
    largest = max(max(shape) for shape in header.tensors.values())
    layers = len({name.split(".")[1] for name in header.tensors if name.startswith("blk.")})
    if header.keys.get(f"{family}.block_count") != layers:
        raise Malformed(f"the block_count of its architecture is not the number of its layers, {layers}")
    for key, value in header.keys.items():
        name = key.removeprefix(f"{family}.")
        sized = name != key and name.endswith(("_count", "_length")) and not name.endswith("context_length")
        for each in value if isinstance(value, tuple) else (value,):
            if sized and isinstance(each, int) and not 0 <= each <= largest:
                raise Malformed(f"{key!r} is {each}, and no dimension of its tensors is larger than {largest}")
