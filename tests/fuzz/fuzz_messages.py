"""Messages to break things with: every kind that the protocol has, real ones, and ways to change them.

Kinds are found, not listed, so that a message which is added tomorrow is fuzzed tomorrow. Every choice is
drawn from one `random.Random`, which a seed, hypothesis or a coverage-guided fuzzer stands behind.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
from msgspec import inspect

import protocols

EDGES = (0, 1, 2, 127, 128, 255, 256, 2**16 - 1, 2**31, 2**32 - 1, 2**32, 2**48, 2**48 + 1, 2**63, 2**64 - 1, -1)
# X25519 keys of small order, on the curve and its twist, reduced and not: 0, 1, two of order 8, p - 1, p, p + 1.
SMALL_ORDER = tuple(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
STRANGE = (
    None,
    True,
    1.5,
    float("nan"),
    {},
    {b"key": 1},
    "",
    "x" * 200,
    "\0\x1b[31m",
    [],
    [[]],
    msgspec.msgpack.Ext(5, b"x"),
)
HEADS = bytes(
    [0x80, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xC5, 0xC6, 0xC7, 0xCA, 0xCB, 0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDF]
)


def kinds() -> dict[str, type[msgspec.Struct]]:
    """Every message that bytes from somebody else are decoded to, by its tag."""
    found = {}
    for entry in pkgutil.iter_modules(protocols.__path__):
        module = importlib.import_module(f"protocols.{entry.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct:
                config = kind.__struct_config__
                if isinstance(config.tag, str) and config.forbid_unknown_fields:
                    found[config.tag] = kind
    return found


def example(kind: type[msgspec.Struct]) -> bytes:
    """The least message of a kind, for kinds of which no recorded session has one."""
    fields = [_least(entry.type) for entry in inspect.type_info(kind).fields]
    return msgspec.msgpack.encode([kind.__struct_config__.tag, *fields])


def _least(kind: inspect.Type) -> Any:
    match kind:
        case inspect.BytesType():
            return bytes(kind.min_length or 0)
        case inspect.StrType():
            return "a" * (kind.min_length or 0)
        case inspect.IntType():
            return kind.ge or 0
        case inspect.BoolType():
            return False
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.VarTupleType() | inspect.ListType():
            return [_least(kind.item_type) for _ in range(kind.min_length or 0)]
        case inspect.TupleType():
            return [_least(item) for item in kind.item_types]
        case inspect.StructType():
            return msgspec.msgpack.decode(example(kind.cls))
        case inspect.UnionType():
            return _least(kind.types[0])
        case inspect.NoneType():
            return None
    raise TypeError(f"no example of {kind}")


def tree(data: bytes) -> Any:
    """Any MessagePack as lists, with the messages inside byte strings taken apart too; None if it is none."""
    try:
        return _nested(msgspec.msgpack.decode(data))
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return None


class Inside(list):
    """A message that travels encoded, as a byte string, inside another one."""


def _nested(value: Any) -> Any:
    if isinstance(value, bytes) and value[:1] and 0x90 <= value[0] <= 0x9F:
        inner = tree(value)
        return Inside(inner) if isinstance(inner, list) and inner and isinstance(inner[0], str) else value
    return [_nested(item) for item in value] if isinstance(value, list) else value


def flat(value: Any) -> bytes:
    """The inverse of `tree`."""
    return msgspec.msgpack.encode(_closed(value))


def _closed(value: Any) -> Any:
    if isinstance(value, list):
        plain = [_closed(item) for item in value]
        return msgspec.msgpack.encode(plain) if isinstance(value, Inside) else plain
    return value


def parts(value: Any) -> Iterator[tuple[list, int]]:
    """Every place of a tree, as (its list, position in it)."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield value, at
            yield from parts(item)


