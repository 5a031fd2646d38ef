"""The canary audit: one run of all its releases with many planted units at once, each in by a fair coin of its own.

A shadow run: nothing is trained, and what a unit would have learned is replaced by its canary, an update of the clip
norm. Canaries have disjoint coordinates, so they are orthonormal: none moves another's score. They go through the
product's clip, rounding, sum, noise and ring; the server's view of every release is scored against every canary.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr  # type: ignore[import-untyped]  # scipy ships no types

from fgrpo_secure.entropy import Entropy
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.privacy import discrete_gaussian, encode, noise
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.privacy.encode import EncodedVector, FloatArray, IntArray
from protocols import ring
from threat_model.audit import bounds
from threat_model.audit.bounds import Errors
from threat_model.audit.setting import NothingToAudit, Setting
from threat_model.audit.units import encoded, norm

ALPHA = 0.05  # the chance that code without fault fails an audit, over all its bounds together
MOST = 500
SMALLEST_BLOCK = 2  # coordinates of a canary
LEAST = 20
COORDINATES = 3_000_000_000  # that are encoded in a run, half of them in vain: less canaries where the adapter is large
LOUD = 2.0  # canaries ask for so many clip norms
GRID = 16

BoolArray = NDArray[np.bool_]

ASSUMES = {
    "one_run": "none about the mechanism's form or the canaries' independence",
    "one_run_gaussian_curve": "the trade-off curve is that of a Gaussian, as claimed; canaries may be dependent",
    "gaussian_clopper_pearson": "the trade-off curve is that of a Gaussian, as claimed; canaries are independent",
    "gaussian_fit": "an estimate and no bound: scores are normal, and what was seen is what is expected",
}


def audit(setting: Setting, entropy: Entropy, canaries: int | None = None) -> Audit:
    """Three lower bounds, together wrong with chance `ALPHA`, and an estimate.

    `canaries` defaults to 500, or as many as the dimension has room for. ValueError for less than 20 or too many,
    NothingToAudit where the claim rests on secret sampling: a canary that was not drawn leaves no trace to score.
    """
    if setting.rate is not None:
        raise NothingToAudit(
            "the claim rests on units' secret coins, which canary scores cannot see; use `fgrpo audit mechanism`"
        )
    most = setting.lattice.dimension // SMALLEST_BLOCK
    count = _affordable(setting) if canaries is None else canaries
    if not LEAST <= count <= most:
        raise ValueError(f"canaries is {count}; a dimension of {setting.lattice.dimension} allows {LEAST} to {most}")
    present = np.unpackbits(np.frombuffer(entropy.bytes(-(-count // 8), "in or out"), np.uint8))[:count].astype(bool)
    if not 2 <= int(present.sum()) <= count - 2:  # less than once in 10,000; the fit needs two each
        raise ValueError("the coins put nearly all canaries on one side; run the audit again")
    scores, largest = _scores(setting, present, entropy)
    found, estimate = judge(scores, present, setting.mu, setting.delta)
    return Audit(
        audit="canaries",
        unit=setting.unit,
        view=setting.view,
        claimed_epsilon=setting.epsilon,
        delta=setting.delta,
        alpha=ALPHA,
        trials=count,
        lower_bounds=found,
        estimates={"gaussian_fit": estimate},
        sensitivity=largest,
        sensitivity_bound=setting.lattice.integer_bound,
        assumptions=ASSUMES,
        shared=(*setting.assumptions, "a shadow run: canaries take the place of training"),
    )


def judge(scores: FloatArray, present: BoolArray, mu: float, delta: float) -> tuple[dict[str, float], float]:
    """The lower bounds and the estimate, as epsilons at `delta`, from scores of shape (canaries,).

    `scores` are 0 on average without the canary and 1 with it; `present` says which were in. `mu` is what is claimed:
    with `delta` it fixes how many guesses are made before any score is looked at.
    """
    count, alpha = len(scores), ALPHA / 3
    errors = Errors(
        int(np.sum(scores[~present] > 0.5)),
        int(np.sum(~present)),
        int(np.sum(scores[present] <= 0.5)),
        int(np.sum(present)),
    )

    def any_form(guesses: int, right: int) -> float:
        return bounds.one_run(count, guesses, right, delta, alpha)

    def gaussian_curve(guesses: int, right: int) -> float:
        return bounds.one_run_gaussian_curve(count, guesses, right, alpha)

    found = {
        "one_run": any_form(*_guess(scores, present, guesses_of(count, mu, any_form))),
        "one_run_gaussian_curve": epsilon_of(
            gaussian_curve(*_guess(scores, present, guesses_of(count, mu, gaussian_curve))), delta
        ),
        "gaussian_clopper_pearson": epsilon_of(bounds.gaussian(errors, alpha), delta),
    }
    return found, epsilon_of(bounds.point_estimate(scores[present], scores[~present]), delta)


def guesses_of(count: int, mu: float, bound: Callable[[int, int], float]) -> int:
    """How many of `count` guesses to make so that `bound` of (guesses, expected right ones) is largest.

    Expected of normal scores, 0 or 1 on average with deviation 1 / `mu`, if the most extreme ones are guessed.
    """
    best, most = 0.0, count
    for step in range(GRID):
        beyond = 0.5 + step * 3 / (mu * GRID)
        right, wrong = float(ndtr((1 - beyond) * mu)), float(ndtr(-beyond * mu))
        guesses = max(1, round((right + wrong) * count))
        found = bound(guesses, math.floor(right / (right + wrong) * guesses))
        if found > best:
            best, most = found, guesses
    return most


def _guess(scores: FloatArray, present: BoolArray, guesses: int) -> tuple[int, int]:
    """(guesses, right ones): the highest half of them is said to be in, the lowest half out."""
    order = np.argsort(scores, kind="stable")
    low, high = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return guesses, int(np.sum(present[high]) + np.sum(~present[low]))


def _affordable(setting: Setting) -> int:
    each = setting.releases * setting.lattice.dimension
    return max(LEAST, min(MOST, setting.lattice.dimension // SMALLEST_BLOCK, COORDINATES // each))


def _scores(setting: Setting, present: BoolArray, entropy: Entropy) -> tuple[FloatArray, float]:
    """Every canary's score over the whole run, shape (canaries,), and the largest norm of what one unit changed."""
    lattice, count = setting.lattice, present.size
    block = lattice.dimension // count
    drawn = np.frombuffer(entropy.bytes(block * count, "signs"), np.uint8)
    signs: FloatArray = (1.0 - 2.0 * (drawn & 1).astype(np.float64)).reshape(
        block, count
    )  # column i, at coordinates i, i + count, ...: canary i
    largest_share = discrete_gaussian.largest_sample(setting.share_variance)
    bits = encode.required_ring_bits(lattice, setting.honest + count, largest_share)
    seen, largest = np.zeros(block * count), 0.0
    for release in range(setting.releases):
        session = entropy.child("session", release)
        planted, norms = _planted(setting, signs, present, session)
        total = ring.to_signed(ring.to_ring(planted + _noise(setting, session), bits), bits)
        seen += total[: block * count]
        largest = max(largest, norms)
    whole = setting.releases * lattice.scale * lattice.clip_norm
    return np.sum(seen.reshape(block, count) * signs, axis=0) / math.sqrt(block) / whole, largest


