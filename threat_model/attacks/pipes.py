"""A pipe that is more than the network: the engine's client at a site, under the command of a server that lies.

It carries an owner's requests over a Unix socket. What it may do there a network may; what these two try, it may not.
"""

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.engines.https import signing
from fgrpo_secure.engines.https.dialer import Dialer, Dismissed, NotReached, Place
from fgrpo_secure.engines.https.engine import HttpsEngine
from fgrpo_secure.engines.https.signing import Asked, Receiver
from fgrpo_secure.engines.https.unix_pipe import Pipe
from fgrpo_secure.storage import identity_file
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.kept import Kept
from protocols.identity import Identity
from protocols.roster import Entry, Roster
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening

RUN, OVER_A_PIPE = bytes(16), "pipe:"
LARGEST = 1 << 20


class _OfAnotherUser(Pipe):
    """A pipe whose user the kernel names as somebody else: for an attack that needs no more than the network's powers,
    and is played in one process."""

    def check(self, _: socket.socket) -> None:
        return


@contextmanager
def _serving(path: Path, carry: Callable[[bytes], bytes]) -> Iterator[None]:
    """A pipe at `path` that answers each connection's request with what `carry` makes of it."""
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(path))
        listens.listen()

        def attend() -> None:
            with suppress(OSError):
                while True:
                    line, _ = listens.accept()
                    with line:
                        line.sendall(carry(line.recv(LARGEST)))

        threading.Thread(target=attend, daemon=True).start()
        yield
        listens.shutdown(socket.SHUT_RDWR)


def pipe_as_the_owner() -> Outcome:
    """Is deployed under the owner's own user, waits for the owner's client to speak, and reads its folder."""
    carried: list[bytes] = []
    seed, server = world.invented("identity of the victim"), Identity.from_seed(world.invented("server"))

    def carry(request: bytes) -> bytes:
        carried.append(request)
        return b""

    with tempfile.TemporaryDirectory() as place:
        folder = ClientFolder.make(Path(place) / "owner")
        identity_file.write(folder.identity, "victim", seed)
        folder.own_file.write_text('name = "victim"\n[data]\ntask = "add"\n')
        pipe = Pipe(Path(place) / "pipe", folder.kept)
        victim = Place(OVER_A_PIPE, server.public, RUN, 0, Identity.from_seed(seed), pipe=pipe)
        with _serving(pipe.path, carry), closing(Dialer(victim)) as line:
            try:
                line.next()
            except NotReached as problem:
                said = str(problem)
        if not any(b"authorization: fgrpo" in request.lower() for request in carried):
            return Outcome(False, f"the client sent nothing: {said.replace(str(pipe.path), 'PATH')}")
        read = identity_file.read_seed(folder.identity)
    return Outcome(read == seed, "the client spoke through a pipe that had read its secret key")


def sent_away_by_a_pipe() -> Outcome:
    """Asks the server something that it refuses, and hands its signed refusal to a client as the reply to another."""
    server, victim, liar = (Identity.from_seed(world.invented(name)) for name in ("server", "victim", "liar"))
    roster = Roster(1, Identity.from_seed(world.invented("authority")).public, (Entry(0, "victim", victim.public),))
    asked = Asked("GET", f"/v1/{RUN.hex()}/next", "offset=0")
    with tempfile.TemporaryDirectory() as place:
        at, pipe = Path(place) / "server", _OfAnotherUser(Path(place) / "pipe", lambda: Kept((), ()))
        known = roster.authority, roster
        engine = HttpsEngine.open(Path(place) / "own", server, RUN, known, at, None, (None, 5), lambda _: None)

        def refuse(_: bytes) -> bytes:
            """Whatever the client asked: the server's refusal of the liar's own request."""
            now = int(entropy.unix_time())
            own = signing.sign(liar, 0, Receiver(server.public, RUN), asked, now, b"")
            head = f"authorization: {own.write()}\r\n{signing.VERSION_HEADER}: {signing.VERSION}\r\n\r\n"
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(at))
                line.sendall(f"GET {asked.path}?{asked.query} HTTP/1.1\r\nhost: pipe\r\n{head}".encode())
                reply = b""
                while more := line.recv(LARGEST):
                    reply += more
            return reply

        victims = Place(OVER_A_PIPE, server.public, RUN, 0, victim, pipe=pipe)
        try:
            with _serving(pipe.path, refuse), closing(Dialer(victims)) as line:
                line.next()
        except Dismissed as problem:
            return Outcome(True, f"a client of the roster ended: {problem}")
        except NotReached as problem:
            return Outcome(False, f"the client goes on trying: {problem}")
        finally:
            engine.close()
    return Outcome(False, "the client was asked something")


ATTACKS = (
    Attack(
        "pipe-as-the-owner",
        "a pipe under the command of a lying server, run by the owner's own user",
        "a client speaks through no pipe whose user could read its folder",
        (
            Weakening(
                "fgrpo_secure.engines.https.unix_pipe",
                "        if why is not None:\n",
                "        if False:\n",
                "the kernel is asked who listens at a pipe",
            ),
        ),
        pipe_as_the_owner,
    ),
    Attack(
        "sent-away-by-a-pipe",
        "network, or a pipe",
        "nobody but the server, in reply to this very request, sends a client away",
        (
            Weakening(
                "fgrpo_secure.engines.https.signing",
                "for part in (request, reply.body))",
                'for part in (b"", reply.body))',
                "a reply is signed with the request that it answers",
            ),
        ),
        sent_away_by_a_pipe,
    ),
)
