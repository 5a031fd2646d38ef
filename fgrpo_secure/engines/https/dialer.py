"""The client's side of the network: it dials out, signs what it sends, and believes what the server signed.

One connection, kept open, through a proxy if the owner names one. TLS 1.3 to a certificate that a public authority
signed, or one whose file the owner names; a proxy that inspects TLS is survived, because what is pinned is the server's
signing key. Pieces resume where they stopped. A pipe may take the place of all that (`unix_pipe`).

Whatever the server did not sign for the very request is `NotReached`, whatever it says: anybody between could say it.
"""

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, NoReturn

import httpx

from fgrpo_secure import entropy
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https import signing
from fgrpo_secure.engines.https.question import Question
from fgrpo_secure.engines.https.signing import PIECE, PREFIX, VERSION, Asked, Credentials, Receiver
from fgrpo_secure.engines.https.unix_pipe import NotParted, Pipe
from fgrpo_secure.errors import CheckFailed, UnusableInput
from protocols.errors import BadSignature
from protocols.identity import Identity

CONNECT, SILENCE = 20.0, 40.0  # seconds: for a connection, and for the next bytes of an answer; a poll takes 25
WHOLE = 180.0  # seconds for a request and its reply in all; shorter than `signing.WINDOW`
PIPE_SILENCE = 170.0  # seconds: whoever carries a reply may bring it at once, after a poll and two long ways
LARGEST_SENTENCE = 1024
LONGEST_LINE = 300  # characters of what others say, as it is logged
SLICE = 64 << 10
PIPE_URL = "http://pipe"
# The reasons, in TLS, for which a server ends a handshake over its client's certificate.
NOT_TAKEN = tuple(
    f"ALERT_{reason}"
    for reason in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED", "DECRYPT_ERROR")
)


class NotReached(Exception):
    """The server did not answer, or not with anything that it signed and that goes on from before; try again later."""

    def __init__(self, sentence: str) -> None:
        shown = "".join(each if each.isprintable() else " " for each in sentence[:LONGEST_LINE])
        super().__init__(shown)


class Dismissed(CheckFailed):
    """The server will not have this client as it is; the sentence says why."""


class Gone(Exception):
    """What was asked for is not asked any more."""


@dataclass(frozen=True)
class Place:
    """Where a client's server is and how it is reached. `ca` is PEM text, or None for the public authorities;
    `certificate` is a client certificate and its key, where the server asks for one. With a `pipe` none of these count:
    its socket is the way."""

    url: str
    server: bytes
    run: bytes
    client: int
    identity: Identity = field(repr=False)
    ca: str | None = None
    proxy: str | None = None
    certificate: tuple[Path, Path] | None = None
    pipe: Pipe | None = None


@dataclass(frozen=True)
class _Reply(signing.Reply):
    signed: str

    @property
    def sentence(self) -> str:
        """A refusal's body as text that can be shown."""
        text = self.body[:LARGEST_SENTENCE].decode(errors="replace")[:LONGEST_LINE]
        return "".join(each if each.isprintable() else " " for each in text)


def trusting(ca: str | None) -> ssl.SSLContext:
    """TLS that trusts these certificates (PEM), or the system's. UnusableInput if they cannot be read."""
    try:
        if ca == "":  # which would mean the system's
            raise ValueError
        return ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError, TypeError):  # TypeError: not ASCII
        raise UnusableInput("the invitation's ca is no certificate in PEM form") from None


