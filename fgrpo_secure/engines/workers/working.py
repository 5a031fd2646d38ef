"""Worker I of N: it listens for all clients, and conducts the sessions that the coordinator gives it.

It holds the server's signing key and no book: no ledger, no checkpoint, no optimiser, no model in memory. A session is
this process's alone. If that ends, or its seat is lost, the session is lost with it, and whoever starts this worker
again begins with the next one.
"""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.engines.https import metrics as shown_metrics
from fgrpo_secure.engines.https.application import application
from fgrpo_secure.engines.https.engine import STRANGERS, HttpsEngine
from fgrpo_secure.engines.https.listening import EACH, Listening, server_context
from fgrpo_secure.engines.workers import blobs, handing, schema
from fgrpo_secure.engines.workers.asking import AskingDesk
from fgrpo_secure.engines.workers.database import Cursor, Database
from fgrpo_secure.engines.workers.going_back import WentBack, count_as_asked
from fgrpo_secure.engines.workers.handing import Handed
from fgrpo_secure.engines.workers.listening import ListeningDesk
from fgrpo_secure.engines.workers.seats import COORDINATOR, Fenced, Lease, SessionHeld
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.plan import terms
from fgrpo_secure.server import session as conducted
from fgrpo_secure.server.link import CountingLink
from fgrpo_secure.shared_verifier import SharedVerifier
from fgrpo_secure.storage import opening, rosters
from fgrpo_secure.storage.run_directory import RunDirectory
from fgrpo_secure.storage.transcript_file import Writer
from protocols import drive, labels, wire
from protocols.errors import BadSignature
from protocols.identity import verify_signature
from protocols.roster import open_roster
from protocols.wire import SignedPlan

LOOK = 0.2  # seconds between two looks for a session to conduct
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a worker listens, as a server alone does: see `https.server_loop.opener`."""

    listen: tuple[str, int] | Path
    certificate: tuple[Path, Path] | None
    metrics: tuple[str, int] | None = None
    client_ca: Path | None = None


def work(directory: RunDirectory, database: Database, seat: tuple[int, int], place: Place, say: Say) -> None:
    """Be worker I of N (`seat`) until the run is over. SeatTaken, NoDatabase or Fenced if this process cannot be it."""
    number, count = seat
    config, run = _run_of(directory)
    _wait_for_coordinator(database, run, count, say)
    lease = Lease(database, run, number)
    try:
        worker = Worker(directory, config, database, lease, say)
        with closing(_Listener(worker, place)):
            say(f"worker {number} of {count} takes part")
            worker.conduct_all(count)
    finally:
        lease.close()
        database.close()


class Worker:
    """See the module. What it keeps on its own disk is on its way somewhere, but transcripts."""

    def __init__(self, directory: RunDirectory, config: Config, database: Database, lease: Lease, say: Say) -> None:
        self.identity, self.say, self.database, self.lease = rosters.server_identity(directory), say, database, lease
        self.run, self.clients = lease.seat.run, config.clients_total
        # Of this process alone: one that was stopped and replaced by this one clears up when it comes back.
        place = directory.private / f"worker-{lease.seat.number}"
        shutil.rmtree(place, ignore_errors=True)
        self.folder = place / lease.seat.holder.hex()
        self._directory, self._config = directory, config
        self._authority = rosters.pins(directory).authority
        self._verify = SharedVerifier()
        self._begun: set[bytes] = set()

    def conduct_all(self, count: int) -> None:
        """One session after the other, until the run is over."""
        alone = False
        while not _is_over(self.database, self.run):
            self.lease.check()
            handed = handing.take(self.database, self.lease.seat)
            if handed is not None:
                self._begin(handed.session.name)
                self._conduct(handed)
                continue
            missing = not self.database.transact(partial(_coordinated, self.run, count))
            if missing and not alone:
                self.say("the coordinator of this run does not answer; this worker waits for it")
            alone = missing
            entropy.sleep(LOOK)

    def _begin(self, session: bytes) -> None:
        """WentBack for a session that this process began before: the database forgot it, and who was asked in it."""
        if session in self._begun:
            self.database.transact(lambda cursor: count_as_asked(cursor, self.run))
            raise WentBack
        self._begun.add(session)

    def _conduct(self, handed: Handed) -> None:
        name, plan = handed.session.name, self._plan(handed)
        held = SessionHeld(self.run, name, self.lease.seat.holder)
        signed_roster = blobs.need(self.database, self.run, handed.invited.roster)
        roster = open_roster(signed_roster, self._authority, 1)
        folder = self.folder / "session"
        desk = AskingDesk(self.database, self.identity, self.run, held, folder)
        times = self._config.training_deadline, self._config.federation.step_seconds
        engine = HttpsEngine(desk, None, self._authority, times)
        link = CountingLink(engine, lambda *_: None, partial(handing.note_asked, self.database, held), self._config)
        record = None
        if handed.session.keeps_transcript:
            record = Writer(self._directory.transcripts, name, handed.session.signed, signed_roster)
        self.say(f"session {plan.session_number}: {len(plan.cohort)} clients")
        try:
            engine.join(handed.invited, signed_roster)
            end = conducted.conduct(
                lambda link, record: drive.conduct(
                    self.identity, plan, roster, link, verify=self._verify, record=record
                ),
                link,
                terms.read(plan, None),
                record,
            )
            handing.end(self.database, held, end, tuple(sorted(engine.refusals)))
            self.say(f"session {plan.session_number}: {end.problem or 'ended'}")
        except Fenced as problem:
            self.say(f"session {plan.session_number}: {problem}")
        finally:
            self._verify.forget()
            shutil.rmtree(folder, ignore_errors=True)

    def _plan(self, handed: Handed) -> wire.RoundPlan:
        """The plan that this server signed, of this run and of the session that it is said to be. **Why** Whoever wrote
        into the database could have this worker conduct another one."""
        found = wire.decode(SignedPlan, handed.session.signed, wire.MAX_PLAN)
        try:
            verify_signature(self.identity.public, labels.SIGN_PLAN, wire.encode(found.plan), found.signature)
        except BadSignature:
            raise Fenced("the database holds a session that this server did not sign") from None
        if wire.session_of(found.plan) != handed.session.name or found.plan.run != self.run:
            raise Fenced("the database holds a session under another one's name")
        return found.plan


class _Listener:
    """The worker's socket, for all clients of the run."""

    def __init__(self, worker: Worker, place: Place) -> None:
        tls = None if place.certificate is None else server_context(*place.certificate, place.client_ca)
        self._desk = ListeningDesk(worker.database, worker.identity, worker.run, worker.folder)
        room = STRANGERS + EACH * worker.clients
        self._listening = Listening(application(self._desk, worker.say), place.listen, tls, room, worker.say)
        self._desk.attach(self._listening.loop)
        self._listening.start()
        self._end_metrics: Callable[[], None] = lambda: None
        if place.metrics is not None:
            try:
                self._end_metrics = shown_metrics.serve(self._desk.counts, self._listening.connections, place.metrics)
            except UnusableInput:
                self.close()
                raise
        worker.say(f"listens on {self._listening.place}")

    def close(self) -> None:
        self._desk.close()
        self._listening.close()
        self._end_metrics()


