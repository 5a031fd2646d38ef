"""The sessions of one round, one per shard, added up as they end.

A shard that fails leaves the others as they are: the round goes on with those that ended. What the server learns
from a shard is that shard's sum, with that shard's noise; adding the sums up is post-processing.
"""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from protocols import wire
from protocols.drive import Traffic
from protocols.server import Recovered
from protocols.wire import RoundPlan


@dataclass
class Gathered:
    """What has ended so far. `charge` is what the round costs the client that it costs most: each is in one shard."""

    totals: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)
    survivors: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    blamed: dict[int, str] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    charge: Fraction = Fraction(0)
    cohort: int = 0
    ended: dict[bytes, tuple[int, ...]] = field(default_factory=dict)  # session -> survivors
    failures: list[str] = field(default_factory=list)
    seconds_inside: float = 0.0

    def add(self, plan: RoundPlan, recovered: Recovered, traffic: Traffic, charge: Fraction) -> None:
        """The shard of `plan` ended, and cost each of its clients `charge` (mu squared)."""
        self.ended[wire.session_of(plan)] = recovered.survivors
        for name, total in recovered.totals.items():
            self.totals[name] = self.totals[name] + total if name in self.totals else total
        self.survivors = tuple(sorted(self.survivors + recovered.survivors))
        self.dropped = tuple(sorted(self.dropped + recovered.dropped))
        self.blamed |= recovered.blamed
        for mine, other in (
            (self.traffic.down, traffic.down),
            (self.traffic.up, traffic.up),
            (self.traffic.asked, traffic.asked),
            (self.traffic.answered, traffic.answered),
        ):
            for step, count in other.items():
                mine[step] = mine.get(step, 0) + count
        self.cohort += len(plan.cohort)
        self.charge = max(self.charge, charge)

    def fail(self, reason: str, charge: Fraction) -> None:
        """A shard failed; `charge` is what it costs all the same: nothing only if no masked vector left anybody."""
        self.failures.append(reason)
        self.charge = max(self.charge, charge)

    def recovered(self) -> Recovered:
        """The sum over all survivors of the shards that ended."""
        return Recovered(self.totals, self.survivors, self.dropped, self.blamed)
