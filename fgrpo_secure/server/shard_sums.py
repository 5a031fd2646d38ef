"""The sessions of one round, one per shard, added up as they end.

A shard that fails leaves the others as they are: the round goes on with those that ended. What the server learns
from a shard is that shard's sum, with that shard's noise; adding the sums up is post-processing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from protocols import wire
from protocols.drive import Traffic
from protocols.server import Recovered
from protocols.wire import RoundPlan


@dataclass(frozen=True)
class ShardSums:
    """What has ended so far. `charge` is what the round costs the client that it costs most: each is in one shard."""

    totals: Mapping[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)
    survivors: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    blamed: Mapping[int, str] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    charge: Fraction = Fraction(0)
    cohort: int = 0
    ended: Mapping[bytes, tuple[int, ...]] = field(default_factory=dict)  # session -> survivors
    failures: tuple[str, ...] = ()
    seconds_inside: float = 0.0  # processor time that was not the server's

    def plus(self, plan: RoundPlan, recovered: Recovered, traffic: Traffic, charge: Fraction) -> "ShardSums":
        """With the shard of `plan`, which ended and cost each of its clients `charge` (mu squared)."""
        # The first ones as they are: rounds are one shard as a rule, whose sums may be the most that a server holds.
        before = self.totals
        sums = {name: before[name] + total if name in before else total for name, total in recovered.totals.items()}
        return replace(
            self,
            totals=sums,
            survivors=tuple(sorted(self.survivors + recovered.survivors)),
            dropped=tuple(sorted(self.dropped + recovered.dropped)),
            blamed={**self.blamed, **recovered.blamed},
            traffic=_together(self.traffic, traffic),
            charge=max(self.charge, charge),
            cohort=self.cohort + len(plan.cohort),
            ended={**self.ended, wire.session_of(plan): recovered.survivors},
        )

    def without(self, reason: str, charge: Fraction) -> "ShardSums":
        """After a shard failed; `charge` is what it costs all the same: nothing only if no masked vector left."""
        return replace(self, failures=(*self.failures, reason), charge=max(self.charge, charge))

    def after(self, seconds_inside: float) -> "ShardSums":
        """With the time that a shard's session took elsewhere."""
        return replace(self, seconds_inside=self.seconds_inside + seconds_inside)

    def recovered(self) -> Recovered:
        """The sum over all survivors of the shards that ended."""
        return Recovered(dict(self.totals), self.survivors, self.dropped, dict(self.blamed))


def _together(one: Traffic, other: Traffic) -> Traffic:
    """Bytes and counts of both, step by step."""
    both = Traffic()
    for name in ("down", "up", "asked", "answered"):
        sums = getattr(both, name)
        for each in (one, other):
            for step, count in getattr(each, name).items():
                sums[step] = sums.get(step, 0) + count
    return both
