"""What an attack is: an adversary's code, the claim it would break, and the checks that stop it.

One program runs against two copies of the project: ours, and one that differs by the removal of the named checks. It
must fail on the first and succeed on the second, because only the second shows that the first was attacked at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Weakening:
    """The removal of one check. `line` is exact source text that stands once in `module`; it may span several lines."""

    module: str
    line: str
    instead: str
    check: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the adversary got. `succeeded` only if it compared the recovered secret with the truth and they agree.

    `evidence` is one sentence: what was recovered, or what refused. It holds invented secrets of a test world at most.
    """

    succeeded: bool
    evidence: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. `run` takes no argument and draws from fixed seeds, so that both copies meet the same adversary.

    `statistics` states n, the statistic and its pass line, decided before the first run; None if the outcome is exact.
    """

    name: str
    adversary: str
    claim: str
    weakenings: tuple[Weakening, ...]
    run: Callable[[], Outcome]
    statistics: str | None = None
