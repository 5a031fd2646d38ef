"""One round at the server, on one page: from uploads to the next adapter.

The server sees sums only. What it does to them is post-processing, so it costs no privacy; the charge is on the
ledger before the round opens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.plan import adaptive_clip, terms
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.plan.terms import Admitted
from fgrpo_secure.privacy import encode
from fgrpo_secure.privacy.encode import FloatArray
from fgrpo_secure.server.optimizer import ServerOptimizer, WeightedMean, denominator_kind, weighted_mean
from protocols import drive, labels, wire
from protocols.collect import Record
from protocols.drive import Link, Traffic
from protocols.identity import Identity, Verify
from protocols.roster import Roster
from protocols.server import Recovered
from protocols.wire import RoundPlan


@dataclass(frozen=True)
class Conclusion:
    """The next vector, and what the round released besides."""

    vector: NDArray[np.float64]
    mean: WeightedMean
    fraction_within: float | None = None  # of survivors, noised: whose update was within an adaptive clip norm


def signed_plan(identity: Identity, plan: RoundPlan) -> bytes:
    """What opens a session, as every client gets it and as the ledger keeps it."""
    return wire.encode(wire.SignedPlan(plan, identity.sign(labels.SIGN_PLAN, wire.encode(plan))))


def collect(
    identity: Identity, plan: RoundPlan, roster: Roster, link: Link, verify: Verify, record: Record | None = None
) -> tuple[Recovered, Traffic]:
    """Run the protocol: the sums over the survivors, or an exception and nothing. `record` takes the transcript."""
    return drive.conduct(identity, plan, roster, link, verify=verify, record=record)


def per_client(update_sum: FloatArray, settings: RoundSettings) -> FloatArray:
    """A sum over clients of one update each: units' vectors arrive added up, and are averaged by a public number."""
    if settings.units is None or settings.units.mode == "local":
        return update_sum
    return update_sum / settings.units.expected


def conclude(
    recovered: Recovered,
    admitted: Admitted,
    vector: NDArray[np.float64],
    factors: str,
    optimizer: ServerOptimizer,
) -> Conclusion:
    """The adapter vector after the round, shape (d,).

    Raises SumOutOfBounds if the sum is larger than what honest survivors and their noise can add up to: a client
    that lied about its clip can waste the round, but not move the model further than that bound.
    """
    settings, lattice = admitted.settings, admitted.lattice
    survivors = len(recovered.survivors)
    total = terms.checked_total(recovered, admitted)
    decoded = encode.from_ring(total, lattice, settings.score_ranges, survivors)
    weight_sum, gain_sum, *bits = decoded.score_sums
    within = adaptive_clip.fraction_within(bits[0], survivors) if bits else None
    kind = denominator_kind(settings.weighting, settings.unit != "none", survivors)
    mean = weighted_mean(
        per_client(decoded.update_sum, settings), weight_sum, gain_sum, survivors, kind, settings.weighting
    )
    del total, decoded  # vectors of the adapter's size, gone before the optimiser makes its own
    return Conclusion(optimizer.step(vector, mean.update, factors), mean, within)
