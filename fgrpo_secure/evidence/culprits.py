"""Who spoiled sessions, by their transcripts alone: what an authority, or a member of a session, computes for itself.

    transcript -> session played again -> the sum, or why there is none -> groups, each with a liar in it
    groups of all transcripts, at most c liars -> who stands in every possible set of liars: named

The server's word counts for nothing: a sum is beyond its bound if it is so when it is computed from what the clients
signed. Nobody honest is named while at most c lie, whatever a server leaves out or a liar does beside whom.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.plan import terms
from fgrpo_secure.privacy.encode import SumOutOfBounds
from fgrpo_secure.storage.transcript_file import Reader, UnusableTranscript
from protocols import culprits, transcript, wire
from protocols.culprits import Group
from protocols.errors import BadSignature, Malformed, Refused
from protocols.recovery import Recovered
from protocols.roster import Roster, open_roster


class NotNamed(CheckFailed):
    """The transcripts do not show that this client lied; the sentence says whom they name."""


@dataclass(frozen=True)
class Spoiled:
    """One session as its transcript shows it. `groups` may be empty: then it shows nothing against anybody."""

    session: bytes
    enrolled: int
    says: str
    groups: frozenset[Group]


def read(path: Path, authority: bytes) -> Spoiled:
    """Plays the session in `path` again, whose roster must go back to `authority`. Raises UnusableTranscript."""
    reader = Reader(path)
    try:
        roster = open_roster(reader.roster, authority, 0)
        result = transcript.recompute(reader.plan, roster, reader.entries())
        says, groups = _judged(reader, result)
    except (BadSignature, Malformed, Refused, ValueError) as problem:
        raise UnusableTranscript(f"{path} shows nothing: {problem}") from None
    return Spoiled(wire.session_of(reader.plan), len(roster), says, groups)


def _judged(reader: Reader, result: Recovered | transcript.Failed) -> tuple[str, frozenset[Group]]:
    groups = culprits.suspects(result)
    if not isinstance(result, Recovered):
        return result.reason, groups
    try:
        terms.checked_total(result, terms.read(reader.plan, None))
    except SumOutOfBounds as problem:
        return str(problem), groups | {frozenset(result.survivors)}
    return f"the sum of {len(result.survivors)} clients is within its bound", groups


def colluders(enrolled: int, max_corrupt: float) -> int:
    """The most that may lie together, on a roster of so many."""
    return max(1, ceil(Fraction(str(max_corrupt)) * enrolled))


def named(spoiled: Sequence[Spoiled], roster: Roster, max_corrupt: float) -> Group:
    """The clients of the roster that these sessions name. Each session counts once, however often it is shown."""
    most = colluders(max([len(roster), *(each.enrolled for each in spoiled)]), max_corrupt)
    groups = frozenset().union(*({each.session: each.groups for each in spoiled}.values()))
    return frozenset(client for client in culprits.named(groups, most) if client in roster) if groups else frozenset()


def require_named(client: int, spoiled: Sequence[Spoiled], roster: Roster, max_corrupt: float) -> None:
    """Returns if these sessions name the client, else raises NotNamed."""
    found = named(spoiled, roster, max_corrupt)
    if client not in found:
        whom = f"they name {', '.join(map(str, sorted(found)))}" if found else "they name nobody"
        raise NotNamed(f"the transcripts do not show that client {client} lied: {whom}; nobody is revoked")
