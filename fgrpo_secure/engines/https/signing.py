"""What makes a request its sender's, and a frame the server's: signatures under labels of their own, no sockets.

    client -> server   every request: who asks whom in which run, the transport's version, method, path, query, time,
                       digest and length of its body
    server -> client   every question (`question`), and every reply: its status, its body, the server's time, and the
                       request as the server received it

**Why** A client signs what it says, never a nonce that a peer chose: nothing that it signs here is good anywhere else,
at another server, on another path, for another body, or ten minutes later. TLS hides the traffic and may end at a
proxy that inspects it; whom the other side speaks for is decided here. A reply is signed whole, together with the
request that the server received, and only where that request's own signature holds: whoever stands between and changes
any of it gets a refusal that the client, who sent something else, does not believe. He can keep a client waiting, and
cannot send it away.

What is signed of a request and how its header looks is the same in every version: else nobody could be told to upgrade.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from protocols import labels
from protocols.errors import BadSignature
from protocols.identity import SIGNATURE_BYTES, Identity, verify_signature

VERSION = 1  # of the transport, as the paths and the header name it
PREFIX = f"/v{VERSION}"
WINDOW = 600  # seconds that a request's time may differ from the server's
PIECE = 4 << 20  # bytes of one body

SIGN_REQUEST = "sign transport request"
SIGN_REPLY = "sign transport reply"
SIGN_QUESTION = "sign transport question"

AUTHORIZATION, VERSION_HEADER, REPLY_HEADER = "authorization", "x-fgrpo-version", "x-fgrpo-reply"
ID_HEADER, SIZE_HEADER = "x-fgrpo-id", "x-fgrpo-size"
_FORM = re.compile(
    r"fgrpo (\d{1,10})\.(\d{1,12})\.([0-9a-f]{64})\.(\d{1,12})\.([0-9a-f]{64})\.([0-9a-f]{128})", re.ASCII
)
_REPLY_FORM = re.compile(r"(\d{1,15})\.([0-9a-f]{128})", re.ASCII)


class NotSigned(Exception):
    """A request whose signature does not hold: nobody's."""


class Asked(NamedTuple):
    """What is asked. `path` begins with `PREFIX`, `query` is the text after the question mark, both as sent."""

    method: str
    path: str
    query: str
    version: str = str(VERSION)  # as the header says it


@dataclass(frozen=True)
class Receiver:
    """Whom a request is for: a server's key and a run."""

    key: bytes
    run: bytes


@dataclass(frozen=True)
class Credentials:
    """The header's content: who asks under which key, when, and with what body."""

    client: int
    time: int
    digest: bytes
    length: int
    public: bytes
    signature: bytes

    @staticmethod
    def read(header: str) -> "Credentials":
        """NotSigned for anything but the one form."""
        found = _FORM.fullmatch(header)
        if found is None:
            raise NotSigned
        client, time, digest, length, public, signature = found.groups()
        body = bytes.fromhex(digest), int(length)
        return Credentials(int(client), int(time), *body, bytes.fromhex(public), bytes.fromhex(signature))

    def write(self) -> str:
        """The header."""
        body, signed = f"{self.digest.hex()}.{self.length}", f"{self.public.hex()}.{self.signature.hex()}"
        return f"fgrpo {self.client}.{self.time}.{body}.{signed}"


@dataclass(frozen=True)
class Reply:
    """What a server signs. `name` and `size` are those of what a piece is of, empty where the body is no piece."""

    status: int
    name: str
    size: str
    body: bytes


def request_payload(credentials: Credentials, to: Receiver, asked: Asked) -> bytes:
    """All that is known of a request but its signature: what a client signs, and what a reply is bound to."""
    return labels.encode(
        SIGN_REQUEST,
        to.key,
        to.run,
        asked.version,
        asked.method,
        asked.path,
        asked.query,
        credentials.client,
        credentials.public,
        credentials.time,
        credentials.digest,
        credentials.length,
    )


def reply_payload(milliseconds: int, request: bytes, reply: Reply) -> bytes:
    """What a server signs: its time, the payload of the request that it received, and what it says."""
    asked, body = (hashlib.sha256(part).digest() for part in (request, reply.body))
    return labels.encode(SIGN_REPLY, milliseconds, asked, reply.status, reply.name, reply.size, body)


def sign(identity: Identity, client: int, to: Receiver, asked: Asked, time: int, body: bytes) -> Credentials:
    """Credentials for a request with this body."""
    unsigned = Credentials(client, time, hashlib.sha256(body).digest(), len(body), identity.public, b"")
    return replace(unsigned, signature=identity.sign(SIGN_REQUEST, request_payload(unsigned, to, asked)))


def check(credentials: Credentials, to: Receiver, asked: Asked) -> None:
    """Returns if the holder of the key in `credentials` signed this request; else NotSigned. Reads no body.

    Whether that key is anybody's who may ask is another question.
    """
    try:
        verify_signature(
            credentials.public, SIGN_REQUEST, request_payload(credentials, to, asked), credentials.signature
        )
    except BadSignature:
        raise NotSigned from None


def is_of_now(credentials: Credentials, now: float) -> bool:
    """Whether a request is of these minutes. Else it is an old one again, or came late, or a clock is wrong."""
    return abs(credentials.time - now) <= WINDOW


def signed_reply(identity: Identity, now: float, request: bytes, reply: Reply) -> str:
    """The header that makes a reply the server's, to this very request: an old one fits no new request."""
    milliseconds = int(now * 1000)
    signature = identity.sign(SIGN_REPLY, reply_payload(milliseconds, request, reply))
    return f"{milliseconds}.{signature.hex()}"


def check_reply(header: str, server_key: bytes, request: bytes, reply: Reply) -> float:
    """The server's time in seconds; BadSignature if this server did not say this to this request."""
    found = _REPLY_FORM.fullmatch(header)
    if found is None:
        raise BadSignature("no reply of the server")
    milliseconds, signature = int(found[1]), bytes.fromhex(found[2])
    verify_signature(server_key, SIGN_REPLY, reply_payload(milliseconds, request, reply), signature)
    return milliseconds / 1000


def seal(identity: Identity, question: bytes) -> bytes:
    """A question with the server's signature before it."""
    return identity.sign(SIGN_QUESTION, question) + question


def unseal(server_key: bytes, sealed: bytes) -> bytes:
    """The question, if the server signed it; else BadSignature."""
    signature, question = sealed[:SIGNATURE_BYTES], sealed[SIGNATURE_BYTES:]
    verify_signature(server_key, SIGN_QUESTION, question, signature)
    return question
