"""The server's socket: TLS 1.3 or a pipe's, few connections, and no patience with those that send nothing.

uvicorn speaks HTTP; which connections it gets is decided here. There is room for `connections` at a time:

    stranger   no client's own request has come over it yet. Its first reply is its last; one that has not finished its
               handshake, or its request's head, within `PATIENCE` is closed; when there is no room, the oldest one goes
    client     one of at most `EACH` that a client has; stays open between its requests

So strangers cannot keep clients out for longer than `GRACE` by holding connections. When clients fill all the room,
others wait in the kernel, where they cost this process nothing. What uvicorn or the loop has to say, which anybody can
make them say, goes to the server's log, and no oftener than refusals.
"""

import asyncio
import logging
import resource
import socket
import ssl
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fgrpo_secure import entropy
from fgrpo_secure.engines.https import unix_pipe
from fgrpo_secure.engines.https.signing import PIECE
from fgrpo_secure.engines.https.throttled import Throttled
from fgrpo_secure.errors import UnusableInput

PATIENCE = 10.0  # seconds for a handshake, and for a request's head
IDLE = 40.0  # seconds that a connection may stay between two requests
HEAD = 16 << 10  # bytes of a request's head
BACKLOG = 1024
EACH = 4  # connections of one client
OTHER_FILES = 256  # that the process has open beside its connections
GRACE = 1.0  # seconds that a stranger has before it may have to make room
TURNS = 5  # of the loop, until TLS and the socket under it are closed
FAREWELL = 0.3  # seconds in which requests that are sent away get their answer
NEEDED = b"a client certificate is needed here: name network.certificate and network.key in client.toml"
REFUSAL = b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
_UVICORN = logging.getLogger("uvicorn.error")  # the name says nothing of the level


def server_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3 and nothing else, with this certificate; UnusableInput if it cannot be used.

    With `client_ca` clients show certificates that one of those in it signed; another one ends the handshake, and none
    at all is for `_Impatient` to refuse. **Why** not here: asyncio says nothing to whoever fails in a handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nothing of a session is resumed: nothing of one need be kept
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as problem:
        raise UnusableInput(f"{certificate} and {key} are no certificate and its key: {problem.strerror}") from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as problem:
            raise UnusableInput(f"{client_ca} holds no certificates in PEM form: {problem.strerror}") from None
    return context


