"""A run's rounds as its ledger tells them, each with the plans that its clients signed for.

An entry names a session; a session's name is the digest of its plan. So whoever signed the ledger's root signed every
plan in it: cohort, thresholds, noise, settings, and the digests of model, tokenizer and adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import msgspec

from fgrpo_secure.ledger import cosigning
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.storage.signed_file import BadFile
from protocols import labels, wire
from protocols.errors import BadSignature, ProtocolError
from protocols.identity import verify_signature
from protocols.wire import RoundPlan, SignedPlan

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Session:
    """One session of a round: its name in hex, and the plan that this is the digest of."""

    name: str
    plan: RoundPlan

    @cached_property  # read for every check of every round, and decoding validates a whole configuration
    def settings(self) -> RoundSettings:
        """What the plan says about training and noise."""
        return RoundSettings.decode(self.plan.settings)

    @property
    def context(self) -> dict[str, str]:
        """Digests, hex, of what the clients had loaded."""
        return {name: digest.hex() for name, digest in self.plan.context}


@dataclass(frozen=True)
class Round:
    """One charged round: one session, or one for each of its shards. `end` is None where it never ended."""

    position: int
    opened: Entry
    sessions: tuple[Session, ...]
    end: Entry | None

    @property
    def outcome(self) -> str:
        """'settled', 'aborted' or 'open'."""
        return "open" if self.end is None else str(self.end["kind"])

    @property
    def charge(self) -> Fraction:
        """What the round costs in the end (mu squared)."""
        return Fraction((self.opened if self.end is None else self.end)["charge"])

    @property
    def training_round(self) -> int:
        """Which round of training it was, from 0."""
        return self.sessions[0].settings.training_round

    @property
    def survivors(self) -> dict[str, tuple[int, ...]]:
        """Session -> who survived in it, of the sessions that ended."""
        if self.end is None or self.outcome != "settled":
            return {}
        most = sum(len(session.plan.cohort) for session in self.sessions)
        try:
            return cosigning.survivors_of(self.end, most)
        except (ValueError, KeyError, AttributeError):
            raise BadFile(f"entry {self.end['position']} does not say who of its cohorts survived") from None

    @property
    def ended(self) -> list[Session]:
        """The sessions that ended with a sum."""
        survivors = self.survivors
        return [session for session in self.sessions if session.name in survivors]


class Closing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run released in the end: digests of the adapter's tensors and of its folder, and of the [engine] section.

    `stopped` is the reason that the server gave for ending early, or empty; `ended` its own clock (UTC).
    """

    adapter: str
    files: str
    engine: str
    rounds: int
    stopped: str
    ended: str


@dataclass(frozen=True)
class History:
    """What a ledger tells. `budget` is that of its first entry, `closing` what its last entry says, if it ended."""

    entries: tuple[Entry, ...]
    rounds: tuple[Round, ...]
    budget: Fraction
    size: int
    root: str
    closing: Closing | None

    @property
    def settled(self) -> list[Round]:
        """The rounds that ended with a sum, in order."""
        return [each for each in self.rounds if each.outcome == "settled"]

    @property
    def finished(self) -> list[Round]:
        """The settled round of each round of training: the last one, where a crash made it come twice."""
        return [found for _, found in sorted({each.training_round: each for each in self.settled}.items())]


def read(entries: Sequence[Entry], plans: Mapping[str, bytes], root: str, server: bytes) -> History:
    """The history of a ledger whose rows follow from each other. BadFile where plans and entries do not fit."""
    ends = {each["session"]: each for each in entries if each["kind"] in ("settled", "aborted")}
    rounds = []
    for entry in (each for each in entries if each["kind"] == "intent"):
        names = cosigning.sessions(entry)
        sessions = tuple(Session(name, _plan(name, plans, server)) for name in names)
        rounds.append(Round(entry["position"], entry, sessions, ends.get(entry["session"])))
    named = {session.name for each in rounds for session in each.sessions}
    if set(plans) != named:
        raise BadFile("the ledger keeps plans of sessions that it never charged")
    budgets = [each for each in entries if each["kind"] == "budget"]
    if len(budgets) != 1:
        raise BadFile("the ledger changes its budget: a run has one")
    last = entries[-1]
    closing = _closing(last["facts"]) if last["kind"] == "closed" else None
    if any(each["kind"] == "closed" for each in entries[:-1]):
        raise BadFile("the ledger goes on after the run's last entry")
    return History(tuple(entries), tuple(rounds), Fraction(budgets[0]["budget"]), len(entries), root, closing)


def _closing(facts: Mapping[str, Any]) -> Closing:
    try:
        return msgspec.convert(facts, Closing)
    except msgspec.ValidationError:
        raise BadFile("the ledger's last entry does not say what the run released") from None


def _plan(name: str, plans: Mapping[str, bytes], server: bytes) -> RoundPlan:
    if name not in plans:
        raise BadFile(f"the plan of session {name[:16]} is missing from the ledger")
    try:
        signed = wire.decode(SignedPlan, plans[name], wire.MAX_PLAN)
        verify_signature(server, labels.SIGN_PLAN, wire.encode(signed.plan), signed.signature)
    except (BadSignature, ProtocolError):
        raise BadFile(f"the plan of session {name[:16]} is none that the server signed") from None
    if wire.session_of(signed.plan).hex() != name:
        raise BadFile(f"the plan of session {name[:16]} is another session's")
    return signed.plan