def _planted(setting: Setting, signs: FloatArray, present: BoolArray, session: Entropy) -> tuple[IntArray, float]:
    """The sum of the canaries' integers, shape (d + scores,): of clients of their own, or of units in one client."""
    updates = {str(number): _canary(setting, signs, int(number)) for number in np.flatnonzero(present)}
    rounding = session.child("rounding")
    alone = [encoded(setting, {name: update}, rounding.child(name)) for name, update in updates.items()]
    largest = max(norm(vector) for vector in alone)
    if setting.unit == "client":
        return np.sum(alone, axis=0), largest
    return encoded(setting, updates, rounding), largest


def _canary(setting: Setting, signs: FloatArray, number: int) -> FloatArray:
    block, count = signs.shape
    update = np.zeros(setting.lattice.dimension)
    update[number : block * count : count] = signs[:, number] * (LOUD * setting.lattice.clip_norm / math.sqrt(block))
    return update


def _noise(setting: Setting, session: Entropy) -> IntArray:
    nothing = EncodedVector(np.zeros(setting.lattice.length, np.int64), setting.lattice.integer_bound)
    shares = (
        noise.add_share(nothing, setting.share_variance, session.child("client", client).child("noise")).values
        for client in range(setting.honest)
    )
    return sum(shares, start=nothing.values)
