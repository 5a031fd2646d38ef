"""The forger: it holds the server's private key and every file of a finished run, and changes one leaf at a time.

What there is to change is read off the files themselves, by their formats: no list of fields is kept here. After a
change everything that the server's key can sign is signed again: the statement, its lines on the notes, the manifest;
a ledger is rebuilt so that every row follows from the one before it. What the clients and the authority signed, nobody
can sign again.
"""

import base64
import json
import shutil
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fgrpo_secure.evidence import basis, manifest, registry, statement, summary, verify
from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.ledger import checkpoint_note
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger import entries as ledger_entry
from fgrpo_secure.ledger.checkpoint_note import Checkpoint
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.storage import signed_file
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.identity import Identity

Place = tuple[str | int, ...]
# Words that stand for one another in a configuration or a statement: a forger puts in what would be believed.
WORDS = (
    ("honest_but_curious", "lying_server"),
    ("complete", "sparse"),
    ("client", "subject", "prompt_group", "none"),
    ("distributed", "local"),
    ("secure", "plain"),
    ("settled", "aborted", "open"),
    ("os", "seeded"),
    ("charged", "masked", "public", "key material", "participation"),
    ("dr_grpo", "grpo"),
    ("sgd", "adam"),
    ("softmax", "linear", "uniform"),
)


@dataclass(frozen=True)
class Leaf:
    """One value in one document: `place` leads to it."""

    document: str
    place: Place

    def __str__(self) -> str:
        return f"{self.document}: {'.'.join(map(str, self.place))}"


@dataclass(frozen=True)
class Format:
    """How a document becomes a tree of tables, lists and values, and a tree a document."""

    read: Callable[[Path], Any]
    write: Callable[[Path, Any], None]


def documents(directory: RunDirectory) -> Iterator[str]:
    """Every file of the run, by its path in the directory; the ledger a second time for what its entries say."""
    for path in sorted(directory.root.rglob("*")):
        if path.is_file():
            yield path.relative_to(directory.root).as_posix()
    yield "ledger.sqlite#entries"


def leaves(directory: RunDirectory) -> Iterator[Leaf]:
    """Every leaf of every document."""
    for document in documents(directory):
        yield from (Leaf(document, place) for place, _ in _walk(_tree(directory, document)))


def forgeries(directory: RunDirectory, leaf: Leaf) -> list[Any]:
    """The values to put into a leaf, all different from what is there."""
    value = _tree(directory, leaf.document)
    for part in leaf.place:
        value = value[part]
    return [each for each in _others(value) if each != value or type(each) is not type(value)]


def forge(run: RunDirectory, copy: Path, leaf: Leaf, value: Any, key: Identity) -> RunDirectory:
    """A copy of the run with `value` in `leaf`, and everything signed again that `key` can sign."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run.root, copy)
    directory = RunDirectory(copy)
    tree = _tree(directory, leaf.document)
    inner = tree
    for part in leaf.place[:-1]:
        inner = inner[part]
    inner[leaf.place[-1]] = value
    name = leaf.document.partition("#")[0]
    _format(leaf.document).write(directory.root / name, tree)
    sign_again(directory, leaf, key)
    return directory


def sign_again(directory: RunDirectory, leaf: Leaf, key: Identity) -> None:
    """What the server's key can do about a change."""
    name = leaf.document.partition("#")[0]
    path = directory.root / name
    if path.suffix == ".note":
        _sign_note(path, key)
    if leaf.document == "ledger.sqlite#entries":
        _follow_ledger(directory, key)
    if path == directory.statement and leaf.place[0] != "signature":
        content = json.loads(path.read_bytes())
        content.pop("signature", None)
        signed_file.write(path, content, key)
    if path != directory.manifest:
        manifest.write(directory, key)
    elif leaf.place[0] != "signature":
        content = json.loads(path.read_bytes())
        content.pop("signature", None)
        signed_file.write(path, content, key)


