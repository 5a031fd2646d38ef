"""The server's side of the network, as an ASGI application: four paths, and who may use them.

    GET /v1/{run}/next?offset=                   a client's question, when there is one (long poll); in pieces
    PUT /v1/{run}/answers/{id}?offset=&size=     a piece of its answer; the reply says how much is kept
    GET /v1/blobs/{digest}?offset=               a model or a roster that a question names; in pieces
    GET /healthz                                 for whoever watches the process: needs no signature, says one word

Before a byte of a body is read, the sender's signature over its length and digest was checked. Every call may come
twice: it changes nothing the second time. What is refused is counted and told in one sentence, the same for a name
that nobody has and a key that is not its own. A reply carries the server's signature, bound to the request as it came,
where the request's own holds under the key that it names; whoever changes a request on its way gets none. A connection
over which no client's own request of these minutes came ends with its first reply, and makes room for others before
that (`listening`).
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fgrpo_secure import entropy
from fgrpo_secure.engines.https import signing
from fgrpo_secure.engines.https.desk import NetworkDesk
from fgrpo_secure.engines.https.question import LARGEST_QUESTION
from fgrpo_secure.engines.https.signing import PIECE, PREFIX, Asked, Credentials, NotSigned, Receiver
from fgrpo_secure.engines.https.throttled import Throttled

POLL = 25.0  # seconds; proxies cut what is silent for 30
PIECE_SECONDS = 60.0  # for one body of at most `PIECE` bytes
LARGEST_BLOB = 1 << 31
_NUMBER = re.compile(r"\d{1,12}", re.ASCII)  # what others than ASCII's digits mean, no two readers agree on

NOT_SIGNED = "the request is not signed by a client that this server's roster enrols for this run"
NOT_ASKED = "this question is not asked, or not any more"
WRONG_CLOCK = "the request's time is not the server's: a clock is wrong, or the request is an old one or came late"


@dataclass(frozen=True)
class Refused(Exception):
    """What the other side is told."""

    status: HTTPStatus
    sentence: str


def application(desk: NetworkDesk, log: Callable[[str], None]) -> Starlette:
    """The application. `log` is told of what was refused: a status and a path, and nothing of any body."""
    served = _Served(desk, log)
    return Starlette(
        routes=[
            Route(f"{PREFIX}/{desk.run.hex()}/next", served.next, methods=["GET"]),
            Route(f"{PREFIX}/{desk.run.hex()}/answers/{{id}}", served.answer, methods=["PUT"]),
            Route(f"{PREFIX}/blobs/{{digest}}", served.blob, methods=["GET"]),
            Route("/healthz", served.healthz, methods=["GET"]),
            Route("/{path:path}", served.elsewhere, methods=["GET", "PUT", "POST", "HEAD", "DELETE", "OPTIONS"]),
        ]
    )


class _Served:
    def __init__(self, desk: NetworkDesk, log: Callable[[str], None]) -> None:
        self._desk = desk
        self._to = Receiver(desk.identity.public, desk.run)
        self._refusals = Throttled(log)
        self._taking: set[bytes] = set()

    async def healthz(self, _: Request) -> Response:
        return PlainTextResponse("ok\n", headers={"connection": "close"})

    async def elsewhere(self, request: Request) -> Response:
        return await self._signed(request, self._elsewhere)

    async def next(self, request: Request) -> Response:
        return await self._signed(request, self._next)

    async def answer(self, request: Request) -> Response:
        return await self._signed(request, self._answer)

    async def blob(self, request: Request) -> Response:
        return await self._signed(request, self._blob)

    async def _signed(self, request: Request, act: Callable[[Request, Credentials], Awaitable[Response]]) -> Response:
        """What `act` gives to a signed request. The reply carries the server's signature, also where it refuses."""
        self._desk.counts.requests += 1
        asked, credentials = _asked(request), None
        try:
            credentials = self._signer(request, asked)
            stays = await self._admit(request, asked, credentials)
            response = await act(request, credentials)
            if not stays:
                response.headers["connection"] = "close"
        except Refused as refused:
            self._desk.counts.refused += 1
            self._refusals.add(refused.status, f"refused with {refused.status.value}", refused.sentence)
            close = {"connection": "close"}  # its body stays unread
            response = PlainTextResponse(refused.sentence, refused.status, close)
        if credentials is not None:
            headers = response.headers
            name, size = headers.get(signing.ID_HEADER, ""), headers.get(signing.SIZE_HEADER, "")
            reply = signing.Reply(response.status_code, name, size, bytes(response.body))
            received = signing.request_payload(credentials, self._to, asked)
            headers[signing.REPLY_HEADER] = signing.signed_reply(
                self._desk.identity, entropy.unix_time(), received, reply
            )
        return response

    def _signer(self, request: Request, asked: Asked) -> Credentials:
        """Who sent this very request, under a key that may be anybody's. Costs one signature check and no memory.

        **Why** Refusals that end a daemon are signed for nothing less: whoever stands between could ask for one with a
        request that he made out of the daemon's.
        """
        try:
            credentials = Credentials.read(request.headers.get(signing.AUTHORIZATION, ""))
            signing.check(credentials, self._to, asked)
        except NotSigned:
            raise Refused(HTTPStatus.UNAUTHORIZED, NOT_SIGNED) from None
        return credentials

    async def _admit(self, request: Request, asked: Asked, credentials: Credentials) -> bool:
        """Returns if the sender may ask, in this version and now: whether its connection stays, as one of a client."""
        if asked.version != str(signing.VERSION):
            raise Refused(HTTPStatus.UPGRADE_REQUIRED, _versions(asked.version))
        if await self._desk.key(credentials.client) != credentials.public:
            raise Refused(HTTPStatus.UNAUTHORIZED, NOT_SIGNED)
        if not signing.is_of_now(credentials, entropy.unix_time()):
            raise Refused(HTTPStatus.TOO_EARLY, WRONG_CLOCK)
        met: Callable[[int], bool] = request.scope["state"]["met"]
        return met(credentials.client)

    async def _elsewhere(self, request: Request, credentials: Credentials) -> Response:  # noqa: ARG002 - has the shape of what is signed
        raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here: the run is another server's, or over")

    async def _next(self, request: Request, credentials: Credentials) -> Response:
        await self._body(request, credentials, None)
        offset = _number(request, "offset", LARGEST_QUESTION)
        asked = await self._desk.wait(credentials.client, POLL)
        if asked is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        piece = asked.sealed[offset : offset + PIECE]
        return self._piece(piece, asked.id.hex(), len(asked.sealed))

    async def _blob(self, request: Request, credentials: Credentials) -> Response:
        await self._body(request, credentials, None)
        name, offset = request.path_params["digest"], _number(request, "offset", LARGEST_BLOB)
        path = await self._desk.blob(name)
        if path is None:
            raise Refused(HTTPStatus.NOT_FOUND, "no question names such a file now")
        with path.open("rb") as file:
            file.seek(offset)
            return self._piece(file.read(PIECE), name, path.stat().st_size)

    def _piece(self, piece: bytes, name: str, size: int) -> Response:
        self._desk.counts.bytes_out += len(piece)
        headers = {signing.ID_HEADER: name, signing.SIZE_HEADER: str(size)}
        return Response(piece, headers=headers, media_type="application/octet-stream")

    async def _answer(self, request: Request, credentials: Credentials) -> Response:
        """One piece: its bytes count only when all of them came and their digest is the signed one."""
        client, desk = credentials.client, self._desk
        try:
            id = bytes.fromhex(request.path_params["id"])
        except ValueError:
            raise Refused(HTTPStatus.NOT_FOUND, "no such question") from None
        asked = await desk.asked(client, id)
        if asked is None:
            raise Refused(HTTPStatus.NOT_FOUND, NOT_ASKED)
        offset, size = _number(request, "offset", asked.most), _number(request, "size", asked.most)
        if id in self._taking:
            raise Refused(HTTPStatus.CONFLICT, "another request brings this answer now")
        self._taking.add(id)
        try:
            kept, whole = await desk.kept(id)
            nothing = not credentials.length  # only asks how much is here
            if whole or nothing or offset != kept or offset + credentials.length > size:
                await self._body(request, credentials, None, drain=True)
            else:
                await self._body(request, credentials, desk.room(id, offset))
                now = await desk.took(client, id, offset + credentials.length, size)
                if now is None:
                    raise Refused(HTTPStatus.NOT_FOUND, NOT_ASKED)
                kept = now
        finally:
            self._taking.discard(id)
        return PlainTextResponse(str(kept))

    async def _body(
        self, request: Request, credentials: Credentials, into: tuple[Path, int] | None, drain: bool = False
    ) -> None:
        """The signed body, put into a file that has so many bytes, or nothing of it: every byte is right."""
        headers = request.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "bodies are sent as they are, with no content encoding")
        if headers.get("content-length", "0") != str(credentials.length) or "transfer-encoding" in headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the body's length is not the one that was signed")
        if credentials.length > (PIECE if into is not None or drain else 0):
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a piece has at most {PIECE} bytes")
        if credentials.length and not drain:
            try:
                async with asyncio.timeout(PIECE_SECONDS):
                    await self._take(request, credentials, into)
            except (TimeoutError, ClientDisconnect):
                raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from None
            except OSError:
                raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, "the server cannot keep this now; try later") from None

    async def _take(self, request: Request, credentials: Credentials, into: tuple[Path, int] | None) -> None:
        if into is None:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "this request has no body")
        (path, before), hasher, taken = into, hashlib.sha256(), 0
        with path.open("ab") as file:
            if file.tell() != before:  # the session was settled meanwhile, and what there was is gone
                raise Refused(HTTPStatus.NOT_FOUND, NOT_ASKED)
            whole = False
            try:
                async for chunk in request.stream():
                    taken += len(chunk)
                    hasher.update(chunk)
                    file.write(chunk)
                whole = taken == credentials.length and hasher.digest() == credentials.digest
            finally:
                if not whole:
                    file.truncate(before)
            if not whole:
                raise Refused(HTTPStatus.BAD_REQUEST, "the body is not the one that was signed")
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        self._desk.counts.bytes_in += taken


def _asked(request: Request) -> Asked:
    """The request's own line and version, as they came.

    **Why** not `request.url`: it may be made out of the Host header, and what is routed is not.
    """
    raw_path, query = (request.scope[name].decode("latin-1") for name in ("raw_path", "query_string"))
    return Asked(request.method, raw_path, query, request.headers.get(signing.VERSION_HEADER, ""))


def _versions(theirs: str) -> str:
    """Who must upgrade, in one sentence; the other side says the same."""
    ours = signing.VERSION
    if _NUMBER.fullmatch(theirs) is None:
        return f"the request names no version of the transport; this server speaks {ours}"
    older = "server" if int(theirs) > ours else "client"
    return f"this client speaks version {theirs} of the transport, the server {ours}: the {older} must be upgraded"


def _number(request: Request, name: str, most: int) -> int:
    text = request.query_params.get(name, "0")
    if _NUMBER.fullmatch(text) is None or int(text) > most:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is a number from 0 to {most}")
    return int(text)
