"""The client's side of the baseline without secure aggregation (`server.plain`): its vector leaves in the clear.

Only where the run's own configuration and the owner's own policy say so. It exists to be compared with.
"""

from fgrpo_secure.privacy.encode import IntArray
from protocols import labels, ring, wire
from protocols.errors import BadSignature, FaultyServer, Malformed
from protocols.identity import Verify
from protocols.wire import RoundPlan, SignedPlan


def open_request(message: bytes, server_key: bytes, verify: Verify) -> RoundPlan:
    """The plan that the server signed. Raises FaultyServer for anything else."""
    try:
        signed = wire.decode(SignedPlan, message, wire.MAX_PLAN)
    except Malformed as problem:
        raise FaultyServer(f"sent a malformed plan: {problem}") from None
    try:
        # Even without masks: a stranger must not have a client train for a plan that its server never made.
        verify(server_key, labels.SIGN_PLAN, wire.encode(signed.plan), signed.signature)
    except BadSignature:
        raise FaultyServer("sent a plan that it did not sign") from None
    return signed.plan


def upload(values: IntArray, plan: RoundPlan) -> bytes:
    """A vector's coordinates, packed at the plan's ring bits, unmasked."""
    return ring.pack(ring.to_ring(values, plan.ring_bits), plan.ring_bits)