def _walk(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _walk(value, (*place, name))
    elif isinstance(tree, list) and tree:
        for position, value in enumerate(tree):
            yield from _walk(value, (*place, position))
    else:
        yield place, tree


def _others(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, max(0, value - 1)]
        case float():
            return [value / 2, value * 2 + 0.25]
        case None:
            return [1, 0.5, "x"]
        case bytes():
            return [value[:-1] + bytes([value[-1] ^ 1])] if value else [b"x"]
        case str():
            return _other_texts(value)
        case _:  # an empty table or list
            return [["x"]] if isinstance(value, list) else [{"x": "x"}]


def _other_texts(text: str) -> list[str]:
    for words in WORDS:
        if text in words:
            return [word for word in words if word != text]
    numerator, slash, denominator = text.partition("/")
    if slash and numerator.isdecimal() and denominator.isdecimal():
        return [f"{numerator}/{int(denominator) + 2}"]
    if text and set(text) <= set("0123456789abcdef"):
        return [("1" if text[0] != "1" else "2") + text[1:]]
    return [f"{text} and more", "other"]


# ------------------------------------------------------------------------------------------------------------ formats


def _tree(directory: RunDirectory, document: str) -> Any:
    return _format(document).read(directory.root / document.partition("#")[0])


def _format(document: str) -> Format:
    if document.endswith("#entries"):
        return Format(_read_entries, _write_entries)
    return FORMATS.get(Path(document).suffix, TEXT)


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, sort_keys=True, indent=2) + "\n")


def _write_toml(path: Path, tree: Any) -> None:
    path.write_text("".join(f"{json.dumps(name)} = {_toml(value)}\n" for name, value in tree.items()))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _read_note(path: Path) -> list[list[str]]:
    return [line.split(" ") for line in path.read_text(encoding="utf-8").splitlines()]


def _write_note(path: Path, lines: list[list[str]]) -> None:
    path.write_text("".join(" ".join(line) + "\n" for line in lines), encoding="utf-8")


def _read_tensors(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    tensors = {name: data[end:][slice(*about["data_offsets"])] for name, about in header.items() if "dtype" in about}
    return {"header": header, "tensors": tensors}


def _write_tensors(path: Path, tree: dict[str, Any]) -> None:
    header = json.dumps(tree["header"], separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"".join(tree["tensors"].values()))


def _read_tables(path: Path) -> dict[str, Any]:
    with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: [list(row) for row in database.execute(f"SELECT * FROM {name}")] for name in names}  # noqa: S608
    database.close()
    return found


def _write_tables(path: Path, tree: dict[str, Any]) -> None:
    database = sqlite3.connect(path)
    made = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")]
    database.close()
    path.unlink()
    database = sqlite3.connect(path)
    for sql in (each for each in made if "TRIGGER" not in each):
        database.execute(sql)
    for name, rows in tree.items():
        for row in rows:
            marks = ", ".join("?" * len(row))
            database.execute(f"INSERT INTO {name} VALUES ({marks})", row)  # noqa: S608
    for sql in (each for each in made if "TRIGGER" in each):
        database.execute(sql)
    database.commit()
    database.close()


def _read_entries(path: Path) -> list[Any]:
    store = Ledgers.read(path)
    try:
        return [dict(entry) for entry in store.existing("server").entries()]
    finally:
        store.close()


def _write_entries(path: Path, entries: list[Any]) -> None:
    """A ledger with these entries, each row following from the one before it. ValueError where none can."""
    tables = _read_tables(path)
    before, intents, rows = None, {}, []
    for entry in entries:
        fields = {**entry, "position": 0 if before is None else before.position + 1}
        content = ledger_entry.canonical(fields)
        before = ledger_entry.replay(entry["owner"], before, intents, content)
        rows.append(list(before.dump()))
    _write_tables(path, {**tables, "entry": rows})


FORMATS = {
    ".json": Format(lambda path: json.loads(path.read_bytes()), _write_json),
    ".jsonl": Format(_read_lines, _write_lines),
    ".toml": Format(lambda path: tomllib.loads(path.read_text()), _write_toml),
    ".yaml": Format(
        lambda path: yaml.safe_load(path.read_text()),
        lambda path, tree: (
            path.write_text(yaml.safe_dump(tree, sort_keys=True, allow_unicode=False, width=120)) and None
        ),
    ),
    ".note": Format(_read_note, _write_note),
    ".safetensors": Format(_read_tensors, _write_tensors),
    ".sqlite": Format(_read_tables, _write_tables),
    ".bin": Format(
        lambda path: msgspec.msgpack.decode(path.read_bytes()),
        lambda path, tree: path.write_bytes(msgspec.msgpack.encode(tree)) and None,
    ),
}
TEXT = Format(lambda path: [path.read_bytes()], lambda path, tree: path.write_bytes(tree[0]) and None)