def _present(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Show this certificate to a server that asks for one; UnusableInput if it cannot be used."""
    try:
        context.load_cert_chain(certificate, key, password="")  # an encrypted key would be asked about at a terminal
    except (OSError, ssl.SSLError) as problem:
        raise UnusableInput(
            f"network.certificate {certificate} and network.key {key} in client.toml are no certificate and its key: "
            f"{problem.strerror or problem}"
        ) from None


def _over_tls(place: Place) -> Callable[[], httpx.Client]:
    """What makes the connections over TLS 1.3, through a proxy where the owner names one."""
    context = trusting(place.ca)
    if place.certificate is not None:
        _present(context, *place.certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    limits = httpx.Limits(max_connections=1)
    return partial(_client, SILENCE, verify=context, limits=limits, proxy=place.proxy)


def _piped(pipe: Pipe) -> httpx.Client:
    """What makes the connections to a pipe's socket."""
    transport = httpx.HTTPTransport(uds=str(pipe.path), limits=httpx.Limits(max_connections=1))
    return _client(PIPE_SILENCE, transport=transport)


def _client(silence: float, **how: Any) -> httpx.Client:
    # Nothing that is not signed lasts longer than its reply: cookies would be sent until requests are too large.
    none = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.Client(timeout=httpx.Timeout(silence, connect=CONNECT), trust_env=False, cookies=none, **how)


class Dialer:
    """See the module. Its clock is the server's: `now` is what the server said, gone on by this machine's."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._new = partial(_piped, place.pipe) if place.pipe is not None else _over_tls(place)
        self._url = PIPE_URL if place.pipe is not None else place.url.rstrip("/")
        try:
            self._http = self._new()
        except (ValueError, httpx.InvalidURL, ImportError):  # ImportError: SOCKS needs a library of its own
            raise UnusableInput(
                f"network.proxy {place.proxy!r} in client.toml is no proxy that can be used; write http://HOST:PORT"
            ) from None
        self._ahead = 0.0  # what the server's clock shows beyond this machine's
        self._to = Receiver(place.server, place.run)
        self._late = False  # whether the present request has had its time
        self._line: socket.socket | None = None  # the connection under all that httpx does with it

    def close(self) -> None:
        """Hang up."""
        self._http.close()
        if self._line is not None:
            self._line.close()

    def now(self) -> float:
        """The server's time, in seconds."""
        return entropy.unix_time() + self._ahead

    def next(self) -> Question | None:
        """The question to answer now, or None if there was none within the poll. Raises NotReached."""
        path = f"/{self._place.run.hex()}/next"
        sealed, name = b"", None
        while True:
            reply = self._ask("GET", path, f"offset={len(sealed)}")
            if reply.status == HTTPStatus.NO_CONTENT:
                return None
            if name not in (None, reply.name):
                raise NotReached("another question came between two pieces")
            name, size = reply.name, _size(reply, questions.LARGEST_QUESTION)
            sealed += reply.body
            if len(sealed) >= size:
                return self._opened(sealed)
            _full(reply)

    def put(self, id: bytes, answer: bytes, again: bool = False) -> None:
        """Bring an answer, piece by piece; `again` asks first how much the server has. Raises NotReached, or Gone."""
        size, view, kept = len(answer), memoryview(answer), 0
        if again:
            kept = self._kept(id, 0, size, b"")
        while kept < size:
            piece = bytes(view[kept : kept + PIECE])
            now = self._kept(id, kept, size, piece)
            if now < kept + len(piece):
                raise NotReached("the server did not keep a piece of an answer")
            kept = now

    def _kept(self, id: bytes, offset: int, size: int, piece: bytes) -> int:
        path = f"/{self._place.run.hex()}/answers/{id.hex()}"
        text = self._ask("PUT", path, f"offset={offset}&size={size}", piece).body
        if not (text.isdigit() and len(text) <= len(str(size))) or int(text) > size:  # bytes: ASCII digits alone
            raise NotReached("the server does not say how much it has")
        return int(text)

    def fetch(self, digest: bytes, into: Path, most: int) -> None:
        """The file with this SHA-256 and at most `most` bytes, at `into` when it is whole; else NotReached or Gone."""
        part = into.with_suffix(".part")
        try:
            while True:
                offset = part.stat().st_size if part.exists() else 0
                reply = self._ask("GET", f"/blobs/{digest.hex()}", f"offset={offset}")
                size = _size(reply, most)
                if offset + len(reply.body) <= size:
                    with part.open("ab") as file:
                        file.write(reply.body)
                if offset + len(reply.body) >= size:
                    break
                _full(reply)
            with part.open("rb") as file:
                if hashlib.file_digest(file, "sha256").digest() == digest:
                    part.replace(into)
                    return
            part.unlink()
        except OSError as problem:
            raise NotReached(f"{part.name[:16]} cannot be kept: {problem.strerror}") from None
        raise NotReached("a file came that is not the one that was named")

    def _opened(self, sealed: bytes) -> Question:
        """The server's own question, to this client, of this run. Anybody else's is as good as none."""
        try:
            question = questions.decode(signing.unseal(self._place.server, sealed))
        except (BadSignature, ValueError):
            raise NotReached("what came is not signed by this run's server") from None
        if (question.run, question.client) != (self._place.run, self._place.client):
            raise NotReached("what came is a question to somebody else")
        return question

    def _ask(self, method: str, path: str, query: str, body: bytes = b"") -> _Reply:
        """One signed request; a second one if the first told that this machine's clock is wrong."""
        asked = Asked(method, PREFIX + path, query, str(VERSION))
        reply, known = self._attempt(asked, body)
        if reply.status == HTTPStatus.TOO_EARLY and known:
            reply, known = self._attempt(asked, body)
        if not known:
            raise NotReached(f"the answer is not signed by this run's server: {reply.status} {reply.sentence}")
        if reply.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            self._refused(reply)
        return reply

    def _attempt(self, asked: Asked, body: bytes) -> tuple[_Reply, bool]:
        """A reply, and whether the server signed it for this very request; then its time is the time."""
        place = self._place
        credentials = signing.sign(place.identity, place.client, self._to, asked, int(self.now()), body)
        sent = entropy.unix_time()
        reply = self._send(credentials, asked, body)
        request = signing.request_payload(credentials, self._to, asked)
        try:
            said = signing.check_reply(reply.signed, place.server, request, reply)
        except BadSignature:
            return reply, False
        # The server said its time between `sent` and now. Whoever holds a reply back moves no clock that is right.
        self._ahead = min(max(self._ahead, said - entropy.unix_time()), said - sent)
        return reply, True

    def _send(self, credentials: Credentials, asked: Asked, body: bytes) -> _Reply:
        """One request and its reply, or NotReached: at the latest after `WHOLE` seconds, however little comes of it."""
        self._late, late = False, threading.Timer(WHOLE, self._cut)
        late.daemon = True
        late.start()
        try:
            return self._exchange(credentials, asked, body)
        finally:
            late.cancel()

    def _cut(self) -> None:
        """End the connection from another thread: whoever waits for its next byte hears that there is none."""
        self._late = True
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def _trace(self, event: str, said: dict[str, Any]) -> None:
        """httpx tells of each connection that it makes: to the server, to the proxy, or to the pipe."""
        if event.endswith((".connect_tcp.complete", ".connect_unix_socket.complete")):
            if self._line is not None:
                self._line.close()
            # A descriptor of its own: TLS takes the first one over, through a proxy even twice.
            self._line = said["return_value"].get_extra_info("socket").dup()
            if self._place.pipe is not None:
                self._parted(self._place.pipe, said["return_value"])
            if self._late:
                self._cut()

    def _parted(self, pipe: Pipe, stream: Any) -> None:
        """Returns if whoever serves the pipe is no more than a network: before a byte of the request is sent."""
        try:
            pipe.check(stream.get_extra_info("socket"))
        except NotParted:
            stream.close()  # nobody has it yet
            raise

    def _exchange(self, credentials: Credentials, asked: Asked, body: bytes) -> _Reply:
        headers = {
            signing.AUTHORIZATION: credentials.write(),
            signing.VERSION_HEADER: asked.version,
            "accept-encoding": "identity",
            "user-agent": "fgrpo",
        }
        if body:
            headers["content-length"] = str(len(body))
        url = f"{self._url}{asked.path}?{asked.query}"
        content, watched = _slices(body) if body else None, {"trace": self._trace}
        try:
            with self._http.stream(asked.method, url, headers=headers, content=content, extensions=watched) as response:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise NotReached("the answer is packed, which no answer of the server is")
                most = PIECE if response.status_code == HTTPStatus.OK else LARGEST_SENTENCE
                body, said = _read(response.iter_raw(), most), response.headers
                name, size = said.get(signing.ID_HEADER, ""), said.get(signing.SIZE_HEADER, "")
                return _Reply(response.status_code, name, size, body, said.get(signing.REPLY_HEADER, ""))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, NotParted) as problem:  # ssl.SSLError is an OSError
            # **Why** anew: it counts a connection whose TLS failed behind a proxy as one that is there, for ever.
            self._http.close()
            self._http = self._new()
            raise NotReached(self._said_of(problem)) from None

    def _said_of(self, problem: Exception) -> str:
        """What went wrong on the way, in words where TLS gave the other side's reason, or may have been it."""
        if isinstance(problem, NotParted):
            return str(problem)
        text = f"{type(problem).__name__}: {problem}"
        if "ALERT_CERTIFICATE_REQUIRED" in text:
            return "it asks for a client certificate; name network.certificate and network.key in client.toml"
        cut_off = isinstance(
            problem, httpx.RemoteProtocolError
        )  # TLS 1.3: who is refused learns it after his handshake
        if self._place.certificate is not None and (cut_off or any(reason in text for reason in NOT_TAKEN)):
            return f"it may not take the client certificate that network.certificate in client.toml names: {text}"
        return text

    def _refused(self, reply: _Reply) -> NoReturn:
        sentence = reply.sentence
        if reply.status == HTTPStatus.UPGRADE_REQUIRED:
            raise Dismissed(sentence)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            raise Dismissed(f"{self._place.url} refuses this client: {sentence}")
        if reply.status == HTTPStatus.NOT_FOUND:
            raise Gone(sentence)
        raise NotReached(f"{reply.status}: {sentence}")


def _slices(body: bytes) -> Iterator[bytes]:
    """A body in parts: what encrypts it keeps several copies of what it is given at once."""
    for start in range(0, len(body), SLICE):
        yield body[start : start + SLICE]


def _read(chunks: Iterator[bytes], most: int) -> bytes:
    """A body of at most `most` bytes; a longer one is as good as none."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise NotReached(f"an answer has more than {most} bytes")
    return bytes(body)


def _size(reply: _Reply, most: int) -> int:
    """The size of what a piece is of, which the server signed, too."""
    text = reply.size
    if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) > most:
        raise NotReached(f"the server does not say how long its message is, or it has more than {most} bytes")
    return int(text)


def _full(reply: _Reply) -> None:
    """Returns if a piece that is not the last one is as large as pieces are: each costs a request."""
    if len(reply.body) != PIECE:
        raise NotReached("a piece of a message is smaller than pieces are")
