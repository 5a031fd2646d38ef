"""The daemon of one organisation in one run: waits for questions, has them answered, brings the answers.

    dialer    long poll over HTTPS or a pipe        this process: a connection and a few keys
    session   books, model, data, over a pipe       started when there is something to answer, ended when idle

The daemon decides nothing. What may be answered is for the records in the session's process; after a crash of either,
or of the server, the same question comes again and gets the same bytes. Whatever goes wrong, it is tried again, with
one back-off for everything: only what the server signed can end the daemon.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fgrpo_secure import entropy
from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https.dialer import Dialer, Dismissed, Gone, NotReached, Place
from fgrpo_secure.engines.https.first_asked import FirstAsked
from fgrpo_secure.engines.https.question import Answer, Answered, Kind, Left, Question, Said, Silent
from fgrpo_secure.engines.https.session_process import SessionEnded, SessionProcess
from fgrpo_secure.engines.https.unix_pipe import SCHEME, Pipe, path_of
from fgrpo_secure.errors import UnusableInput, printable
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.invitation import OVER_A_PIPE
from protocols.identity import Identity

IDLE = 300.0  # seconds without a question after which the session's process ends
FIRST_WAIT, LONGEST_WAIT = 0.25, 20.0  # seconds between two tries to reach the server
SHORTEST_POLL = 5.0  # seconds; who is sent away sooner without a question is not wanted now
SENT_AWAY = "the server sends this client away: it stops, or another client runs under the same key"
FIRST_STEP = "announce"
LARGEST_ROSTER = 64 << 20  # bytes; `protocols.roster` reads no larger one


class RunOver(Exception):
    """The server says that the run is over."""


class Stopped(BaseException):
    """The owner wants the daemon to end."""


@dataclass
class Serving:
    """See the module. `folder` is the daemon's own, for models and rosters that questions name, a model of at most
    `largest` bytes."""

    dialer: Dialer
    session: SessionProcess
    folder: Path
    say: Callable[[str], None]
    largest: int
    held: tuple[bytes | None, bytes | None] = (None, None)  # the model and the roster that the session has
    made: tuple[bytes, bytes] | None = field(default=None, repr=False)  # an answer that did not get through yet
    busy_until: float = 0.0
    first: FirstAsked = field(init=False)

    def __post_init__(self) -> None:
        self.first = FirstAsked(self.folder / "asked.json")

    def serve(self) -> None:
        """Until Stopped, RunOver or Dismissed."""
        failures, told = 0, ""
        while True:
            problem = self._turn()
            if problem is None:
                failures, told = 0, ""
                continue
            if problem != told:
                self.say(problem)
            failures, told = failures + 1, problem
            _wait(failures)

    def _turn(self) -> str | None:
        """Wait for a question and see to it; None if that went well, else what went wrong."""
        began = entropy.stopwatch()
        try:
            question = self.dialer.next()
            if question is None:
                self._rest()
                return SENT_AWAY if entropy.stopwatch() - began < SHORTEST_POLL else None
            if question.kind is Kind.OVER:
                self._leave(question)
            self._answer(question)
        except NotReached as problem:
            return f"the server is not reached: {problem}"
        except Gone:
            self.made = None
            return "an answer came too late: its question is not asked any more"
        except SessionEnded as problem:
            self.held = None, None
            return str(problem)
        self.made = None
        return None

    def _leave(self, question: Question) -> None:
        """Raises RunOver. The server signed that, and may be gone before it hears that this client knows."""
        with suppress(NotReached, Gone):
            self._answer(question)
        raise RunOver

    def _answer(self, question: Question) -> None:
        again = self.made is not None and self.made[0] == question.id
        if self.made is None or not again:
            self.say(printable(f"session {question.number}: {question.step or question.kind.value}"))
            self.made = question.id, questions.write_answer(self._made(question))
        self.dialer.put(question.id, self.made[1], again)
        self.busy_until = entropy.stopwatch() + IDLE

    def _made(self, question: Question) -> Answer:
        client = question.client
        if question.kind is Kind.RECOVER:
            replies = self.session.ask(frames.Recover(list(question.sessions)))
            return Left(any(reply.masked for reply in replies if isinstance(reply, frames.Recovered)))
        if question.kind is Kind.OVER:
            self.session.ask(frames.Over())
            return Silent()
        self._hand_over(question)
        if question.kind is Kind.WITNESS:
            session = question.sessions[0] if question.sessions else b""
            replies = self.session.ask(frames.Witness(session, {client: question.payload}))
            said = [reply for reply in replies if isinstance(reply, Witnessed)]
            return said[0] if said else Silent()
        seconds = question.announce_at / 1000 - self.dialer.now() if question.announce_at else None
        waited, trains, again = self._asked_before(question)
        step = frames.Step(question.step, {client: question.payload}, seconds, trains, again, waited)
        try:
            replies = self.session.ask(step)
        except Stopped:
            self.first.forgive()
            raise
        for reply in replies:
            if isinstance(reply, frames.Answer):
                return Said(reply.refusal or "no reason given") if reply.payload is None else Answered(reply.payload)
        return Silent()

    def _asked_before(self, question: Question) -> tuple[float, bool, bool]:
        """Seconds since the session was first asked to begin, whether it is to train, and whether it may do so again.

        What ended a process once may do so again, and its end says when: this time it only waits and answers.
        """
        if question.step != FIRST_STEP:
            return 0.0, True, False
        try:
            return self.first.ask(question.id)
        except OSError as problem:
            raise NotReached(f"{self.first.path} cannot be written: {problem.strerror}") from None

    def _hand_over(self, question: Question) -> None:
        """The session's process has the model and the roster that the question names, fetched if need be."""
        wanted = question.adapter, question.roster
        if self.session.running and self.held == wanted:
            return
        if question.adapter is None or question.roster is None:
            raise NotReached("a question names no model or no roster")
        names = [self.folder / digest.hex() for digest in (question.adapter, question.roster)]
        kept = {self.first.path, *names, *(path.with_suffix(".part") for path in names)}
        try:
            for path in self.folder.iterdir():
                if path not in kept:
                    path.unlink()
        except OSError as problem:
            raise NotReached(f"{self.folder} cannot be cleared: {problem.strerror}") from None
        wanted_bytes = self.largest, LARGEST_ROSTER
        for digest, path, most in zip((question.adapter, question.roster), names, wanted_bytes, strict=True):
            if not path.exists():
                self.dialer.fetch(digest, path, most)
        adapter, roster = (path.read_bytes() for path in names)
        self.session.ask(frames.Begin(adapter, question.number, roster))
        self.held = wanted

    def _rest(self) -> None:
        if self.session.running and entropy.stopwatch() > self.busy_until:
            self.session.end()
            self.held = (None, None)