class _Guest:
    """A connection from its acceptance to its end. `client` is set once a request over it was a client's own."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.client: int | None = None
        self.leave: Callable[[], object] = lambda: None  # ends it, in its handshake or later


class _Guests:
    """Who is connected: strangers in the order in which they came, and the connections of each client."""

    def __init__(self) -> None:
        self.strangers: dict[_Guest, None] = {}
        self.clients: dict[int, list[_Guest]] = {}
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self.strangers) + sum(map(len, self.clients.values()))

    def met(self, guest: _Guest, client: int) -> bool:
        """A client's own request came; whether its connection stays. Who has `EACH` connections is answered over a
        further one as strangers are: if an old one made room, whoever repeats a captured request could cut its client
        off."""
        own = self.clients.get(client, [])
        if guest in self.strangers and len(own) < EACH:
            del self.strangers[guest]
            guest.client = client
            self.clients[client] = [*own, guest]
        return guest.client is not None

    def gone(self, guest: _Guest) -> None:
        """The connection has ended."""
        self.strangers.pop(guest, None)
        own = [] if guest.client is None else self.clients.get(guest.client, [])
        if guest in own:
            own.remove(guest)
        if guest.client is not None and not own:
            self.clients.pop(guest.client, None)
        self.changed.set()

    async def room(self, connections: int) -> None:
        """Returns when there is room for one more."""
        while len(self) >= connections:
            self.changed.clear()
            now = entropy.stopwatch()
            oldest = next(iter(self.strangers), None)
            if oldest is not None and now - oldest.since >= GRACE:
                oldest.leave()
                self.gone(oldest)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(None if oldest is None else oldest.since + GRACE - now):
                    await self.changed.wait()


class _Said(logging.Handler):
    """What uvicorn says, in one line: a request that is none, or a failure in the application."""

    def __init__(self, log: Throttled) -> None:
        super().__init__()
        self._lines = log

    def emit(self, record: logging.LogRecord) -> None:
        problem = record.exc_info[1] if record.exc_info else None
        where = "" if problem is None else f": {type(problem).__name__}: {problem}{_place(problem)}"
        self._lines.add(record.levelno, "network", f"{record.getMessage().strip()}{where}")


def _place(problem: BaseException) -> str:
    frames = traceback.extract_tb(problem.__traceback__)
    return f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""


def _end(transport: asyncio.Transport) -> None:
    """End a connection now. **Why** A TLS transport that was closed twice cannot be aborted in Python 3.11.2, and
    raises: to whoever makes room for the next one, and nobody would be let in any more. It ends by itself soon."""
    with suppress(AttributeError):
        transport.abort()


class _Impatient(H11Protocol):
    """Closes a connection whose next request's head takes too long to come, and a stranger's after one reply."""

    _head: asyncio.TimerHandle | None = None
    guest: _Guest
    over: Callable[[], None]
    without_certificate: Callable[[str], None] | None = None  # told of who shows none, where one is needed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.guest.leave = partial(_end, transport)
        transport.set_write_buffer_limits(high=PIECE)
        self._head = self.loop.call_later(PATIENCE, self._late)

    def data_received(self, data: bytes) -> None:
        if self.without_certificate is not None and not self.transport.get_extra_info("peercert"):
            if not self.transport.is_closing():  # what comes after the first bytes is not looked at either
                self.without_certificate("no client certificate")
                self.transport.write(REFUSAL % (len(NEEDED), NEEDED))
                self.transport.close()
            return
        before: object = self.cycle  # None before the first request
        if self._head is None and (before is None or self.cycle.response_complete):
            self._head = self.loop.call_later(PATIENCE, self._late)
        super().data_received(data)
        if self.cycle is not before and self._head is not None:
            self._head.cancel()
            self._head = None

    def on_response_complete(self) -> None:
        if self.guest.client is None and not self.transport.is_closing():
            self.transport.close()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head is not None:
            self._head.cancel()
        super().connection_lost(exc)
        self.over()

    def _late(self) -> None:
        self._head = None
        if not self.transport.is_closing():
            self.transport.abort()


class Listening:
    """A thread that serves an application until it is closed: with `tls` at a host's port, without at a path, for a
    pipe. `address` is the host and port where it really listens, and `place` the same in words."""

    def __init__(
        self,
        app: ASGIApp,
        listen: tuple[str, int] | Path,
        tls: ssl.SSLContext | None,
        connections: int,
        log: Callable[[str], None],
    ) -> None:
        self._path = listen if isinstance(listen, Path) else None
        self._socket = unix_pipe.listen(listen) if isinstance(listen, Path) else _listen(*listen)
        self._socket.setblocking(False)
        _allow_files(connections + OTHER_FILES)
        self.address: tuple[str, int] = ("", 0) if self._path is not None else self._socket.getsockname()[:2]
        host, port = self.address
        self.place = f"{host}:{port}" if self._path is None else f"{unix_pipe.SCHEME}{self._path}"
        self._app = app
        self._tls = tls
        self._connections = connections
        self._state = ServerState()
        self._log = Throttled(log)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._unexpected)
        self._thread = threading.Thread(target=self._run, name="https", daemon=True)

    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def close(self) -> None:
        """Accept nothing more and end what is open."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.call_later, FAREWELL, self.loop.stop)
            self._thread.join()
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _without_certificate(self, what: str) -> None:
        self._log.add("certificate", "refused", what)

    def _unexpected(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nothing in the loop expected."""
        problem = context.get("exception")
        where = "" if problem is None else f": {type(problem).__name__}: {problem}"
        self._log.add("loop", "network", f"{context['message']}{where}")

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        said = _Said(self._log)
        _UVICORN.addHandler(said)
        _UVICORN.propagate = False  # to standard error, past every bound
        accepting = self.loop.create_task(self._accept())
        try:
            self.loop.run_forever()
        finally:
            accepting.cancel()
            while left := asyncio.all_tasks(self.loop):  # what ends one may begin another
                self.loop.run_until_complete(asyncio.wait(left, timeout=FAREWELL))
                for task in left:
                    task.cancel()
            self.loop.run_until_complete(self._hang_up())
            self.loop.close()
            _UVICORN.removeHandler(said)

    async def _hang_up(self) -> None:
        """End every connection that is open: a transport closes its socket in the turns of the loop after that."""
        for protocol in list(self._state.connections):
            _end(protocol.transport)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def _accept(self) -> None:
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(IDLE),
            h11_max_incomplete_event_size=HEAD,
        )
        config.load()
        guests = _Guests()
        handshakes: set[asyncio.Task[None]] = set()
        while True:
            await guests.room(self._connections)
            try:
                connection, _ = await self.loop.sock_accept(self._socket)
            except OSError:  # out of file descriptors, or the other side is gone already
                await asyncio.sleep(0.1)
                continue
            guest = _Guest(entropy.stopwatch())
            guests.strangers[guest] = None
            task = self.loop.create_task(self._welcome(connection, config, guest, guests))
            guest.leave = task.cancel
            handshakes.add(task)
            task.add_done_callback(handshakes.discard)

    async def _welcome(self, connection: socket.socket, config: uvicorn.Config, guest: _Guest, guests: _Guests) -> None:
        made: list[_Impatient] = []

        def protocol() -> asyncio.Protocol:
            made.append(_Impatient(config, self._state, {"met": partial(guests.met, guest)}))
            made[0].guest, made[0].over = guest, partial(guests.gone, guest)
            if self._tls is not None and self._tls.verify_mode != ssl.CERT_NONE:
                made[0].without_certificate = self._without_certificate
            return made[0]

        times = {} if self._tls is None else {"ssl_handshake_timeout": PATIENCE, "ssl_shutdown_timeout": 1.0}
        try:
            await self.loop.connect_accepted_socket(protocol, connection, ssl=self._tls, **times)
        except (OSError, asyncio.CancelledError) as problem:  # no TLS, or not this one: never an HTTP connection
            connection.close()
            if isinstance(problem, ssl.SSLCertVerificationError):
                self._without_certificate("a client certificate that none of --client-ca signed, or out of its time")
            if not made or made[0].transport is None:
                guests.gone(guest)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as problem:
        raise UnusableInput(f"cannot listen on {host} port {port}: {problem.strerror}") from None


def _allow_files(count: int) -> None:
    """Let this process open so many files, as far as the system lets it decide: a connection is one."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if least != resource.RLIM_INFINITY and least < count:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (count if most == resource.RLIM_INFINITY else min(count, most), most)
        )
