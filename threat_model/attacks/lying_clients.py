"""A client that lies about its own values: masking hides them, so only the decoded sum can be checked.

What remains is a figure: the longest lie that passes, in clip norms (docs/explanation/lying-clients.md).
"""

import numpy as np

from fgrpo_secure.privacy import encode
from fgrpo_secure.privacy.encode import FloatArray, IntArray, Lattice, SumOutOfBounds
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.world import World

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
)
