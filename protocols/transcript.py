"""What a session leaves behind for those who were not its server: its clients' signed messages.

Only the server sees a sum, so its word that a sum was wrong, or that a session failed, counts for nothing. A transcript
is the messages themselves, each in its client's envelope, in the order in which the server judged them. Whoever has it,
the plan and the roster plays the session again with the same pure functions and gets the same sum, the same failure and
the same blame. A server can leave messages out, which makes the transcript worth less, and never more: what it shows of
a client is what that client signed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from protocols import envelope, recovery, server, upload, wire
from protocols.collect import Inbox
from protocols.errors import FaultyClient, FaultyClientOrServer, Ignored, Malformed, TooFewClients
from protocols.identity import Verify, verify_signature
from protocols.recovery import Opened, Recovered
from protocols.roster import Roster
from protocols.wire import RoundPlan, Step

_ORDER = {step: place for place, step in enumerate(Step)}


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="entry"):
    """One message of one client, in its envelope."""

    step: Step
    client: wire.Id
    message: bytes


class Transcript(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="transcript"):
    """A session's signed messages, in the order in which they were judged."""

    entries: tuple[Entry, ...]


class Recorder:
    """Keeps a session's transcript in memory, uploads included: give it to `conduct` as `record`.

    A caller for whom that is too much writes each entry away, and gives `recompute` the iterator that reads them.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def __call__(self, step: Step, client: int, message: bytes) -> None:
        """Adds one message."""
        self._entries.append(Entry(step, client, message))

    @property
    def transcript(self) -> Transcript:
        """What was recorded so far."""
        return Transcript(tuple(self._entries))


@dataclass(frozen=True)
class Failed:
    """A session without a sum. `blamed` and `disputes` as in `Recovered`; both may be empty: silence is no evidence."""

    reason: str
    blamed: dict[int, str]
    disputes: tuple[tuple[int, int], ...] = ()


def decode(data: bytes, plan: RoundPlan) -> Transcript:
    """The transcript in bytes from anybody. Malformed if they are none of a session of this plan."""
    return wire.decode(Transcript, data, limit(plan))


def limit(plan: RoundPlan) -> int:
    """The most bytes of a transcript: each client's answer in each step, and once a second, different one."""
    answers = (wire.Announcement, wire.Deal, wire.Agreement, wire.Opening)
    one = sum(wire.limit(kind, plan) + envelope.OVERHEAD for kind in answers)
    one += upload.Layout.of(2**32 - 1, [length for _, length in plan.vectors], plan.ring_bits).size
    return 64 + len(plan.cohort) * 2 * (one + 40 * len(Step))


def recompute(
    plan: RoundPlan, roster: Roster, entries: Iterable[Entry], verify: Verify = verify_signature
) -> Recovered | Failed:
    """What the session came to, from its clients' messages alone.

    Malformed if a message is not signed by its client for its step of this plan, or stands out of order: then the
    entries are no transcript and show nothing. ValueError if the plan does not fit the roster. Memory is that of the
    server, whatever the number of entries.
    """
    inbox = server.begin(plan, roster, verify, b"")
    for entry in entries:
        while entry.step is not inbox.step:
            # Order is evidence: an answer moved behind its step's end would make its client one that dropped.
            if _ORDER[entry.step] < _ORDER[inbox.step]:
                raise Malformed(f"a message of step {entry.step.value} after step {inbox.step.value} began")
            after = _closed(inbox)
            if not isinstance(after, Inbox):
                raise Malformed(f"a message of step {entry.step.value} after the session ended")
            inbox = after
        try:
            inbox.receive(entry.client, entry.message)
        except Ignored as error:
            # The server recorded signed messages only: an unsigned one was put in, and everything around it is in
            # doubt.
            raise Malformed(f"not a transcript of this session: {error}") from None
        except (FaultyClient, FaultyClientOrServer):
            continue  # the server met the same, and the inbox remembers whom to blame
    while True:
        after = _closed(inbox)
        if not isinstance(after, Inbox):
            return after
        inbox = after


def _closed(inbox: Inbox) -> Inbox | Recovered | Failed:
    try:
        return inbox.close()
    except (TooFewClients, FaultyClient) as error:
        openings: dict[int, Opened] = inbox.answers if inbox.step is Step.UNMASK else {}
        return Failed(str(error), dict(inbox.blamed), (*inbox.disputes, *recovery.disputes(openings)))
