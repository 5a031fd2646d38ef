"""The server's end of the engine between organisations; see `fgrpo_secure.server.engine.Engine`.

    exchange   questions, one for each client -> desk -> network
               answers, on disk when they are whole -> yielded as they come, until all are there or the time is over
               whose answers a step ended with -> on disk, before the next step's questions exist

A server that died asks again, and every answer that it had been given is there: same question, same id. A step that
had ended ends with the same answers again, whoever has answered since, so that the session goes on as it would have.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https import signing
from fgrpo_secure.engines.https.application import application
from fgrpo_secure.engines.https.desk import Asked, Desk, RoundDesk
from fgrpo_secure.engines.https.listening import EACH, Listening, server_context
from fgrpo_secure.engines.https.question import Answer, Answered, Kind, Left, Question, Said
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.plan.adapter_shape import BYTES_PER_NUMBER
from protocols.identity import Identity
from protocols.roster import Roster, open_roster

FIRST_STEP = "announce"
UPLOADS = "mask"  # the step whose answers are as large as the model
STRANGERS = 512  # connections that there is room for beside those of clients
SMALL = 64 << 10  # bytes of an answer beside what follows
PER_CLIENT = 8 << 10  # for each client that a deal or an opening may name, with post-quantum keys
WIDEST = 8  # bytes of one coordinate in any ring
LARGEST_LINE = 1 << 20  # a signature that names the sessions in which its client was lost
FAREWELL_SECONDS = 10.0  # in which clients hear that the run is over; who does not hears nothing more from this server


@dataclass(frozen=True)
class Invited:
    """What the questions of a round's sessions name: its number, and digests of the model, which has so many
    coordinates, and of the roster."""

    number: int
    coordinates: int
    adapter: bytes
    roster: bytes


class HttpsEngine:
    """See the module. `listening` is None where other processes listen. `times` are the seconds between the first
    question of a session and its answers, None where each client answers when it has trained (simulated owners only),
    and those of any other step."""

    def __init__(
        self, desk: RoundDesk, listening: Listening | None, authority: bytes, times: tuple[int | None, int]
    ) -> None:
        self.refusals: dict[int, str] = {}
        self._desk = desk
        self._listening = listening
        self._authority = authority
        self._training_seconds, self._step_seconds = times
        self._invited: Invited | None = None
        self._everybody: tuple[int, ...] = ()
        self._over = False
        self._end_metrics: Callable[[], None] = lambda: None

    @staticmethod
    def open(
        folder: Path,
        identity: Identity,
        run: bytes,
        known: tuple[bytes, Roster],
        listen: tuple[str, int] | Path,
        certificate: tuple[Path, Path] | None,
        times: tuple[int | None, int],
        log: Callable[[str], None],
        client_ca: Path | None = None,
    ) -> "HttpsEngine":
        """An engine that listens. `folder` is the server's own; `known` are the key of the authority that was pinned
        first and the roster in force; `certificate` is (certificate, key), None where a pipe takes the place of TLS and
        `listen` is its socket's path; `times` are the deadlines of training and of any other step, in seconds. With
        `client_ca` nobody is heard without a certificate that it signed."""
        authority, roster = known
        desk = Desk(identity, run, folder)
        places = STRANGERS + EACH * len(roster.members)
        tls = None if certificate is None else server_context(*certificate, client_ca)
        listening = Listening(application(desk, log), listen, tls, places, log)
        engine = HttpsEngine(desk, listening, authority, times)
        engine.enrol(roster)
        desk.attach(listening.loop)
        listening.start()
        return engine

    @property
    def address(self) -> tuple[str, int]:
        """The host and port where it listens."""
        return self._here.address

    @property
    def place(self) -> str:
        """Where it listens, in words: HOST:PORT, or unix:PATH."""
        return self._here.place

    @property
    def invited(self) -> Invited:
        """What questions name since the last `invite`; ValueError before the first."""
        if self._invited is None:
            raise ValueError("no session has begun")
        return self._invited

    @property
    def is_over(self) -> bool:
        """Whether the run's last signatures were asked for."""
        return self._over

    def show_metrics(self, listen: tuple[str, int]) -> None:
        """Answer Prometheus at this address until the engine is closed; see `metrics`."""
        from fgrpo_secure.engines.https import metrics  # only who asks for them needs the library

        self._end_metrics = metrics.serve(self._desk.counts, self._here.connections, listen)

    def invite(self, number: int, adapter: bytes, roster: bytes) -> None:
        """See Engine. Nothing is sent yet: every question names both."""
        self._desk.spool.open_session(str(number))
        self.enrol(open_roster(roster, self._authority, 1))
        model, known = self._desk.offer(adapter, roster)
        self.refusals.clear()
        self._invited = Invited(number, len(adapter) // BYTES_PER_NUMBER, model, known)

    def join(self, invited: Invited, roster: bytes) -> None:
        """What `invite` does, for a session of a round to which another process invited its clients."""
        self.refusals.clear()
        self._invited = invited
        self._desk.spool.open_session(str(invited.number))
        self.enrol(open_roster(roster, self._authority, 1))

    def enrol(self, roster: Roster) -> None:
        """From now on these clients may speak."""
        self._everybody = tuple(entry.id for entry in roster.members)
        self._desk.enrol({entry.id: entry.public for entry in roster.members})

    def exchange(self, step: str, outgoing: Mapping[int, bytes], seconds: float) -> Iterator[tuple[int, bytes]]:
        """See Engine."""
        announce_at = 0
        if step == FIRST_STEP and self._training_seconds is not None:
            announce_at = int((entropy.unix_time() + self._training_seconds) * 1000)
        asked = {
            client: self._question(Kind.STEP, client, step, (), outgoing[client], announce_at) for client in outgoing
        }
        name = f"{step}-{min(asked, default=0)}"
        for client, answer in self._answers(asked, seconds, name):
            if isinstance(answer, Answered):
                yield client, answer.payload
            elif isinstance(answer, Said):
                self.refusals[client] = answer.refusal

    def witness(
        self, session: bytes, exhibits: Mapping[int, bytes], seconds: float, holds: Callable[[Witnessed], bool]
    ) -> list[Witnessed]:
        """See Engine. Whoever is not reached in time has not signed, and may sign after a later round."""
        self._over = not session
        sessions = (session,) if session else ()
        asked = {
            client: self._question(Kind.WITNESS, client, "", sessions, exhibit) for client, exhibit in exhibits.items()
        }
        # What is shown is settled: nobody needs its answers again, but the lines to this, which no note has yet. Who
        # gave none before a crash is asked again, and whose line does not hold any more: a newer roster is in force.
        ids = {client: question.id for client, question in asked.items()}
        self._desk.spool.discard({id for client, id in ids.items() if not self._to_ask_again(client, id, holds)})
        said = list(self._answers(asked, seconds))
        # A line is its sender's: whoever was authenticated signs for nobody else.
        found = [answer for sender, answer in said if isinstance(answer, Witnessed) and answer.client == sender]
        return sorted(found, key=lambda each: each.client)

    def recover(self, sessions: list[bytes]) -> int:
        """See Engine. Who is silent may have left."""
        if not sessions:
            return 0
        self._desk.spool.open_session("recovery")
        asked = {client: self._question(Kind.RECOVER, client, "", tuple(sessions), b"") for client in self._everybody}
        said = dict(self._answers(asked, self._step_seconds))
        return sum(not (isinstance(answer := said.get(client), Left) and not answer.masked) for client in asked)

    def close(self) -> None:
        """See Engine. After a run's last signature clients hear that it is over; requests that wait are sent away."""
        if self._over:
            asked = {client: self._question(Kind.OVER, client, "", (), b"") for client in self._everybody}
            for _ in self._answers(asked, FAREWELL_SECONDS):
                pass
        self._desk.close()
        if self._listening is not None:
            self._listening.close()
        self._end_metrics()

    @property
    def _here(self) -> Listening:
        if self._listening is None:
            raise ValueError("this engine does not listen")
        return self._listening

    def _most(self, kind: Kind) -> int:
        """The bytes that an answer may have: a vector of the adapter's size and something for each client at a step."""
        if kind is Kind.STEP:
            return (
                SMALL + PER_CLIENT * len(self._everybody) + WIDEST * (self._invited.coordinates if self._invited else 0)
            )
        return LARGEST_LINE if kind is Kind.WITNESS else SMALL

    def _question(
        self, kind: Kind, client: int, step: str, sessions: tuple[bytes, ...], payload: bytes, announce_at: int = 0
    ) -> Question:
        run, at = self._desk.run, self._invited
        number, adapter, roster = (0, None, None) if at is None else (at.number, at.adapter, at.roster)
        return Question(1, run, kind, number, step, client, adapter, roster, announce_at, sessions, payload)

    def _answers(
        self, asked: Mapping[int, Question], seconds: float, name: str | None = None
    ) -> Iterator[tuple[int, Answer]]:
        """Each client's answer as it comes, once; what is no answer at all is none. A step with a `name` ends with
        the same answers again after a crash."""
        ids = {client: question.id for client, question in asked.items()}
        read = partial(self._read, mapped=any(question.step == UPLOADS for question in asked.values()))
        closed = None if name is None else self._desk.spool.closed(name)
        if closed is not None:
            yield from ((client, answer) for client in closed if (answer := read(ids[client])) is not None)
            return
        missing = {client for client, id in ids.items() if not self._is_kept(id)}
        came = sorted(set(ids) - missing)
        sealed = {
            client: Asked(
                ids[client],
                self._most(asked[client].kind),
                signing.seal(self._desk.identity, asked[client].encode()),
            )
            for client in missing
        }
        self._desk.ask(sealed)
        ends = entropy.stopwatch() + seconds
        try:
            for client in came:
                if (answer := read(ids[client])) is not None:
                    yield client, answer
            while missing and (arrival := self._desk.next_arrival(ends - entropy.stopwatch())) is not None:
                client, id = arrival
                if client in missing and ids[client] == id:
                    missing.discard(client)
                    came.append(client)
                    if (answer := read(id)) is not None:
                        yield client, answer
        finally:
            self._desk.withdraw(sorted(ids))
        if name is not None:
            self._desk.spool.close_step(name, sorted(came))

    def _to_ask_again(self, client: int, id: bytes, holds: Callable[[Witnessed], bool]) -> bool:
        """Whether there is a whole answer that carries no line of its sender that holds."""
        if self._desk.spool.whole(id) is None:
            return False
        said = self._read(id)
        return not (isinstance(said, Witnessed) and said.client == client and said.line is not None and holds(said))

    def _is_kept(self, id: bytes) -> bool:
        """Whether an answer came before. What lies there and is none, as a disk may leave it, makes room for it."""
        path = self._desk.spool.whole(id)
        if path is None:
            return False
        if questions.may_be_answer(path):
            return True
        self._desk.spool.drop(id)
        return False

    def _read(self, id: bytes, mapped: bool = False) -> Answer | None:
        path = self._desk.spool.whole(id)
        if path is None:
            return None
        try:
            return questions.read_file(path, mapped)
        except ValueError:
            return None
