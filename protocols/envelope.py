"""The envelope around everything that a client sends: its signature over session, step and message.

Nobody on the way can speak for a client, hold back its right answer by sending another under its name, or have it
blamed for bytes that it never sent. The signatures inside messages stay: they bind a client's view (S1, S2, outcome)
and are relayed to other clients, which envelopes are not.

Reading copies nothing: a message of the wrong form costs the server no more memory than its bytes.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from protocols import labels, wire
from protocols.errors import Malformed
from protocols.identity import SIGNATURE_BYTES, Identity
from protocols.wire import Step

Message = TypeVar("Message", bound=msgspec.Struct)

_NUMBERS = {step: number.to_bytes(8, "big") for number, step in enumerate(Step, start=1)}
_EMPTY = wire.encode(wire.Signed(b"", wire.UNSIGNED))

TAIL = b"\xc4\x40"  # the head of 64 bytes, between body and signature
PREFIX = _EMPTY[: -(2 + len(TAIL) + SIGNATURE_BYTES)]  # what stands before the body's own head
OVERHEAD = len(PREFIX) + 5 + len(TAIL) + SIGNATURE_BYTES  # the most bytes that an envelope adds


def sign(identity: Identity, session: bytes, client: int, step: Step, message: wire.Answer) -> bytes:
    """The bytes to send: a message in its envelope."""
    body = wire.encode(message)
    content = wire.encode(wire.digest_only(message)) if isinstance(message, wire.Upload) else body
    return wire.encode(wire.Signed(body, signature(identity, session, client, step, content_digest(content))))


def signature(identity: Identity, session: bytes, client: int, step: Step, digest: bytes) -> bytes:
    """A client's signature over one message of one step, which `digest` stands for."""
    return identity.sign(labels.SIGN_MESSAGE, payload(session, client, step, digest))


def payload(session: bytes, client: int, step: Step, digest: bytes) -> bytes:
    """What the client signs. Two that differ in the last 32 bytes only prove that it answered a step twice."""
    return session + client.to_bytes(8, "big") + _NUMBERS[step] + digest


def content_digest(content: bytes | memoryview) -> bytes:
    """What stands for a message in its envelope's signature. Of an upload the content is its `upload digest`, so that
    the vectors are hashed once.
    """
    return labels.digest_long(labels.HASH_MESSAGE, content)


def split(data: bytes, limit: int) -> tuple[memoryview, bytes]:
    """(body, signature) of a canonical envelope whose body has at most `limit` bytes, else Malformed."""
    # By length first: nothing of a message is touched that is longer than any right one.
    if len(data) > limit + OVERHEAD:
        raise Malformed(f"{len(data)} bytes, at most {limit + OVERHEAD} can be right")
    # A length decides its own head, so trying the three heads that MessagePack has finds the one canonical form.
    for head_bytes in (2, 3, 5):
        start, size = len(PREFIX) + head_bytes, len(data) - OVERHEAD + 5 - head_bytes
        if size >= 0 and data.startswith(PREFIX + bin_head(size)) and len(bin_head(size)) == head_bytes:
            body, rest = memoryview(data)[start : start + size], data[start + size :]
            if rest.startswith(TAIL):
                return body, rest[len(TAIL) :]
    raise Malformed("not a signed message")


def unverified(kind: type[Message], data: bytes) -> Message:
    """The message in an envelope of which nothing but the form was checked: for those who only look at recordings."""
    body, _ = split(data, len(data))
    return wire.decode(kind, bytes(body), len(body))


def bin_head(size: int) -> bytes:
    """MessagePack's shortest head of a byte string (bin 8, 16 or 32)."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")
