"""What a server that comes back after a crash knows of its open rounds: which there are, and who was asked to pay.

ledger            rounds that were charged and not closed
asked             sessions whose clients may have been asked for masked vectors, a line each, on disk before they are
workers' record   the same of sessions that were conducted elsewhere; what is not there counts as asked
"""

import os
from pathlib import Path

from fgrpo_secure.ledger import cosigning
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.plan import terms
from fgrpo_secure.server.failures import Failures
from fgrpo_secure.server.session import Elsewhere
from protocols import wire
from protocols.wire import RoundPlan


class Asked:
    """The sessions whose clients may have been asked for masked vectors, in a file beside the record of failures."""

    def __init__(self, path: Path, failures: Failures) -> None:
        self._path = path
        self._failures = failures

    def note(self, session: bytes, training_round: int, plan: RoundPlan) -> None:
        """Durable when this returns: from here on the session's charge stays."""
        self._failures.asked(training_round, plan.cohort)
        with self._path.open("a") as file:
            file.write(session.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def names(self) -> set[bytes]:
        """All of them, of the whole run."""
        return {bytes.fromhex(name) for name in self._path.read_text().split()} if self._path.exists() else set()

    def take_over(self, elsewhere: Elsewhere) -> None:
        """Note what workers wrote down, and a server that died did not hear of: whom they asked, what a liar ended."""
        known = self.names()
        for plan in map(_plan, elsewhere.asked_before()):
            if (session := wire.session_of(plan)) not in known:
                self.note(session, terms.training_round(plan), plan)
        for plan in map(_plan, elsewhere.spoiled_before()):
            self._failures.spoiled(plan.cohort, wire.session_of(plan))


def _plan(signed: bytes) -> RoundPlan:
    return wire.decode(wire.SignedPlan, signed, wire.MAX_PLAN).plan


def open_rounds(ledger: Ledger) -> dict[bytes, list[bytes]]:
    """Round by round, the sessions that were charged and not closed, by the first of each."""
    opened = {session: [session] for session in ledger.open_sessions()}
    for entry in ledger.entries() if opened else ():
        if entry["kind"] == "intent":
            round_sessions = [bytes.fromhex(session) for session in cosigning.sessions(entry)]
            if round_sessions[0] in opened:
                opened[round_sessions[0]] = round_sessions
    return opened