def _run_of(directory: RunDirectory) -> tuple[Config, bytes]:
    """Configuration and run, if they fit together; UnusableInput for a run that workers cannot conduct."""
    config = config_file.load(str(directory.config))
    run = opening.check(opening.read(directory), config, rosters.first(directory))
    if config.aggregation.mode == "plain":
        raise UnusableInput(
            "aggregation.mode is 'plain': nothing is aggregated securely, and no worker takes part in it"
        )
    return config, run


def _wait_for_coordinator(database: Database, run: bytes, count: int, say: Say) -> None:
    """Returns once a coordinator that counts as many workers is there; UnusableInput if it counts others."""
    said = False
    while not (schema.is_made(database) and database.transact(partial(_coordinated, run, count))):
        if not said:
            say(
                "no coordinator of this run is there yet; this worker waits: start `fgrpo server start DIR --workers "
                f"{count} --database FILE` with the same database"
            )
            said = True
        entropy.sleep(LOOK)


def _coordinated(run: bytes, count: int, cursor: Cursor) -> bool:
    cursor.execute(
        "SELECT workers FROM fgrpo_run JOIN fgrpo_seat USING (run) "
        "WHERE run = %s AND seat = %s AND until > clock_timestamp()",
        [run, COORDINATOR],
    )
    found = cursor.fetchone()
    if found is not None and found[0] != count:
        raise UnusableInput(
            f"the coordinator of this run counts {found[0]} workers, this one was started as one of {count}; start "
            "both with the same number"
        )
    return found is not None


def _is_over(database: Database, run: bytes) -> bool:
    def act(cursor: Cursor) -> bool:
        return cursor.execute("SELECT is_over FROM fgrpo_run WHERE run = %s", [run]).fetchone() == (True,)

    return database.transact(act)
