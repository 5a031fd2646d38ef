"""One shard's session at whoever conducts it: the protocol's steps, up to a sum or the reason why there is none.

    a server alone      conducts a round's sessions itself, one after the other
    several workers     conduct them elsewhere, each its own, and hand back how they ended (`Elsewhere`)

What follows from an end (the sum over all shards, the ledger, who spoiled what) is the federation's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fgrpo_secure.plan import terms
from fgrpo_secure.plan.terms import Admitted
from fgrpo_secure.privacy.encode import SumOutOfBounds
from fgrpo_secure.server.link import CountingLink
from fgrpo_secure.storage.transcript_file import Writer
from protocols.drive import Traffic
from protocols.errors import FaultyClient, TooFewClients
from protocols.server import Recovered


@dataclass(frozen=True)
class SessionEnd:
    """How a session ended. Without `recovered` there is no sum, and `problem` says why. `asked`: its clients may have
    been asked for masked vectors, so that it is paid for. `liar`: one of them showed itself to be one, whoever."""

    recovered: Recovered | None = field(repr=False)
    traffic: Traffic = field(default_factory=Traffic)
    problem: str = ""
    asked: bool = False
    liar: bool = False
    seconds_inside: float = 0.0


@dataclass(frozen=True)
class HandedSession:
    """A session for whoever conducts it elsewhere: `signed` is the server's signed plan."""

    name: bytes
    signed: bytes
    keeps_transcript: bool


class Elsewhere(Protocol):
    """Conducts the sessions of a round in other processes, at the same time."""

    def conduct(self, sessions: Sequence[HandedSession]) -> Iterator[tuple[bytes, SessionEnd]]:
        """Each session's end, by its name, as they come. Whoever conducted one may be lost: then it has no sum, and
        counts as asked for unless it is certain that nobody was, and that nobody will be."""
        ...

    def asked_before(self) -> list[bytes]:
        """The signed plans of sessions that clients may have been asked to pay for, as far as they are remembered."""
        ...

    def spoiled_before(self) -> list[bytes]:
        """Those of sessions that ended with a liar in them, as far as they are remembered."""
        ...

    def knows(self, session: bytes) -> bool:
        """Whether this session is remembered."""
        ...


def conduct(
    collect: Callable[[CountingLink, Writer | None], tuple[Recovered, Traffic]],
    link: CountingLink,
    admitted: Admitted,
    record: Writer | None,
) -> SessionEnd:
    """Run `collect` over `link` to its end. The transcript in `record` is kept if somebody lied after all had paid."""
    try:
        recovered, traffic = collect(link, record)
        terms.checked_total(recovered, admitted)
        end = SessionEnd(recovered, traffic)
    except (TooFewClients, FaultyClient, SumOutOfBounds) as problem:
        end = SessionEnd(None, problem=str(problem), liar=link.asked and _shows_a_liar(problem))
        if end.liar and record is not None:
            record.keep()
    finally:
        if record is not None:
            record.discard()
    return replace(end, asked=link.asked, seconds_inside=link.seconds_inside)


def _shows_a_liar(problem: Exception) -> bool:
    """Whether a session that ended without a sum had a liar in it. Silence shows none: networks fail, too."""
    return not isinstance(problem, TooFewClients) or bool(problem.blamed or problem.disputes)