def run(folder: ClientFolder, run: str, say: Callable[[str], None], pipe: Pipe | None = None) -> int:
    """Serve an owner's run from its folder, as its only process; the exit code of `serve`."""
    with folder.claimed():
        url = folder.invitation(run).url
        if pipe is not None:
            pipe.probe()
        elif url == OVER_A_PIPE:
            raise UnusableInput(f"the server of run {run} is reached over a pipe; name yours with --pipe unix:PATH")
        folder.pid.write_text(f"{os.getpid()}\n")

        def told(line: str) -> None:
            say(line)
            told_now = {"since": entropy.utc_now(), "run": run, "says": line}
            with suppress(OSError):  # a full disk is no reason to be away
                folder.status.write_text(json.dumps(told_now) + "\n")

        told(f"{folder.name} serves run {run} at {url if pipe is None else f'{SCHEME}{pipe.path}'}")
        session = SessionProcess("fgrpo_secure.engines.worker", ["--owner", str(folder.root), run])
        try:
            with stoppable():
                for place in _places(folder, run, pipe):
                    try:
                        serve(place, session, folder.spool / run, told, folder.adapter_bytes(run))
                        return 0
                    except Dismissed as problem:
                        told(str(problem))
            return 1
        finally:
            folder.pid.unlink(missing_ok=True)


def _places(folder: ClientFolder, run: str, pipe: Pipe | None) -> Iterator[Place]:
    """Under the present key; then under the one that follows, which may be the only one that a newer roster knows."""
    invitation, seeds = folder.invitation(run), (folder.seed(), folder.next_seed())
    for seed in seeds:
        if seed is not None:
            yield Place(
                invitation.url,
                bytes.fromhex(invitation.server),
                bytes.fromhex(run),
                folder.client_id(run),
                Identity.from_seed(seed),
                invitation.ca,
                folder.proxy,
                folder.certificate,
                pipe,
            )


def serve(place: Place, session: SessionProcess, folder: Path, say: Callable[[str], None], largest: int) -> None:
    """Serve one owner's run until it is over or the owner stops it. Raises Dismissed if the server will not have it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with closing(Dialer(place)) as dialer:
        try:
            Serving(dialer, session, folder, say, largest).serve()
        except Stopped:
            say("stopped")
        except RunOver:
            say("the run is over")
        finally:
            session.end()


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it SIGTERM and SIGINT raise Stopped, whatever is being waited for."""

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Stopped:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(failures: int) -> None:
    """Back off: twice as long each time, and not in step with anybody else."""
    most = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 12))
    share = int.from_bytes(entropy.OsEntropy().bytes(2), "big") / 65536
    entropy.sleep(most * (0.5 + share / 2))


def print_line(line: str) -> None:
    """To standard error, with the time in UTC."""
    with suppress(OSError):
        sys.stderr.write(f"{entropy.utc_now()} {line}\n")
        sys.stderr.flush()


def main(root: str, run_name: str, through: str = "") -> int:
    """`python -m fgrpo_secure.engines.https.client_loop FOLDER RUN [unix:PATH]`: nothing but the daemon is loaded."""
    try:
        folder = ClientFolder.open(Path(root))
        pipe = Pipe(path_of(through), folder.kept) if through else None
        return run(folder, run_name, print_line, pipe)
    except UnusableInput as problem:
        print_line(str(problem))
        return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
