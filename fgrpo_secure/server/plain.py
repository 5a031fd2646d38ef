"""The baseline without secure aggregation: what a server that is trusted with everything could do at the same budget.

**No secure aggregation.** Every client's clipped, weighted update reaches the server in the clear; the server adds
them up and adds the noise itself. The claim then holds against readers of the released models and nobody else: the
server knows every client's part. It exists to be compared with, never to be used on data that matters.

Clients run the code that they run otherwise, up to the noise and the mask. They keep no ledger: what they would
write down rests on a promise of the server's that they cannot check.
"""

import numpy as np

from fgrpo_secure.entropy import Entropy
from fgrpo_secure.plan.terms import Admitted
from fgrpo_secure.privacy import encode, noise
from fgrpo_secure.privacy.encode import EncodedVector, IntArray
from protocols import labels, ring, wire
from protocols.drive import Link, Traffic
from protocols.errors import TooFewClients
from protocols.identity import Identity
from protocols.server import Recovered
from protocols.wire import RoundPlan, SignedPlan, Step


def collect(
    identity: Identity, plan: RoundPlan, admitted: Admitted, link: Link, source: Entropy
) -> tuple[Recovered, Traffic]:
    """One exchange: the plan to everybody, vectors back; their sum with central noise, of all who answered well.

    Raises TooFewClients below the plan's floor, SumOutOfBounds never: each vector's own bound is checked.
    """
    request = wire.encode(SignedPlan(plan, identity.sign(labels.SIGN_PLAN, wire.encode(plan))))
    total, traffic, blamed = np.zeros(admitted.lattice.length, np.int64), Traffic(), {}
    survivors: set[int] = set()
    received = 0
    for client, data in link.exchange(Step.MASK, dict.fromkeys(plan.cohort, request)):
        received += len(data)
        if client in survivors:
            continue
        try:
            total += _opened(data, plan, admitted)
            survivors.add(client)
        except ValueError as problem:
            blamed[client] = str(problem)
    traffic.down[Step.MASK], traffic.up[Step.MASK] = len(request) * len(plan.cohort), received
    traffic.asked[Step.MASK], traffic.answered[Step.MASK] = len(plan.cohort), len(survivors)
    if len(survivors) < plan.floor:
        raise TooFewClients(Step.MASK.value, len(survivors), plan.floor, blamed)
    noised = _with_noise(total, admitted, source.child("central", plan.session_number))
    size = admitted.lattice.dimension
    dropped = tuple(client for client in plan.cohort if client not in survivors)
    totals = {"update": noised[:size], "scores": noised[size:]}
    return Recovered(totals, tuple(sorted(survivors)), dropped, blamed), traffic


def _opened(data: bytes, plan: RoundPlan, admitted: Admitted) -> IntArray:
    """A client's vector; ValueError for another length, or a norm above the bound that honest clients keep."""
    values = ring.to_signed(ring.unpack(data, admitted.lattice.length, plan.ring_bits), plan.ring_bits)
    if not encode.within(values, admitted.settings.vectors_per_client * admitted.lattice.integer_bound):
        raise ValueError("a vector is longer than its bound")
    return values


def _with_noise(total: IntArray, admitted: Admitted, source: Entropy) -> IntArray:
    """The sum with the whole round's noise, drawn by the exact sampler that clients use for their shares."""
    variance = admitted.settings.upload_variance
    if variance == 0:
        return total
    return noise.add_share(EncodedVector(total, admitted.lattice.integer_bound), variance, source).values
