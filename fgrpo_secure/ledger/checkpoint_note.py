"""Signed checkpoints of a ledger: a tree size and root, under Ed25519, in C2SP formats.

Formats: https://c2sp.org/tlog-checkpoint (origin, size, base64 root, one a line) and
https://c2sp.org/signed-note (a blank line, then "— name base64(key id || signature)"; key id =
SHA-256(name, newline, 0x01, public key)[:4]). A checkpoint kept elsewhere shows later that a ledger was
rewritten or cut.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_ED25519 = b"\x01"
_DASH = "\u2014 "
MAX_SIZE = 1 << 53  # entries: more than a ledger ever holds, and exact in every reader of JSON and SQL
ROOT = 32  # bytes of a Merkle root
MAX_TEXT = 1024  # characters that signatures cover: an origin, a number, a root


class BadCheckpoint(ValueError):
    """A note that is malformed, or carries no valid signature of the expected signer."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A named Ed25519 key: `public` has 32 bytes, `sign` returns 64 for any message."""

    name: str
    public: bytes
    sign: Callable[[bytes], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`size` entries of the log `origin` have the Merkle root `root`."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that signatures cover."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign(checkpoint: Checkpoint, signer: Signer) -> str:
    """The signed note. ValueError for a name or origin that the format has no room for."""
    if not checkpoint.origin or any(character.isspace() or character == "+" for character in checkpoint.origin):
        raise ValueError(f"{checkpoint.origin!r} must not be empty nor contain spaces or '+'")
    return f"{checkpoint.text}\n{signature_line(checkpoint, signer)}"


def cosign(note: str, signer: Signer) -> str:
    """`note` with one more signature line. What the note says is for the signer to check beforehand."""
    text, separator, _ = note.partition("\n\n")
    if not separator:
        raise BadCheckpoint("a note has a blank line before its signatures")
    return note + signature_line(_parse(text + "\n"), signer)


def signature_line(checkpoint: Checkpoint, signer: Signer) -> str:
    """The line by which `signer` stands for `checkpoint`."""
    if not signer.name or any(character.isspace() or character == "+" for character in signer.name):
        raise ValueError(f"{signer.name!r} must not be empty nor contain spaces or '+'")
    blob = key_id(signer.name, signer.public) + signer.sign(checkpoint.text.encode())
    return f"{_DASH}{signer.name} {base64.b64encode(blob).decode()}\n"


def verify(note: str, name: str, public: bytes) -> Checkpoint:
    """The checkpoint in `note`, if `name` signed it once with `public`; else raises BadCheckpoint.

    **Why** once, and a short text: else many lines over a long text would be many signatures to check, each long.
    """
    text, _, signatures = note.partition("\n\n")
    text += "\n"
    lines = [line for line in signatures.split("\n") if line.startswith(f"{_DASH}{name} ")]
    if len(text) > MAX_TEXT:
        raise BadCheckpoint(f"a checkpoint has at most {MAX_TEXT} characters")
    if len(lines) != 1 or not _signed(lines[0], text, name, public):
        raise BadCheckpoint(f"no valid signature of {name!r}")
    return _parse(text)


def is_bare(note: str, checkpoint: Checkpoint, name: str) -> bool:
    """Whether a verified note is, to the byte, this checkpoint with one line of `name` and nothing else."""
    head = f"{checkpoint.text}\n{_DASH}{name} "
    blob = note[len(head) : -1]
    try:
        canonical = base64.b64encode(base64.b64decode(blob, validate=True)).decode()
    except ValueError:
        return False
    return note == f"{head}{canonical}\n"


def _signed(line: str, text: str, name: str, public: bytes) -> bool:
    try:
        written = line.rsplit(" ", 1)[1]
        blob = base64.b64decode(written, validate=True)
        # In its one form: base64 has others for the same bytes, by which a note could be changed unnoticed.
        if base64.b64encode(blob).decode() != written or blob[:4] != key_id(name, public):
            return False
        Ed25519PublicKey.from_public_bytes(public).verify(blob[4:], text.encode())
    except (InvalidSignature, ValueError):  # not base64, or not even ASCII
        return False
    return True


def _parse(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) != 4 or not lines[1].isascii() or not lines[1].isdecimal():
        raise BadCheckpoint("a checkpoint has three lines: origin, size and root")
    # Before `int`, which fails on thousands of digits, and before a size that no client could store.
    if len(lines[1]) > len(str(MAX_SIZE)) or int(lines[1]) > MAX_SIZE or str(int(lines[1])) != lines[1]:
        raise BadCheckpoint(f"a checkpoint's size is a number up to {MAX_SIZE}, without zeros before it")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except ValueError:
        raise BadCheckpoint("a checkpoint's root is not base64") from None
    if len(root) != ROOT or base64.b64encode(root).decode() != lines[2]:
        raise BadCheckpoint(f"a checkpoint's root has {ROOT} bytes, in the one form of their base64")
    return Checkpoint(lines[0], int(lines[1]), root)


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes that tell a note's signature keys apart."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]