def by_tag(messages: list[bytes]) -> dict[str, list[bytes]]:
    """Every message in a recording, those inside others too, by tag."""
    found: dict[str, dict[bytes, None]] = {}
    for data in messages:
        top = tree(data)
        for item in (top, *(group[at] for group, at in parts(top))):
            if isinstance(item, list) and item and isinstance(item[0], str):
                found.setdefault(item[0], {})[flat(list(item))] = None
    return {tag: list(group) for tag, group in found.items()}


def changed(data: bytes, pool: list[bytes], rng: Random) -> bytes:
    """A mutation of a message: of its structure mostly, else of its bytes. `pool` are messages to splice from."""
    for _ in range(1 + (rng.randrange(4) == 0) * rng.randrange(4)):
        top = tree(data) if rng.randrange(4) else None
        data = _bent(data, pool, rng) if top is None else _reshaped(top, pool, rng)
    return data


def _reshaped(top: Any, pool: list[bytes], rng: Random) -> bytes:
    places = list(parts(top))
    if not places:
        return flat(rng.choice(STRANGE))
    group, at = rng.choice(places)
    item = group[at]
    draw = rng.randrange(16)
    if draw == 0:
        group[at] = rng.choice(STRANGE)
    elif draw == 1:
        other = tree(rng.choice(pool))
        donors = [g[p] for g, p in parts(other)] or [other]
        group[at] = rng.choice(donors)
    elif draw == 2:
        del group[at]
    elif draw == 3:
        group.insert(at, item)
    elif isinstance(item, bool) or item is None or isinstance(item, float):
        group[at] = rng.choice(STRANGE)
    elif isinstance(item, int):
        group[at] = rng.choice((*EDGES, min(item + 1, 2**64 - 1), max(item, 1) - 1, *_siblings(top, int)))
    elif isinstance(item, bytes):
        group[at] = _bytes(item, top, rng)
    elif isinstance(item, str):
        group[at] = rng.choice((*_siblings(top, str), "", item + "x", item.upper(), "a" * 65))
    elif isinstance(item, list):
        _list(item, rng)
    return flat(top)


def _siblings(top: Any, kind: type) -> list[Any]:
    return [group[at] for group, at in parts(top) if type(group[at]) is kind]


def _bytes(item: bytes, top: Any, rng: Random) -> bytes:
    draw = rng.randrange(7)
    if draw == 0:
        return item[: rng.randrange(len(item) + 1)]
    if draw == 1:
        return item + bytes(1 + rng.randrange(3))
    if draw == 2:
        return rng.choice((bytes(len(item)), b"\xff" * len(item)))
    if draw == 3:
        return rng.choice(SMALL_ORDER)
    if draw == 4:
        return rng.choice(_siblings(top, bytes))
    return _bent(item, [item], rng)


def _list(item: list, rng: Random) -> None:
    draw = rng.randrange(6)
    if draw == 0:
        item.reverse()
    elif draw == 1:
        rng.shuffle(item)
    elif draw == 2:
        del item[rng.randrange(len(item) + 1) :]
    elif draw == 3 and len(item) < 200:
        item.extend(item * rng.randrange(1, 4))
    elif draw == 4:
        del item[: rng.randrange(len(item) + 1)]
    elif item:
        item.append(item[rng.randrange(len(item))])


def _bent(data: bytes, pool: list[bytes], rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    draw = rng.randrange(8)
    if draw < 3 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if draw == 3:
        return data[:at] + bytes(rng.choice(HEADS) for _ in range(1 + rng.randrange(3))) + data[at + 1 :]
    if draw == 4:
        return data[:at]
    if draw == 5:
        return data[:at] + data[at + 1 + rng.randrange(40) :]
    if draw == 6:
        other = rng.choice(pool)
        return data[:at] + other[rng.randrange(len(other) + 1) :]
    head = rng.choice((b"\xdd", b"\xc6", b"\xdb", b"\xdf", b"\xc9"))
    return data[:at] + head + rng.choice(EDGES[:12]).to_bytes(8, "big")[-4:] + data[at + 5 :]