# ---------------------------------------------------------------------------------------------------------- signatures


def _sign_note(path: Path, key: Identity) -> None:
    """The server's line over what the note says now; nothing where it says nothing that can be signed."""
    text, _, lines = path.read_text(encoding="utf-8").partition("\n\n")
    try:
        origin, size, root = text.split("\n")
        checkpoint = Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
        line = checkpoint_note.signature_line(checkpoint, witness.signer(key, witness.SERVER))
    except ValueError:
        return
    if f"\u2014 {witness.SERVER} " not in lines:  # the server's own name was the leaf
        return
    others = [each for each in lines.splitlines(keepends=True) if f" {witness.SERVER} " not in each]
    path.write_text(f"{text}\n\n{line}{''.join(others)}", encoding="utf-8")


def _follow_ledger(directory: RunDirectory, key: Identity) -> None:
    """Notes and statement name the root of the ledger that there is now."""
    store = Ledgers.read(directory.ledger)
    ledger = store.existing(witness.SERVER)
    for path in directory.notes.glob("*.note"):
        lines = _read_note(path)
        size = int(lines[1][0])
        if size <= ledger.size():
            lines[2] = [base64.b64encode(ledger.root_at(size)).decode()]
            _write_note(path, lines)
            _sign_note(path, key)
    content = signed_file.read(directory.statement)
    content["ledger"] |= {"size": ledger.size(), "root": ledger.root().hex()}
    signed_file.write(directory.statement, content, key)
    store.close()


# ------------------------------------------------------------------------------------------------------------ campaign


class Fate(StrEnum):
    """What became of a forged leaf."""

    REFUSED = "refused"
    ASSERTED = "asserted"  # accepted, and the auditor is shown the forged value as the server's word
    UNCHECKED = "unchecked"  # accepted, in a file of which `verify` says that it did not check it
    ACCEPTED = "accepted"  # silently


def fate(run: RunDirectory, copy: Path, leaf: Leaf, key: Identity, trust: verify.Trust, honest: dict[str, Any]) -> Fate:
    """The worst that comes of any forgery of a leaf; `honest` is what the run itself asserts."""
    worst = Fate.REFUSED
    for value in forgeries(run, leaf):
        try:
            forged = forge(run, copy, leaf, value, key)
        except (ValueError, TypeError, KeyError, ArithmeticError, sqlite3.Error):
            continue  # no file can say that at all
        if _tree(forged, leaf.document) == _tree(run, leaf.document):
            continue  # signing or rebuilding undid it: nothing is forged
        try:
            shown = asserted(forged, trust)
        except verify.Mismatch:
            continue
        if leaf.document in verify.UNCHECKED:
            worst = Fate.UNCHECKED
        elif shown != honest:
            worst = Fate.ASSERTED
        else:
            return Fate.ACCEPTED
    return worst


def restate(run: RunDirectory, authority: bytes, key: Identity) -> None:
    """Write all that follows from a forged ledger, as the server would."""
    known = basis.read(run, authority)
    written = json.loads(run.summary.read_bytes())
    word = {name: written[name] for name in summary.ASSERTED}
    counts = {name: written[name] for name in ("dropouts", "failed_sessions")}
    run.write_summary(summary.derived(known, None, counts) | word)
    lines = [line | told for line, told in zip(run.read_metrics(), summary.metrics(known), strict=True)]
    _write_lines(run.metrics, lines)
    stated = form.builtins(statement.statement(known, summary.results(written), (), None))
    signed_file.write(run.statement, stated, key)
    run.registry.write_text(registry.dump(registry.build(stated, known.config.deployment)))
    manifest.write(run, key)


def asserted(run: RunDirectory, trust: verify.Trust) -> dict[str, Any]:
    """What an auditor is shown as the server's word."""
    with ExitStack() as held:
        evidence = verify.Evidence(run, trust, held)
        for _ in verify.steps(evidence):
            pass
        return evidence.asserted
