"""Values that are not a client's own: it lies about them, or somebody adds to them on their way.

Masks hide every vector, so only the decoded sum can be checked.

What remains is a figure: the longest lie that passes, in clip norms (docs/explanation/lying-clients.md).
"""

import msgspec
import numpy as np

from fgrpo_secure.privacy import encode
from fgrpo_secure.privacy.encode import FloatArray, IntArray, Lattice, SumOutOfBounds
from protocols import envelope, ring, wire
from protocols.errors import ProtocolError
from protocols.wire import Step
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.world import Wire, World

LATTICE = Lattice.build(60, 1.0)
RANGES = ((0.5, 1.0), (-2.0, 2.0))  # of weight and gain
VARIANCE = 400
UPDATE, WEIGHT = 0, LATTICE.dimension


def scaled_update() -> Outcome:
    """Adds a thousand clip norms to one coordinate of the sum."""
    lie = np.zeros(LATTICE.length, np.int64)
    lie[UPDATE] = 1000 * LATTICE.integer_bound
    decoded, honest = _decoded(lie)
    if decoded is None:
        return _refused(UPDATE)
    moved = float(np.linalg.norm(decoded.update_sum - honest))
    limit = 2 * encode.sum_bound(LATTICE, 6, VARIANCE) / LATTICE.scale
    return Outcome(moved > limit, f"one client moved the sum by {moved:.0f} clip norms", {"moved": moved})


def inflated_weight() -> Outcome:
    """Claims the weight of a thousand clients."""
    lie = np.zeros(LATTICE.length, np.int64)
    lie[WEIGHT] = round(1000 * LATTICE.score_radius)
    decoded, _ = _decoded(lie)
    if decoded is None:
        return _refused(WEIGHT)
    weight = decoded.score_sums[0]
    return Outcome(weight > 6 * RANGES[0][1], f"six clients of weight at most 1 weigh {weight:.0f}", {"weight": weight})


def changed_on_the_way() -> Outcome:
    """Adds to a masked upload in transit: masks are additive, so the sum moves by exactly that."""
    at = world.build()
    changed, added = at.ids[2], 12345

    def tamper(step: Step, client: int, up: bool, message: bytes) -> bytes:
        if (step, client, up) != (Step.MASK, changed, True):
            return message
        upload = envelope.unverified(wire.Upload, message)
        _, length = at.plan.vectors[0]
        values = ring.unpack(upload.vectors[0], length, at.plan.ring_bits) + np.uint64(added)
        packed = bytes(ring.pack(ring.reduce(values, at.plan.ring_bits), at.plan.ring_bits))
        body = wire.encode(msgspec.structs.replace(upload, vectors=(packed, *upload.vectors[1:])))
        return wire.encode(wire.Signed(body, message[-64:]))

    truth = np.sum([at.values[client]["update"] for client in at.ids], axis=0)
    try:
        recovered, _ = at.run(Wire(at, tamper=tamper))
    except ProtocolError as failure:
        return Outcome(False, str(failure))
    if changed not in recovered.survivors:
        return Outcome(False, f"client {changed} is left out, and nobody is blamed")
    right = bool(np.array_equal(recovered.totals["update"] - truth, np.full(len(truth), added)))
    return Outcome(right, f"the sum moved by {added} in every coordinate")


def _decoded(lie: IntArray) -> tuple[encode.DecodedSum | None, FloatArray]:
    """What the server makes of an honest session with one liar, or None; and the honest clients' update sum."""
    at = _federation()
    honest = _total(at)
    liar = at.colluder
    at.values[liar] = {"update": lie[:WEIGHT], "scores": lie[WEIGHT:]}
    recovered, _ = at.run()
    total = np.concatenate([recovered.totals["update"], recovered.totals["scores"]])
    survivors = len(recovered.survivors)
    try:
        encode.check_sum(total, LATTICE, survivors, VARIANCE)
    except SumOutOfBounds:
        return None, honest
    return encode.from_ring(total, LATTICE, RANGES, survivors), honest / LATTICE.scale


def _federation() -> World:
    at = world.build(vectors=(("update", LATTICE.dimension), ("scores", LATTICE.scores)))
    for client in at.ids:
        draw = world.invented_values(client, at.plan.vectors, LATTICE.integer_bound)
        length = np.sqrt(sum(float(values @ values) for values in draw.values()))
        shorten = LATTICE.integer_bound / length
        at.values[client] = {name: np.trunc(values * shorten).astype(np.int64) for name, values in draw.items()}
    return at


def _total(at: World) -> FloatArray:
    honest = [at.values[client]["update"] for client in at.ids if client != at.colluder]
    return np.asarray(np.sum(honest, axis=0), np.float64)


def _refused(place: int) -> Outcome:
    """What the server refuses, and the longest lie at the same place that it takes."""
    at = _federation()
    honest = np.sum([np.concatenate(list(at.values[i].values())) for i in at.ids if i != at.colluder], axis=0)
    low, high = 0, 4 * encode.sum_bound(LATTICE, 6, VARIANCE)
    while high - low > 1:
        middle = (low + high) // 2
        lie = honest.copy()
        lie[place] += middle
        try:
            encode.check_sum(lie, LATTICE, 6, VARIANCE)
            low = middle
        except SumOutOfBounds:
            high = middle
    remains = low / LATTICE.integer_bound
    return Outcome(
        False,
        f"the server refused the sum; a lie of {remains:.1f} clip norms would have passed",
        {"longest lie in clip norms": remains},
    )


BOUND = (
    Weakening(
        "fgrpo_secure.privacy.encode",
        "    if not within(total, bound):\n",
        "    if False:\n",
        "the bound on the decoded sum",
    ),
)

ATTACKS = (
    Attack(
        "scaled-update",
        "lying client",
        "one client moves a round by no more than the bound on honest sums",
        BOUND,
        scaled_update,
    ),
    Attack(
        "inflated-weight",
        "lying client",
        "one client's weight is no more than the bound on honest sums",
        BOUND,
        inflated_weight,
    ),
    Attack(
        "upload-changed-on-the-way",
        "network",
        "a sum contains what clients uploaded, and nothing else",
        (
            Weakening(
                "protocols.collect",
                "            session.verify(session.roster.public(client), labels.SIGN_MESSAGE, payload, signature)\n",
                "            pass\n",
                "the server checks the signature of the envelope",
            ),
            Weakening(
                "protocols.collect",
                "            self.verify(self.roster.public(client), label, payload, signature)\n",
                "            pass\n",
                "the server checks the uploader's signature",
            ),
            Weakening(
                "protocols.client",
                "member.verify(member.roster.public(entry.client), labels.SIGN_UPLOAD, payload, entry.signature)",
                "pass",
                "so do the other clients",
            ),
        ),
        changed_on_the_way,
    ),
)
